"""What the relay is compared with, as the scenarios see it: one adapter a peer, judged outside.

    scenario ──install, prepare──► its tables in a fresh database
             ──command───────────► its own process, in its own environment ──► the stream
             ──events_from───────► what a producer writes

A peer is never asked how it does: the stream says what was stored, and when.

Every event is one JSON text with its number, as ``payload`` builds it. A peer may wrap it, quote it
or write its JSON anew; ``number_of`` finds the number all the same.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Protocol

SUBJECT = "orders.placed"
"""The one subject of all events; the stream captures ``orders.>``."""

READY = "ready"
"""The line a peer's process prints when it has begun to wait for events or to take them."""

_NUMBER = re.compile(rb"event_number\D{0,8}(\d+)")


class UnavailableError(Exception):
    """A peer can't be installed or run here; the text says why. Reported, never hidden."""


class Peer(Protocol):
    """One way of getting events from Postgres to JetStream, in its fastest documented settings.

    Attributes:
        name: as its users call it, with the mode where it has several.
        source: where it comes from, e.g. "PyPI: pgqueuer".
        guarantees: one sentence for the report: what it promises.
        lacks: one sentence for the report: what it does not.
    """

    name: str
    source: str
    guarantees: str
    lacks: str

    def install(self) -> str:
        """Install it from its registry unless that was done; its version.

        Raises:
            UnavailableError: it can't be had here.
        """
        ...

    def prepare(self, dsn: str) -> None:
        """Make its tables, and whatever it needs in the database, in the empty database ``dsn``."""
        ...

    def unburden(self, dsn: str) -> None:
        """Take away what its tables cost a producer beyond the row: triggers, and nothing else."""
        ...

    def events_from(self, rows: str) -> str:
        """Return the SQL statement by which a producer writes events.

        ``rows`` is a parenthesised query of two text columns, key and payload, for use as
        ``from {rows} as event (key, payload)``. One event or a million: the same statement.
        """
        ...

    def command(self, dsn: str, nats_url: str, stream: str) -> Sequence[str]:
        """Return the command that delivers until SIGTERM, awaiting every PubAck.

        It prints ``READY`` on a line of its own on standard output, flushed.
        """
        ...

    def environment(self) -> Mapping[str, str]:
        """Return what to add to the environment of ``command``."""
        ...


def payload(number: str, size: int = 256) -> str:
    """Return an SQL expression for the payload of event ``number``, itself an SQL expression.

    The text has ``size`` bytes, give or take the digits of the number.
    """
    head, tail = '{"event_number": ', ', "filler": "'
    filler = max(0, size - len(head) - len(tail) - 7 - 2)
    return f"""'{head}' || {number} || '{tail}' || repeat('x', {filler}) || '"}}'"""


def number_of(message: bytes) -> int:
    """Return the number of the event that ``message`` carries."""
    found = _NUMBER.search(message)
    if found is None:
        raise ValueError(f"a message without an event's number: {message[:80]!r}")
    return int(found[1])
