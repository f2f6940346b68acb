"""The relay's seams: what the engine asks of a database, of a broker and of a bell.

Each port states its guarantees first. ``relay.postgres`` and ``relay.jetstream`` keep them for
real servers, ``relay.memory`` for an application's own tests; ``tests/contract/`` holds one suite
a port, which every adapter passes.

What raises what: ``StoreOutage`` and ``BusOutage`` mean "later"; ``TermLost`` means "no longer
you"; ``Misconfigured`` means "a person has to act".
"""

import enum
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from relay.checkpoints import Checkpoints, Reconciling
from relay.core.checkpoint import Tip
from relay.core.disposition import Parking
from relay.core.event import Event
from relay.core.outcome import Outcome
from relay.core.storage import OutboxStorage, StreamStorage

NO_TRANSACTION = 1 << 63
"""A ``Page.xmin`` above every transaction id: nothing can be running."""


@dataclass(frozen=True, slots=True)
class Page:
    """A run of committed events in the order of id, and where the cursor stands behind them.

    Attributes:
        events: at most the asked number of rows and the store's bound in bytes.
        position: opaque; handed back to ``settle``. None if nothing was read and nothing moved.
        full: a bound cut the page short: more is waiting.
        xmin: every transaction below this id had ended when the page was read.
        unreadable: ids of those of ``events`` that could not be decoded, each with the reason.
            Such an event has its id, event_id and key, and nothing to publish.
    """

    events: Sequence[Event]
    position: object | None
    full: bool
    xmin: int = NO_TRANSACTION
    unreadable: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Settlement:
    """What is done, as one change.

    Attributes:
        position: the last done page's: everything up to it is stored or parked. None leaves it.
        parked: events of the pages that go to the parked, or, parked already, were tried again
            and stay. At most one an event.
        unparked: event_ids of parked events that are stored now.
        tips: how far the streams are that have moved: checkpoints are made of them.
        top_id: the highest id of what is done; 0 if the pages had no event.
    """

    position: object | None
    parked: Sequence[Parking] = ()
    unparked: Sequence[str] = ()
    tips: Sequence[Tip] = ()
    top_id: int = 0


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits in the outbox. Cheap to learn: no count over the whole table.

    Attributes:
        undelivered: committed events behind the place that was asked about; an estimate above
            10,000.
        lag: age in s of the oldest event that is not delivered, whoever it waits behind (a parked
            event that is not dead, too), by the database's clock; 0.0 if there is none.
        parked: how many events are parked, the dead among them; not what is replayed (nor in lag).
        dead: how many of them are dead.
        held: how many of them an outage of a stream or subject holds up.
        held_lag: age in s of the oldest of those held; 0.0 if there is none.
        blocking: whether any parked event is not dead, with a key or without, or makes the later
            ones of its key queue. Exact, always: while it is false, nobody looks at the parked.
    """

    undelivered: int
    lag: float
    parked: int
    dead: int = 0
    held: int = 0
    held_lag: float = 0.0
    blocking: bool = False


@dataclass(frozen=True, slots=True)
class Due:
    """A parked event that may be tried now.

    Attributes:
        event: as it was read, but its message id is a new one if a person asked for the retry:
            else the stream might take it for a repeat. If replayed, with ``Relay-Replay``.
        attempts: how often it was refused; 0 if it only waited.
        held_by: the outage that held it up, as ``Held.by``; "" if none did.
        age: s since its first refusal (after a person's retry, since that); 0.0 if there is none.
        unreadable: why the row could not be decoded, or is gone; "" if it could.
        replay: the replay that publishes it again; None if it was never stored.
    """

    event: Event
    attempts: int
    held_by: str = ""
    age: float = 0.0
    unreadable: str = ""
    replay: int | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What the leader says of itself for those who ask for the status.

    Attributes:
        lag_breaker, bus_breaker: where both breakers stand.
        delivered, refused, wakes: since the term began; events, and how often by cause.
    """

    lag_breaker: str
    bus_breaker: str
    delivered: int
    refused: int
    wakes: "Mapping[Wake, int]"


class Wake(enum.StrEnum):
    """Why the relay went to read again after it had slept. START: the wake source itself began."""

    START = "start"
    BELL = "bell"
    POLL = "poll"


class Permit(Protocol):
    """The right to send, looked at before each chunk that is sent (R-TERM)."""

    def granted(self) -> bool:
        """Say whether the last proof of the lease is young enough. Cheap, asks nobody."""

    async def renew(self) -> None:
        """Ask for a new proof; raises TermLost, StoreOutage: there is none, nothing may be sent."""


class OutboxStore(Permit, Protocol):
    """The outbox as the leader of one term sees it. It is the term's ``Permit`` as well.

    Guarantees:
        * ``read`` returns only committed events, each once in a term, and none is ever skipped.
        * Events of one key come in the order of their ids.
        * ``settle`` changes nothing once another term has begun, and says so by ``TermLost``.
        * After a crash the next term reads on behind the last settlement: what was not settled
          comes again, with the same message ids.
    """

    epoch: int
    parked: "ParkedEvents"

    @property
    def checkpoints(self) -> Checkpoints: ...  # noqa: D102 - see there

    async def read(self, limit: int) -> Page:
        """Read the next page behind the one read last, of at most ``limit`` events."""

    async def settle(self, done: Settlement) -> None:
        """Record ``done`` as one change.

        An event that leaves the parked, or dies, lets the next of its key be due at once.

        Raises:
            StoreBusy: something else holds what has to be written; nothing is changed.
            StoreFull: there is no room; nothing is changed.
            TermLost: another term has begun.
        """

    async def look(self, position: object | None) -> Backlog:
        """Look at what waits behind ``position`` (None: behind the settled one). Writes nothing.

        Raises TermLost if another term has begun, which an idle leader learns here.
        """

    async def tend(self, retention: float) -> int:
        """Do one bounded piece of housekeeping; how many events were deleted.

        Deletes settled events whose settlement is older than ``retention`` s and to which nothing
        parked refers, and lets parked events be due that a person's change has freed.
        """

    async def report(self, report: Report) -> None:
        """Leave word of the leader for who asks for the status."""

    async def streams(self) -> Mapping[str, Collection[str]]:
        """Return every stream that was ever learnt, with every subject filter it ever had."""

    async def keep_streams(self, streams: Mapping[str, Collection[str]]) -> None:
        """Remember ``streams`` beyond this process. What was remembered before stays."""

    async def watch(self) -> None:
        """Keep the term's lease alive until cancelled.

        Raises TermLost, StoreOutage: the lease, or a session of the term, is lost.
        """

    async def close(self) -> None:
        """End the term and let the next one begin at once. Never raises, never waits long."""


class ParkedEvents(Protocol):
    """The parked events as the leader sees them; ``OutboxStore.settle`` changes them.

    Guarantees:
        * An event is due only if no earlier event of its key is parked that is not due as well
          (a dead one does not count, unless dead events block their keys).
        * What a settlement has changed is seen by the next call.
        * Among those that may be tried, the ones that wait longest for their try come first.
    """

    async def blocked(self, keys: Collection[str]) -> set[str]:
        """Return those of ``keys`` whose next event has to queue behind a parked one."""

    async def due(self, limit: int, *, without: Collection[str] = ()) -> Sequence[Due]:
        """Return at most ``limit`` events that may be tried now, in the order of id.

        Events held up by one of ``without`` (see ``Held.by``) are left out, and with them those of
        their keys.
        """


class Outbox(Protocol):
    """Where terms come from. At most one ``OutboxStore`` at a time can settle."""

    async def campaign(self, holder: str) -> OutboxStore | None:
        """Try once to begin a term under the name ``holder``; None while another one leads.

        Raises StoreOutage: the database is away, or a standby; LeaseTaken: somebody who is no relay
        holds the lock; SchemaError: the schema is missing, or not as this relay requires.
        """

    async def released(self, seconds: float) -> None:
        """Wait until a leader that ends says so, for at most ``seconds``."""

    async def storage(self) -> OutboxStorage | None:
        """Look at what the outbox takes up; None if there is nothing to be seen.

        Raises StoreOutage, SchemaError: it can't be seen now.
        """

    async def close(self) -> None:
        """Stop standing by, and let go of every session. Never raises."""


class EventBus(Protocol):
    """The broker.

    Guarantees:
        * ``Stored`` is said only of an event that the broker acknowledged (R-LOSS).
        * Per key, an event is stored only if every earlier event of that key in the same call was
          stored; those behind another outcome are Unknown. Calls must not overlap.
        * A stream or subject that takes nothing is ``Held`` for its own events, within one call's
          time-out; other streams' events are not held up by it. It reports only what is so now:
          when to ask again is the engine's decision, told by ``closed``.
        * A message id that the stream remembers is not stored again.
        * Nothing is sent unless ``permit`` is granted at that moment.

    Attributes:
        paths: how each stream met so far is published to, for people.
        server: host and port of the server that the newest connection is, or was, to.
        sole_hold: the name of the hold that would hold up every event, as with one stream
            configured: its events wait in hand. None if events go apart.
        duplicate_window: the shortest in s of the streams met so far; None if none is known.
        reconciling: compares the streams with the checkpoints, see ``relay.checkpoints``.
    """

    @property
    def reconciling(self) -> Reconciling: ...  # noqa: D102 - above
    @property
    def paths(self) -> Mapping[str, str]: ...  # noqa: D102 - above
    @property
    def server(self) -> tuple[str, int] | None: ...  # noqa: D102
    @property
    def sole_hold(self) -> str | None: ...  # noqa: D102
    @property
    def duplicate_window(self) -> float | None: ...  # noqa: D102

    async def connect(self) -> None:
        """Connect unless connected. ``publish`` does it too; this moves the cost to the start.

        Raises:
            BusOutage: the broker is away or refuses the connection.
            StreamError: the configured stream is missing or can't be made.
            StreamBehind: a stream has lost messages that it had acknowledged.
        """

    async def publish(
        self, events: Sequence[Event], permit: Permit, *, closed: Collection[str] = ()
    ) -> Sequence[Outcome]:
        """Publish in order; one outcome an event, in the order of ``events``.

        Events of which the bus knows that one of ``closed`` (see ``Held.by``) holds them up are
        ``Held`` by it at once, without a byte to the server. All others are sent.

        Raises: BusOutage, each event is to be published again; TermLost, StoreOutage, ``permit``
        could not be renewed; StreamBehind, as ``connect``.
        """

    def recall(self, streams: Mapping[str, Collection[str]]) -> None:
        """Take in the streams, with every filter they ever had, that an earlier process learnt."""

    def learnt(self) -> Mapping[str, Collection[str]]:
        """Return the streams and filters learnt since this was asked last; empty if none."""

    async def storage(self) -> Sequence[StreamStorage]:
        """Look at what the streams met so far hold; those that can't be seen now are left out."""

    async def close(self) -> None:
        """Drop the connection at once, flushing nothing. Never raises. ``connect`` may follow."""


class WakeSource(Protocol):
    """Something that rings when events commit.

    Guarantees:
        * Between ``arm`` returning N and ``disarm``, every commit by a transaction with an id of N
          or above makes ``wait`` return. One below N may be silent: it has ended, and its events
          are visible, once a read says ``Page.xmin >= N``.
        * A ring during a read is kept for the ``wait`` that follows.
        * Nothing else depends on it: without a working source ``wait`` still ends by its timeout.
    """

    async def arm(self) -> int | None:
        """Ask committers to ring; return N (the same while armed), None if only polling is left."""

    async def wait(self, timeout: float) -> Wake:  # noqa: ASYNC109 - a poll interval, not a deadline
        """Sleep until rung, or for ``timeout`` s (``Wake.POLL``); after ``START`` arm again."""

    @property
    def ring_seconds(self) -> float | None:
        """How long a ring holds up whoever rings; None if that is not known, or far too long."""

    def disarm(self) -> None:
        """Let committers be silent again. Returns at once; the work goes on behind it."""

    async def run(self) -> None:
        """Keep the source working until cancelled; it mends itself and raises no outage."""
