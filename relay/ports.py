"""The relay's seams: what the engine asks of a database, of a broker and of a doorbell.

Each port states its guarantees first. ``relay.postgres`` and ``relay.jetstream`` keep them for
real servers, ``relay.memory`` for an application's own tests; ``tests/contract/`` holds one suite
a port, which every adapter passes.

What raises what: ``StoreOutage`` and ``BusOutage`` mean "later"; ``TermLost`` means "no longer
you"; ``Misconfigured`` means "a person has to act".
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from relay.core.event import Event
from relay.core.outcome import Outcome, Refused


@dataclass(frozen=True, slots=True)
class Page:
    """A run of committed events in the order of id, and where the cursor stands behind them.

    Attributes:
        events: at most the asked number of rows and the store's bound in bytes.
        position: opaque; handed back to ``settle``. None if nothing was read and nothing moved.
        full: a bound cut the page short: more is waiting.
    """

    events: Sequence[Event]
    position: object | None
    full: bool


@dataclass(frozen=True, slots=True)
class Settlement:
    """What is done: everything up to ``position``, but for the parked.

    Attributes:
        position: the last done page's position.
        delivered: how many events were stored since the settlement before.
        parked: the refused ones among them, with the reason.
        wakes: how often each cause woke the relay since the settlement before.
    """

    position: object
    delivered: int
    parked: Sequence[tuple[Event, Refused]] = ()
    wakes: "dict[Wake, int] | None" = None


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits in the outbox. Cheap to learn: no count over the whole table.

    Attributes:
        undelivered: committed events that are not settled; an estimate above ``exact_up_to``.
        lag: age in seconds of the oldest of them by the database's clock; 0.0 if there is none.
        parked: how many events are parked.
    """

    undelivered: int
    lag: float
    parked: int


class Wake(enum.StrEnum):
    """Why the relay went to read again after it had slept. START: the wake source itself began."""

    START = "start"
    BELL = "bell"
    GRANT = "grant"
    POLL = "poll"


class OutboxStore(Protocol):
    """The outbox as the leader of one term sees it.

    Guarantees:
        * ``read`` returns only committed events, each once in a term, and none is ever skipped.
        * Events of one key come in the order of their ids.
        * ``settle`` changes nothing once another term has begun, and says so by ``TermLost``.
        * After a crash the next term reads on behind the last settlement: what was not settled
          comes again, with the same message ids.
    """

    epoch: int

    async def read(self, limit: int) -> Page:
        """Read the next page behind the one read last, of at most ``limit`` events."""
        ...

    async def settle(self, done: Settlement) -> None:
        """Record that everything up to ``done.position`` is stored or parked, as one change."""
        ...

    async def prune(self, retention: float) -> int:
        """Delete one bounded chunk of settled events older than ``retention`` s; how many went."""
        ...

    async def backlog(self) -> Backlog:
        """Look at what waits.

        Raises:
            TermLost: another term has begun, which an idle leader learns here.
        """
        ...

    async def close(self) -> None:
        """End the term and let the next one begin at once. Never raises, never waits long."""
        ...


class Outbox(Protocol):
    """Where terms come from. At most one ``OutboxStore`` at a time can settle."""

    async def campaign(self, holder: str) -> OutboxStore | None:
        """Try once to begin a term under the name ``holder``; None while another one leads.

        Raises:
            StoreOutage: the database is away, or is a standby.
            SchemaError: the schema is missing, or not the one this relay knows.
        """
        ...

    async def close(self) -> None:
        """Stop standing by. A term that has begun is not touched. Never raises."""
        ...


class EventBus(Protocol):
    """The broker.

    Guarantees:
        * ``Stored`` is said only of an event that the broker acknowledged.
        * Per key, an event is stored only if every earlier event of that key in the same call was
          stored or refused; calls must not overlap.
        * A message id that the stream remembers is not stored again.
    """

    async def connect(self) -> None:
        """Connect unless connected. ``publish`` does it too; this moves the cost to the start.

        Raises:
            BusOutage: the broker is away or refuses the connection.
            StreamError: the configured stream is missing or can't be made.
        """
        ...

    async def publish(self, events: Sequence[Event]) -> Sequence[Outcome]:
        """Publish in order; one outcome an event, in the order of ``events``.

        Raises:
            BusOutage: the connection is gone: each event is to be published again.
        """
        ...

    async def close(self) -> None:
        """Drop the connection at once, flushing nothing. Never raises. ``connect`` may follow."""
        ...


class WakeSource(Protocol):
    """Something that rings when events commit.

    Guarantees:
        * Between ``arm`` returning True and ``disarm``, a commit that a read started after
          ``arm`` did not see makes ``wait`` return. The order is therefore: arm, read, wait.
        * A ring during the read is kept for the ``wait`` that follows.
        * Nothing else depends on it: without a working source ``wait`` still ends by its timeout.
    """

    async def arm(self) -> bool:
        """Ask committers to ring; False if they can't reach us now and only the timeout is left."""
        ...

    async def wait(self, timeout: float) -> Wake:  # noqa: ASYNC109 - a poll interval, not a deadline
        """Sleep until rung, granted, or for ``timeout`` s (``Wake.POLL``).

        After any other cause than the poll the source counts as disarmed: disarm and arm again.
        """
        ...

    def disarm(self) -> None:
        """Let committers be silent again. Returns at once; the work goes on behind it."""
        ...

    async def run(self) -> None:
        """Keep the source working until cancelled; it mends itself and raises no outage."""
        ...
