"""``relay dashboards``: write the dashboard, the alert rules and the configurations into a folder.

Needs no settings and no server. A file that is there and is different may hold somebody's own
changes: then nothing at all is written, and ``--force`` is the person's to give.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from relay.errors import RelayError


def dashboards(
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder to write to; made if missing.")
    ],
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite files that are different.")
    ] = False,
) -> None:
    """Write the Grafana dashboard, Prometheus alerts and scraping, and a Collector's configuration.

    Files that are there already and the same stay as they are.
    """
    from relay.dashboards import shipped

    try:
        for name, written in write(shipped(), out, force=force).items():
            typer.echo(f"{'wrote' if written else 'unchanged'} {out / name}")
    except OSError as error:
        raise RelayError(f"{error.filename or out}: {error.strerror or error}") from error


def write(contents: Mapping[str, bytes], folder: Path, *, force: bool) -> dict[str, bool]:
    """Write what differs from what is there; return whether each file was written.

    Raises:
        RelayError: files would be overwritten that are different, and that is not wanted.
        OSError: the folder or a file can't be read or written.
    """
    there = {name: _read(folder / name) for name in contents}
    odd = [name for name, content in contents.items() if there[name] not in (None, content)]
    if odd and not force:
        named = "\n".join(f"{folder / name} is there and is different" for name in odd)
        raise RelayError(
            f"{named}\nnothing was written: --force overwrites, or choose another --out"
        )
    folder.mkdir(parents=True, exist_ok=True)
    changed = {name: content for name, content in contents.items() if there[name] != content}
    for name, content in changed.items():
        (folder / name).write_bytes(content)
    return {name: name in changed for name in contents}


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
