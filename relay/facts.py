"""What happened, said once, as values. Logs, metrics and tests are sinks of the same facts.

Times are float seconds; counts are of events. A fact never carries a payload or a secret.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from relay.core.backoff import State
from relay.core.checkpoint import Setback
from relay.core.disposition import Parking
from relay.core.event import Event, parent_of
from relay.core.outcome import Fault
from relay.core.storage import OutboxStorage, StreamStorage
from relay.ports import Backlog, Wake


@dataclass(frozen=True, slots=True)
class StandingBy:
    """Another relay leads; this one tries again and again, and forgets an outage of the bus."""

    holder: str


@dataclass(frozen=True, slots=True)
class TermBegan:
    """This relay leads now."""

    holder: str
    epoch: int


@dataclass(frozen=True, slots=True)
class TermEnded:
    """This relay leads no more; ``reason`` is empty after a clean stop."""

    epoch: int
    reason: str


@dataclass(frozen=True, slots=True)
class OutageBegan:
    """One side went away: ``side`` is "postgres" or "nats"."""

    side: str
    reason: str


@dataclass(frozen=True, slots=True)
class OutageChanged:
    """The side is away still, for a reason of another kind."""

    side: str
    reason: str


@dataclass(frozen=True, slots=True)
class OutageEnded:
    """The side answers again, after ``seconds`` and ``attempts`` tries."""

    side: str
    seconds: float
    attempts: int


@dataclass(frozen=True, slots=True)
class BusConnected:
    """The bus took this relay in, for the first time in this term."""


@dataclass(frozen=True, slots=True)
class Retried:
    """Some events of a page got no clear answer and are published again after ``delay`` s."""

    events: int
    reason: str
    attempt: int
    delay: float


@dataclass(frozen=True, slots=True)
class Parked:
    """One event was refused; it is kept in relay.parked.

    Attributes:
        attempts: how often it was refused, this time included.
        delay: s until it is tried again; None if it is dead.
        dead: no further attempt is made by itself.
        fault: what is wrong with it: see ``relay.core.outcome.Fault``.
        trace_id: the producer's trace, if its headers name one.
    """

    id: int
    event_id: str
    subject: str
    key: str | None
    reason: str
    code: int
    attempts: int
    delay: float | None
    dead: bool
    fault: Fault = Fault.EVENT
    trace_id: str | None = None

    @classmethod
    def of(cls, event: Event, parked: Parking, fault: Fault) -> "Parked":
        """Make the fact that ``event`` is parked."""
        parent = parent_of(event.headers)
        return cls(
            event.id,
            event.event_id,
            event.subject,
            event.key,
            parked.error,
            parked.code,
            parked.attempts,
            parked.delay,
            parked.dead,
            fault,
            None if parent is None else parent.trace_id,
        )


@dataclass(frozen=True, slots=True)
class HoldBegan:
    """A stream, or a part of one, takes nothing: its events are set aside and the others flow."""

    by: str
    reason: str


@dataclass(frozen=True, slots=True)
class HoldEnded:
    """A hold is over after ``seconds``; ``reason`` says by what."""

    by: str
    seconds: float
    reason: str = ""


@dataclass(frozen=True, slots=True)
class SetAside:
    """Events went to relay.parked without having been refused: held up, or behind a parked one."""

    events: int


@dataclass(frozen=True, slots=True)
class Unparked:
    """Events left relay.parked, for they are stored now."""

    events: int
    duplicates: int
    unverified: int = 0


@dataclass(frozen=True, slots=True)
class BreakerChanged:
    """A breaker, "lag" or "bus", changed its state; ``reason`` says why."""

    breaker: str
    was: State
    state: State
    reason: str


@dataclass(frozen=True, slots=True)
class PageDelivered:
    """A page is done: every event of it is stored or parked.

    Attributes:
        delivered: events stored, or known to be stored already.
        duplicates: those of them of which the answer said that the stream held them already.
        unverified: duplicates of a producer's key whose stored message could not be looked at.
        seconds: from handing the page to the bus until its last answer.
        oldest_at: when its oldest event was written, by the database's clock.
    """

    delivered: int
    duplicates: int
    unverified: int
    seconds: float
    oldest_at: datetime


@dataclass(frozen=True, slots=True)
class Woken:
    """The relay went to read again after it had slept."""

    cause: Wake


@dataclass(frozen=True, slots=True)
class BacklogSeen:
    """What waited a moment ago."""

    backlog: Backlog


@dataclass(frozen=True, slots=True)
class Pruned:
    """Settled events past their retention were deleted."""

    events: int


@dataclass(frozen=True, slots=True)
class HousekeepingFailed:
    """Pruning or looking at the backlog failed; ``again`` if it did within the last minute."""

    reason: str
    again: bool | None = None


@dataclass(frozen=True, slots=True)
class StreamLost:
    """A stream has lost messages that it had acknowledged.

    Attributes:
        stream: its name.
        repairing: what of it the outbox has is published again.
        seq: up to which the stream still holds what it acknowledged; None if nothing is repaired.
        after_id, up_to_id: what it lost are events of these ids, the first one excluded.
        gone_from, gone_to: those of them that the outbox no longer has; None if it has all.
    """

    stream: str
    repairing: bool = False
    seq: int | None = None
    after_id: int | None = None
    up_to_id: int | None = None
    gone_from: int | None = None
    gone_to: int | None = None

    @classmethod
    def of(cls, setback: Setback) -> "StreamLost":
        """Make the fact that the cursor went back."""
        each = setback
        ids = each.after_id, each.up_to_id, each.gone_from, each.gone_to
        return cls(each.stream, True, each.seq, *ids)

    @property
    def gone(self) -> int:
        """How many ids the outbox no longer has, at most so many events."""
        if self.gone_from is None or self.gone_to is None:
            return 0
        return self.gone_to - self.gone_from + 1


@dataclass(frozen=True, slots=True)
class Repaired:
    """Events of a page that a stream had lost.

    Attributes:
        events: those that were published again.
        remembered: those that JetStream did not store again, for it remembers their message ids.
    """

    events: int
    remembered: int = 0


@dataclass(frozen=True, slots=True)
class RepairEnded:
    """What streams had lost is published again, as far as the outbox has it: ``events``."""

    events: int


# Recorded only while somebody measures: see ``relay.otel``.


@dataclass(frozen=True, slots=True)
class Sent:
    """A batch was handed to the bus, and came back. Not recorded if nothing of it was sent.

    Attributes:
        events: how many were sent.
        counts: the same, by stream ("" if that is not known) and by what came of them: "" stored,
            else refused, held, unknown or outage.
        seconds: what it took.
        waits: for some of those stored, spread over the batch, the stream, and the s from
            created_at (the database's clock) to the answer (this machine's).
        phases: of the first of these, if it came by a page, the s until it was "seen", from there
            until it was "sent", and from there until it was "acknowledged".
    """

    events: int
    counts: Mapping[tuple[str, str], int]
    seconds: float
    waits: Sequence[tuple[str, float]]
    phases: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Asked:
    """The store was asked for something: a method of ``OutboxStore`` or of ``ParkedEvents``.

    Attributes:
        operation: its name.
        seconds: what it took.
        error: the class of the exception that it came to; "" if none.
    """

    operation: str
    seconds: float
    error: str = ""


@dataclass(frozen=True, slots=True)
class Looked:
    """What the events take up, at one of both ends."""

    at: OutboxStorage | Sequence[StreamStorage]


Fact = (
    StandingBy
    | TermBegan
    | TermEnded
    | OutageBegan
    | OutageChanged
    | OutageEnded
    | BusConnected
    | Retried
    | Parked
    | HoldBegan
    | HoldEnded
    | SetAside
    | Unparked
    | BreakerChanged
    | PageDelivered
    | Woken
    | BacklogSeen
    | Pruned
    | HousekeepingFailed
    | StreamLost
    | Repaired
    | RepairEnded
    | Sent
    | Asked
    | Looked
)

FactSink = Callable[[Fact], None]
"""A sink: called at once, from the loop; it must not block."""
