"""The floor of latency: what a wake-up, one read, one publish and its PubAck take, and no more."""

import sys
from collections.abc import Mapping, Sequence

from bench.peers.base import SUBJECT
from bench.peers.homes import disable_triggers, execute

_TABLE = """
    create table floor (
        id bigint generated always as identity primary key,
        subject text not null,
        payload text not null
    )
"""
_FUNCTION = """
    create function floor_notify() returns trigger language plpgsql as $$
    begin
        perform pg_notify('floor', new.id::text);
        return null;
    end $$
"""
_TRIGGER = """
    create trigger notify after insert on floor for each row execute function floor_notify()
"""


class Floor:
    """No relay: it never looks at what it missed, and marks nothing."""

    name = "the floor"
    source = "thirty lines of Python: bench/peers/workers/floor.py"
    guarantees = "Nothing: it shows what the servers and the clients take by themselves."
    lacks = "It loses what is written while it is away, and never ends a row."

    def install(self) -> str:
        """Install nothing; the version of Python."""
        return sys.version.split()[0]

    def prepare(self, dsn: str) -> None:
        """Make its table and its trigger."""
        execute(dsn, _TABLE, _FUNCTION, _TRIGGER)

    def unburden(self, dsn: str) -> None:
        """Take its NOTIFY trigger away."""
        disable_triggers(dsn, "floor")

    def events_from(self, rows: str) -> str:
        """Return a plain insert."""
        return f"""
            insert into floor (subject, payload)
            select '{SUBJECT}', event.payload from {rows} as event (key, payload)
        """

    def command(self, dsn: str, nats_url: str, stream: str) -> Sequence[str]:
        """Return its command; it finds the stream by the subject."""
        del stream
        return [sys.executable, "-m", "bench.peers.workers.floor", dsn, nats_url]

    def environment(self) -> Mapping[str, str]:
        """Return nothing: it takes arguments."""
        return {}


FLOOR = Floor()
