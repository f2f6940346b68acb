"""The relay that everybody writes first, in its two manners."""

import sys
from collections.abc import Mapping, Sequence

from bench.peers.base import SUBJECT
from bench.peers.homes import execute

TABLE = """
    create table outbox (
        id bigint generated always as identity primary key,
        created_at timestamptz not null default now(),
        subject text not null,
        key text,
        payload text not null
    )
"""


class Loop:
    """See bench/peers/workers/loop.py."""

    source = "fifty lines of Python: bench/peers/workers/loop.py"

    def __init__(self, manner: str, name: str, lacks: str) -> None:
        """``manner`` is "one" or "gathered"."""
        self.name = name
        self.guarantees = "At least once with Nats-Msg-Id; rows are deleted after their PubAcks."
        self.lacks = lacks
        self._manner = manner

    def install(self) -> str:
        """Install nothing; the version of Python."""
        return sys.version.split()[0]

    def prepare(self, dsn: str) -> None:
        """Make its table."""
        execute(dsn, TABLE)

    def unburden(self, dsn: str) -> None:
        """Leave it as it is: there is no trigger."""

    def events_from(self, rows: str) -> str:
        """Return a plain insert."""
        return f"""
            insert into outbox (subject, key, payload)
            select '{SUBJECT}', event.key, event.payload from {rows} as event (key, payload)
        """

    def command(self, dsn: str, nats_url: str, stream: str) -> Sequence[str]:
        """Return its command; it finds the stream by the subject."""
        del stream
        return [sys.executable, "-m", "bench.peers.workers.loop", dsn, nats_url, self._manner]

    def environment(self) -> Mapping[str, str]:
        """Return nothing: it takes arguments."""
        return {}


ONE_BY_ONE = Loop(
    "one",
    "the first loop, one by one",
    "A poll's pause upon every event; any failure ends it, and its page is published again; a late "
    "commit is overtaken by higher ids, and a second instance breaks the order.",
)
GATHERED = Loop(
    "gathered",
    "the first loop, gathered",
    "The same, and when one publish of a page fails, its key's later events are stored already.",
)
