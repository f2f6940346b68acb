"""What is so now: the one sink that adds the relay's facts up, read without asking anybody.

    role    starting ──► leader ⇄ between terms ⇄ standby          any ──stop──► stopping

``Relay.metrics()``, the gauges of ``relay.otel``, the probes and the page read the same values.
Facts are recorded on the loop, and gauges are read by another thread: a mapping or a tuple in here
is replaced as a whole and never changed.
"""

import enum
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypedDict

from relay.core.backoff import State
from relay.core.outcome import Fault
from relay.core.storage import OutboxStorage, StreamStorage
from relay.facts import (
    BacklogSeen,
    BreakerChanged,
    BusConnected,
    Fact,
    HoldBegan,
    HoldEnded,
    HousekeepingFailed,
    Looked,
    OutageBegan,
    OutageChanged,
    OutageEnded,
    PageDelivered,
    Parked,
    Repaired,
    RepairEnded,
    Retried,
    StandingBy,
    StreamLost,
    TermBegan,
    TermEnded,
    Unparked,
    Woken,
)
from relay.ports import Backlog, Wake

RATE_OVER: Final = 10.0
"""Seconds over which ``delivery_rate`` is averaged."""

BLIND_AFTER: Final = 30.0
"""Seconds of failing looks after which what was seen last is too old to be ready with."""

_NO_BACKLOG: Final = Backlog(0, 0.0, 0)


class Role(enum.StrEnum):
    """What this relay is at present."""

    STARTING = "starting"
    LEADER = "leader"
    STANDBY = "standby"
    BETWEEN = "between terms"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True)
class Ongoing:
    """An outage, a hold or failing housekeeping; it began at ``since``, on the monotonic clock."""

    since: float
    reason: str


class Metrics(TypedDict):
    """What ``Relay.metrics()`` returns. Seconds, events, events/s; seen at most a second ago.

    ``held`` are parked events that an outage of their stream holds up, ``held_lag_seconds`` the age
    of the oldest; ``unverified`` are duplicates whose stored message could not be looked at;
    ``repaired`` were published again, for a stream had lost them, ``lost`` counts ids that a
    stream lost and the outbox no longer has. A standby does not look at what waits: lag,
    undelivered, parked, dead and held are 0 there.
    """

    leading: bool
    epoch: int
    delivery_lag_seconds: float
    delivery_rate: float
    undelivered: int
    delivered: int
    duplicates: int
    unverified: int
    retries: int
    refusals: int
    collisions: int
    repaired: int
    lost: int
    parked: int
    dead: int
    held: int
    held_lag_seconds: float
    circuit_breaker: str
    bus_breaker: str
    wakes: dict[str, int]


