"""The relay's seams: what the engine asks of a database, of a broker and of a doorbell.

Each port states its guarantees first. ``relay.postgres`` and ``relay.jetstream`` keep them for
real servers, ``relay.memory`` for an application's own tests; ``tests/contract/`` holds one suite
a port, which every adapter passes.

What raises what: ``StoreOutage`` and ``BusOutage`` mean "later"; ``TermLost`` means "no longer
you"; ``Misconfigured`` means "a person has to act".
"""

import enum
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from relay.core.breakers import Breakers
from relay.core.event import Event
from relay.core.outcome import Outcome
from relay.core.parking import Parking


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
    """What is done, as one change.

    Attributes:
        position: the last done page's position: everything up to it is stored or parked. None
            leaves the cursor where it is.
        delivered: how many events were stored since the settlement before.
        parked: events of the pages that go to the parked, or, parked already, were tried again
            and stay. At most one an event.
        unparked: ids of parked events that are stored now.
        wakes: how often each cause woke the relay since the settlement before.
    """

    position: object | None
    delivered: int
    parked: Sequence[Parking] = ()
    unparked: Sequence[int] = ()
    wakes: "dict[Wake, int] | None" = None


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits in the outbox. Cheap to learn: no count over the whole table.

    Attributes:
        undelivered: committed events that are not settled; an estimate above ``exact_up_to``.
        lag: age in seconds of the oldest of them, and of those held up by an outage, by the
            database's clock; 0.0 if there is none.
        parked: how many events are parked, the dead among them.
        dead: how many of them are dead.
        blocking: whether any of them makes the later events of its key queue. Exact, always.
    """

    undelivered: int
    lag: float
    parked: int
    dead: int = 0
    blocking: bool = False


@dataclass(frozen=True, slots=True)
class Due:
    """A parked event that may be tried now.

    Attributes:
        event: as it was read, but its message id is a new one if a person asked for the retry:
            else the stream might take it for a repeat.
        attempts: how often it was refused; 0 if it only waited.
        held_by: the outage that held it up, as ``Held.by``; "" if none did.
    """

    event: Event
    attempts: int
    held_by: str = ""


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
    parked: "ParkedEvents"

    async def read(self, limit: int) -> Page:
        """Read the next page behind the one read last, of at most ``limit`` events."""
        ...

    async def settle(self, done: Settlement) -> None:
        """Record ``done`` as one change.

        An event that leaves the parked, or dies, lets the next of its key be due at once.
        """
        ...

    async def prune(self, retention: float) -> int:
        """Delete one bounded chunk of settled events older than ``retention`` s; how many went."""
        ...

    async def backlog(self, breakers: Breakers | None = None) -> Backlog:
        """Look at what waits, and leave word of ``breakers`` for who asks for the status.

        Raises:
            TermLost: another term has begun, which an idle leader learns here.
        """
        ...

    async def close(self) -> None:
        """End the term and let the next one begin at once. Never raises, never waits long."""
        ...


class ParkedEvents(Protocol):
    """The parked events as the leader sees them; ``OutboxStore.settle`` changes them.

    Guarantees:
        * An event is due only if no earlier event of its key is parked that is not due as well
          (a dead one does not count, unless dead events block their keys).
        * What a settlement has changed is seen by the next call.
    """

    async def blocked(self, keys: Collection[str]) -> set[str]:
        """Return those of ``keys`` whose next event has to queue behind a parked one."""
        ...

    async def due(self, limit: int, *, without: Collection[str] = ()) -> Sequence[Due]:
        """Return at most ``limit`` events that may be tried now, in the order of id.

        Events held up by one of ``without`` (see ``Held.by``) are left out, and with them those of
        their keys.
        """
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
          stored; those behind another outcome are Unknown. Calls must not overlap.
        * A stream that takes nothing is ``Held`` for its events, within one call's time-out; the
          events of other streams are not held up by it.
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
