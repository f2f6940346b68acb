"""The relay as a peer among peers: what is asked of them is asked of it, by the same code."""

import asyncio
from collections.abc import Mapping, Sequence

import psycopg

from bench.peers.base import SUBJECT
from bench.processes import python
from relay import __version__
from relay.postgres import migrations

BARE = """
    alter table relay.outbox
      alter column xid set default pg_current_xact_id(),
      alter column subject type text,
      alter column key type text,
      alter column idempotency_key type text,
      alter column payload type json,
      alter column payload_bytes type bytea,
      alter column headers type jsonb,
      drop constraint outbox_one_of_payload_and_payload_bytes_is_given
"""


class Ours:
    """This relay, with its bell or by its poll alone."""

    source = "this repository"
    guarantees = "nothing lost, nothing phantom, order per key, no second copy in the dedup window"
    lacks = "one relay delivers at a time; the others stand by"

    def __init__(self, *, notify: bool = True) -> None:
        """With ``notify`` off the outbox has no doorbell, and the relay polls every 100 ms."""
        self._notify = notify
        self.name = "this relay" if notify else "this relay, poll only"

    def install(self) -> str:
        """Be here already."""
        return __version__

    def prepare(self, dsn: str) -> None:
        """Migrate."""
        asyncio.run(migrations.migrate(dsn, "relay", notify=self._notify))

    def unburden(self, dsn: str) -> None:
        """Take the rules and the doorbell away: poison gets in, and nobody is woken."""
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("drop view relay.pending")  # it depends on the columns
            connection.execute(BARE)

    def events_from(self, rows: str) -> str:
        """Return the INSERT."""
        return (
            f"insert into relay.outbox (subject, key, payload) select '{SUBJECT}', event.key,"
            f" event.payload::json from {rows} as event (key, payload)"
        )

    def command(self, dsn: str, nats_url: str, stream: str) -> Sequence[str]:
        """Return the command of the measured relay."""
        switch = [] if self._notify else ["--no-notify"]
        return [*python("bench.subject", dsn, nats_url, stream), *switch]

    def environment(self) -> Mapping[str, str]:
        """Add nothing."""
        return {}