class RelayState:
    """Adds facts up. Call ``record`` with each, on the loop; read the attributes at any time.

    Attributes:
        role: STOPPING from ``stop`` on, while ``leading`` goes on until the term has ended.
        holder: the name under which this relay stands for election; "" before the first try.
        epoch: of this relay's term, or of its last one; 0 before the first.
        connected: the bus took this relay in, in this term.
        backlog: as a leader saw it last; zeros on a standby, which does not look.
        backlog_is_current: ``backlog`` was seen in the present term.
        outbox, streams: what the events take up, as far as somebody measures it.
        breakers: of "lag" and "bus".
        outages: those under way, by "postgres" and "nats".
        holds: streams, or parts of one, that take nothing, by name.
        repairs: streams whose lost events are published again, by name.
        housekeeping: it fails, since when and why, until a look at the backlog succeeds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        """Begin at zero, on the clock ``now``."""
        self._now = now
        self.role = Role.STARTING
        self.leading = False
        self.holder = ""
        self.epoch = 0
        self.connected = False
        self.backlog = _NO_BACKLOG
        self.backlog_is_current = False
        self.outbox: OutboxStorage | None = None
        self.streams: tuple[StreamStorage, ...] = ()
        self.breakers: Mapping[str, State] = {"lag": State.CLOSED, "bus": State.CLOSED}
        self.outages: Mapping[str, Ongoing] = {}
        self.holds: Mapping[str, Ongoing] = {}
        self.repairs: Mapping[str, Ongoing] = {}
        self.housekeeping: Ongoing | None = None
        self._delivered = self._duplicates = self._unverified = 0
        self._retries = self._refusals = self._collisions = self._repaired = self._lost = 0
        self._wakes: Counter[Wake] = Counter()
        self._recent: deque[tuple[float, int]] = deque()
        self._recent_sum = 0
        self._since = now()

    @property
    def looks_fail(self) -> bool:
        """Whether no look at the backlog has succeeded for ``BLIND_AFTER`` s: it is an outage."""
        failing = self.housekeeping
        return failing is not None and self._now() - failing.since >= BLIND_AFTER

    def stop(self) -> None:
        """Take note that the relay is to stop."""
        self.role = Role.STOPPING

    def record(self, fact: Fact) -> None:
        """Take note of one fact."""
        match fact:
            case PageDelivered(delivered=events) | Unparked(events=events):
                self._delivered += events
                self._duplicates += fact.duplicates
                self._unverified += fact.unverified
                self._remember(events)
            case BacklogSeen(backlog=backlog):
                self.backlog, self.backlog_is_current = backlog, True
                self.housekeeping = None
            case Woken(cause=cause):
                self._wakes[cause] += 1
            case Parked(fault=fault):
                self._refusals += 1
                self._collisions += fault is Fault.COLLISION
            case Retried(events=events):
                self._retries += events
            case Looked(at=OutboxStorage() as outbox):
                self.outbox = outbox if self.leading else None
            case Looked(at=streams) if not isinstance(streams, OutboxStorage):
                self.streams = tuple(streams) if self.leading else ()
            case TermBegan() | StandingBy() | TermEnded():
                self._record_term(fact)
            case _:
                self._record_fault(fact)

    def metrics(self) -> Metrics:
        """Return the figures as they stand."""
        now = self._now()
        self._forget(now)
        backlog = self.backlog
        span = min(RATE_OVER, max(now - self._since, 1e-3))
        return {
            "leading": self.leading,
            "epoch": self.epoch,
            "delivery_lag_seconds": backlog.lag,
            "delivery_rate": self._recent_sum / span,
            "undelivered": backlog.undelivered,
            "delivered": self._delivered,
            "duplicates": self._duplicates,
            "unverified": self._unverified,
            "retries": self._retries,
            "refusals": self._refusals,
            "collisions": self._collisions,
            "repaired": self._repaired,
            "lost": self._lost,
            "parked": backlog.parked,
            "dead": backlog.dead,
            "held": backlog.held,
            "held_lag_seconds": backlog.held_lag,
            "circuit_breaker": self.breakers["lag"].value,
            "bus_breaker": self.breakers["bus"].value,
            "wakes": {cause.value: self._wakes[cause] for cause in Wake},
        }

    def _record_term(self, fact: TermBegan | StandingBy | TermEnded) -> None:
        match fact:
            case TermBegan(holder=holder, epoch=epoch):
                self.leading, self.holder, self.epoch = True, holder, epoch
                role = Role.LEADER
            case StandingBy(holder=holder):
                self.holder, self.backlog, self.repairs = holder, _NO_BACKLOG, {}
                self.outages = _without(self.outages, "nats")  # the leader asks NATS now
                role = Role.STANDBY
            case TermEnded():
                self.leading = self.connected = self.backlog_is_current = False
                self.outbox, self.streams, self.holds, self.housekeeping = None, (), {}, None
                role = Role.BETWEEN
        if self.role is not Role.STOPPING:
            self.role = role

    def _record_fault(self, fact: Fact) -> None:
        match fact:
            case BusConnected():
                self.connected = True
            case BreakerChanged(breaker=breaker, state=state):
                self.breakers = {**self.breakers, breaker: state}
            case OutageBegan(side=side, reason=reason):
                self.outages = {**self.outages, side: Ongoing(self._now(), reason)}
            case OutageChanged(side=side, reason=reason):
                before = self.outages.get(side)
                since = before.since if before else self._now()
                self.outages = {**self.outages, side: Ongoing(since, reason)}
            case OutageEnded(side=side):
                self.outages = _without(self.outages, side)
            case HoldBegan(by=by, reason=reason):
                self.holds = {**self.holds, by: Ongoing(self._now(), reason)}
            case HoldEnded(by=by):
                self.holds = _without(self.holds, by)
            case HousekeepingFailed(reason=reason):
                since = self.housekeeping.since if self.housekeeping else self._now()
                self.housekeeping = Ongoing(since, reason)
            case _:
                self._record_repair(fact)

    def _record_repair(self, fact: Fact) -> None:
        match fact:
            case StreamLost(stream=stream, repairing=repairing) as found:
                self._lost += found.gone
                if repairing:
                    self.repairs = {**self.repairs, stream: Ongoing(self._now(), "")}
            case Repaired(events=events):
                self._repaired += events
            case RepairEnded():
                self.repairs = {}
            case _:
                pass

    def _remember(self, delivered: int) -> None:
        now = self._now()
        self._recent.append((now, delivered))
        self._recent_sum += delivered
        self._forget(now)

    def _forget(self, now: float) -> None:
        while self._recent and self._recent[0][0] < now - RATE_OVER:
            self._recent_sum -= self._recent.popleft()[1]


def _without(ongoing: Mapping[str, Ongoing], name: str) -> Mapping[str, Ongoing]:
    return {other: each for other, each in ongoing.items() if other != name}
