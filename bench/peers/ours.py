"""This relay, judged as its peers are. It takes the path that the stream allows."""

import asyncio
import sys
from collections.abc import Mapping, Sequence

from bench.peers.base import SUBJECT
from bench.peers.homes import disable_triggers
from relay import __version__
from relay.postgres import migrations


class Ours:
    """See bench/peers/workers/ours.py."""

    name = "relay"
    source = "this repository"
    guarantees = "At least once with Nats-Msg-Id, in order per key; one relay leads at a time."
    lacks = "A crash publishes a page again, caught by the stream within its duplicate window."

    def install(self) -> str:
        """Install nothing; its version."""
        return __version__

    def prepare(self, dsn: str) -> None:
        """Bring its schema."""
        asyncio.run(migrations.migrate(dsn, "relay"))

    def unburden(self, dsn: str) -> None:
        """Take its triggers away: the refusal of poison, and the doorbell."""
        disable_triggers(dsn, "relay", "outbox")

    def events_from(self, rows: str) -> str:
        """Return a plain insert."""
        return f"""
            insert into relay.outbox (subject, key, payload)
            select '{SUBJECT}', event.key, event.payload::json from {rows} as event (key, payload)
        """

    def command(self, dsn: str, nats_url: str, stream: str) -> Sequence[str]:
        """Return its command."""
        return [sys.executable, "-m", "bench.peers.workers.ours", dsn, nats_url, stream]

    def environment(self) -> Mapping[str, str]:
        """Return nothing: it takes arguments."""
        return {}
