"""Where peers live, each with its own packages, and the little SQL that adapters share.

    .venv-peers/<name>/      a virtual environment, or a folder with node_modules
    .venv-peers/<name>/made  the requirements it was made from; written last

A home is made once and used from then on; other requirements make it anew. Everything comes from
the registry that pip and npm are set up for.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from bench.peers.base import UnavailableError

WORKERS = Path(__file__).parent / "workers"
_HOMES = Path(__file__).parents[2] / ".venv-peers"
_TIMEOUT = 600.0


class PythonHome:
    """A virtual environment with pinned packages of PyPI."""

    def __init__(self, name: str, *requirements: str) -> None:
        """``requirements`` are pinned; the first is the peer itself, whose version is told."""
        self._folder = _HOMES / name
        self._requirements = requirements

    @property
    def installed(self) -> bool:
        """Whether it is made, from the requirements of today."""
        return _made_from(self._folder) == list(self._requirements)

    def install(self) -> str:
        """Make it unless that was done; the peer's version.

        Raises:
            UnavailableError: pip could not; says what it said.
        """
        if not self.installed:
            _make_way(self._folder)
            _run([sys.executable, "-m", "venv", str(self._folder)], "no virtual environment")
            pip = [
                self.program("python"),
                "-m",
                "pip",
                "--disable-pip-version-check",
                "install",
                "--quiet",
            ]
            _run([*pip, *self._requirements], "pip could not install it")
            _note(self._folder, self._requirements)
        return self._requirements[0].split("==")[1]

    def command(self, worker: str, *arguments: str) -> Sequence[str]:
        """Return the command that runs ``workers/<worker>`` in it."""
        # -P: the worker's folder is no place to import from, its name may be the package's.
        return [self.program("python"), "-P", str(WORKERS / worker), *arguments]

    def program(self, name: str) -> str:
        """Return the path of a program in it."""
        return str(self._folder / "bin" / name)


class NodeHome:
    """A folder with pinned packages of npm."""

    def __init__(self, name: str, *requirements: str) -> None:
        """``requirements`` are pinned; the first is the peer itself, whose version is told."""
        self._folder = _HOMES / name
        self._requirements = requirements

    @property
    def installed(self) -> bool:
        """Whether it is made, from the requirements of today, and can run."""
        made = _made_from(self._folder) == list(self._requirements)
        return made and shutil.which("node") is not None

    @property
    def variables(self) -> Mapping[str, str]:
        """What node needs in its environment to find the packages."""
        return {"NODE_PATH": str(self._folder / "node_modules")}

    def install(self) -> str:
        """Make it unless that was done; the peer's version.

        Raises:
            UnavailableError: there is no node or npm, or npm could not; says what to do.
        """
        if not self.installed:
            missing = [program for program in ("node", "npm") if shutil.which(program) is None]
            if missing:
                raise UnavailableError(
                    f"{' and '.join(missing)} not on the PATH: install Debian's nodejs and npm"
                )
            _make_way(self._folder)
            self._folder.mkdir(parents=True)
            npm = ["npm", "install", "--no-audit", "--no-fund", "--loglevel=error"]
            where = ["--prefix", str(self._folder)]
            _run([*npm, *where, *self._requirements], "npm could not install it")
            _note(self._folder, self._requirements)
        return self._requirements[0].rpartition("@")[2]

    def command(self, worker: str, *arguments: str) -> Sequence[str]:
        """Return the command that runs ``workers/<worker>`` with it."""
        return ["node", str(WORKERS / worker), *arguments]


def printed(command: Sequence[str], variables: Mapping[str, str] | None = None) -> str:
    """Return what a worker prints: the peer's own schema."""
    answer = _run(command, "it could not print its schema", variables)
    return answer.stdout


def execute(dsn: str, *statements: str) -> None:
    """Run statements one by one, each committed by itself."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def disable_triggers(dsn: str, *table: str) -> None:
    """Take all triggers but constraints from a table, whose name is given in its parts."""
    statement = sql.SQL("alter table {} disable trigger user").format(sql.Identifier(*table))
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(statement)


def url_of(dsn: str, scheme: str = "postgresql") -> str:
    """Return a DSN as a URL, which drivers without libpq want."""
    parts = conninfo_to_dict(dsn)
    return f"{scheme}://{parts['user']}@{parts['host']}:{parts['port']}/{parts['dbname']}"


def _made_from(folder: Path) -> list[str]:
    stamp = folder / "made"
    return stamp.read_text().splitlines() if stamp.exists() else []


def _make_way(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def _note(folder: Path, requirements: Sequence[str]) -> None:
    (folder / "made").write_text("\n".join(requirements) + "\n")


def _run(
    command: Sequence[str], failure: str, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **(variables or {})}
    try:
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True, timeout=_TIMEOUT
        )
    except subprocess.CalledProcessError as error:
        raise UnavailableError(f"{failure}: {error.stderr.strip()[-500:]}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"{failure}: {error}") from error
