"""A throw-away Postgres that begins as a copy of a running one and follows it until promoted.

primary ──pg_basebackup──► standby ◄──its WAL, streamed── primary
                              └──promote()──► primary
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from psycopg.conninfo import make_conninfo

from relay.devstack import Postgres
from relay.devstack.sandbox import Sandbox, wait_until
from relay.devstack.servers import running


class Standby(Postgres):
    """A cluster with the password of its primary."""

    def __init__(self, primary: Postgres, sandbox: Sandbox, settings: Mapping[str, str]) -> None:
        self._primary = primary
        super().__init__(primary.installation, sandbox, settings)

    def promote(self) -> None:
        """Make it a primary, and wait until it accepts writes."""
        self._run("was not promoted", "pg_ctl", "-D", str(self._data), "promote")
        assert wait_until(lambda: self._says(self.pid, "ready"), time.monotonic() + 60)

    def _make_data(self) -> None:
        self.password = self._primary.password
        dsn = make_conninfo(host="127.0.0.1", port=self._primary.port, user="postgres")
        self._run(
            "could not be copied",
            "pg_basebackup", "-D", str(self._data), "-d", dsn, "--write-recovery-conf",
            "--checkpoint=fast", "--no-sync", PGPASSWORD=self.password,
        )  # fmt: skip


@contextmanager
def standby(primary: Postgres, settings: Mapping[str, str] | None = None) -> Iterator[Standby]:
    """Run a streaming standby for the length of the block.

    ``primary`` may be a standby itself, and end any time later. Some of ``settings`` must not be
    lower than the primary's; ``{"fsync": "off"}`` if None.
    """
    wanted = {"fsync": "off"} if settings is None else settings
    with Sandbox("standby") as sandbox:
        server = Standby(primary, sandbox, wanted)
        with running(server):
            yield server
