"""``relay dashboards``: write the dashboard, the alert rules and the configurations into a folder.

Needs no settings and no server. A file that is there and is different may hold a person's own
changes: then nothing at all is written, and only ``--force`` overwrites.
"""

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

    contents = shipped()
    try:
        former = {name: _read(out / name) for name in contents}
        changed = [name for name, content in contents.items() if former[name] != content]
        different = [name for name in changed if former[name] is not None]
        if different and not force:
            named = "\n".join(f"{out / name} is there and is different" for name in different)
            raise RelayError(
                f"{named}\nnothing was written: --force overwrites, or choose another --out"
            )
        out.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            if name in changed:
                (out / name).write_bytes(content)
            typer.echo(f"{'wrote' if name in changed else 'unchanged'} {out / name}")
    except OSError as error:
        raise RelayError(f"{error.filename or out}: {error.strerror or error}") from error


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
