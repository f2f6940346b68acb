"""The relay as a peer among peers: what is asked of them is asked of it, by the same code."""

import asyncio
from collections.abc import Mapping, Sequence

import psycopg

from bench.peers.base import SUBJECT
from bench.processes import python
from relay import __version__
from relay.postgres import migrations

BELL_ALONE = "alter table relay.outbox drop constraint outbox_publishable"
BARE = f"{BELL_ALONE}; drop trigger relay_notify on relay.outbox"


class Ours:
    """This relay, with its bell or by its poll alone."""

    source = "this repository"
    guarantees = "nothing lost, nothing phantom, order per key, no second copy in the dedup window"
    lacks = "one relay delivers at a time; the others stand by"

    def __init__(self, *, notify: bool = True) -> None:
        """With ``notify`` off the trigger is disabled, and the relay polls every 100 ms."""
        self._notify = notify
        self.name = "this relay" if notify else "this relay, poll only"

    def install(self) -> str:
        """Be here already."""
        return __version__

    def prepare(self, dsn: str) -> None:
        """Migrate."""
        asyncio.run(migrations.migrate(dsn, "relay", notify=self._notify))

    def unburden(self, dsn: str, *, bell: bool = False) -> None:
        """Take the rules away, and the trigger unless ``bell`` is to stay: poison gets in."""
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(BELL_ALONE if bell else BARE)

    def events_from(self, rows: str) -> str:
        """Return the INSERT."""
        return (
            f"insert into relay.outbox (subject, key, payload) select '{SUBJECT}', event.key,"
            f" event.payload::json from {rows} as event (key, payload)"
        )

    def command(self, dsn: str, nats_url: str, stream: str) -> Sequence[str]:
        """Return the command of the measured relay."""
        return python("bench.subject", dsn, nats_url, stream)

    def environment(self) -> Mapping[str, str]:
        """Add nothing."""
        return {}
