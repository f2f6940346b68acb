"""Throw-away clusters that begin as a copy of another one, and come to stand in its place.

primary ──pg_basebackup──► standby ◄──its WAL, streamed── primary
                              └──promote()──► primary
server ──pg_basebackup──► restored, up to a point in time ──► primary
server ──pg_upgrade──► another major version
"""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import psycopg
from psycopg.conninfo import make_conninfo

from relay.devstack import Installation, Postgres
from relay.devstack.sandbox import Sandbox, wait_until
from relay.devstack.servers import running

SETTINGS = {"fsync": "off"}


class _Copy(Postgres):
    """A cluster with the password of the one it is made of."""

    def __init__(
        self,
        origin: Postgres,
        sandbox: Sandbox,
        settings: Mapping[str, str],
        *,
        installation: Installation | None = None,
        port: int = 0,
        via: int = 0,
    ) -> None:
        self._origin = origin
        self._via = via or origin.port
        super().__init__(installation or origin.installation, sandbox, settings)
        self.port = port

    def _base_backup(self, *switches: str) -> None:
        self.password = self._origin.password
        dsn = make_conninfo(host="127.0.0.1", port=self._via, user="postgres")
        self._run(
            "could not be copied",
            "pg_basebackup", "-D", str(self._data), "-d", dsn, "--checkpoint=fast", "--no-sync",
            *switches, PGPASSWORD=self.password,
        )  # fmt: skip


class Standby(_Copy):
    """It follows its origin until it is promoted."""

    def promote(self) -> None:
        """Make it a primary, and wait until it accepts writes."""
        self._run("was not promoted", "pg_ctl", "-D", str(self._data), "promote")
        assert wait_until(lambda: self._says(self.pid, "ready"), time.monotonic() + 60)

    def _make_data(self) -> None:
        self._base_backup("--write-recovery-conf")


class Restored(_Copy):
    """A base backup that goes on, at its origin's port, where its origin's WAL was at ``up_to``."""

    up_to = ""

    def start(self) -> None:
        """Replay what the origin has left, and take writes."""
        wal, signal = self._origin._data / "pg_wal", self._data / "recovery.signal"
        signal.touch()
        if self._identity.user is not None:
            os.chown(signal, self._identity.user, -1)
        self._settings |= {
            "restore_command": f"cp {wal}/%f %p",
            "recovery_target_lsn": self.up_to,
            "recovery_target_action": "promote",
        }
        super().start()
        assert wait_until(self._takes_writes, time.monotonic() + 60)

    def _make_data(self) -> None:
        self._base_backup()

    def _takes_writes(self) -> bool:
        with psycopg.connect(self.dsn) as look:
            return look.execute("select pg_is_in_recovery()").fetchone() == (False,)


class Upgraded(_Copy):
    """What pg_upgrade makes of its origin, which is stopped, with a newer installation."""

    def _make_data(self) -> None:
        self.password = self._origin.password
        super()._make_data()
        old = self._origin._identity.bin_dir, self._origin._data
        if self.major > 17:
            self._run("keeps checksums", "pg_checksums", "--disable", "-D", str(self._data))
        self._run(
            "could not be upgraded",
            "pg_upgrade", "-U", "postgres", "-b", str(old[0]), "-B", str(self._identity.bin_dir),
            "-d", str(old[1]), "-D", str(self._data), "-s", str(self._data), "--no-sync",
            PGPASSWORD=self.password,
        )  # fmt: skip


@contextmanager
def standby(
    primary: Postgres, settings: Mapping[str, str] | None = None, *, via: int = 0, port: int = 0
) -> Iterator[Standby]:
    """Run a streaming standby for the length of the block.

    ``primary`` may be a standby itself, and end any time later. Some of ``settings`` must not be
    lower than the primary's; ``{"fsync": "off"}`` if None. The WAL comes by the port ``via``, if
    that is not the primary's own; ``port`` is the standby's, any if 0.
    """
    with Sandbox("standby") as sandbox:
        server = Standby(primary, sandbox, settings or SETTINGS, port=port, via=via)
        with running(server):
            yield server


@contextmanager
def restored(origin: Postgres, settings: Mapping[str, str]) -> Iterator[Restored]:
    """Take a base backup now; ``start`` it once ``origin`` has ended."""
    with Sandbox("restored") as sandbox:
        server = Restored(origin, sandbox, settings, port=origin.port)
        try:
            yield server
        finally:
            server.discard()


@contextmanager
def upgraded(
    origin: Postgres, installation: Installation, settings: Mapping[str, str]
) -> Iterator[Upgraded]:
    """Run what pg_upgrade makes of ``origin`` for the length of the block."""
    with Sandbox("upgraded") as sandbox:
        server = Upgraded(origin, sandbox, settings, installation=installation)
        with running(server):
            yield server
