"""The library's own figures: a sink of facts that answers ``metrics()`` without asking anybody."""

import time
from collections import Counter, deque
from collections.abc import Callable
from typing import TypedDict

from relay.core.breakers import State
from relay.core.outcome import Fault
from relay.facts import (
    BacklogSeen,
    BreakerChanged,
    Fact,
    PageDelivered,
    Parked,
    Retried,
    StandingBy,
    TermBegan,
    TermEnded,
    Unparked,
    Woken,
)
from relay.ports import Backlog, Wake

RATE_OVER = 10.0
"""Seconds over which ``delivery_rate`` is averaged."""

_NOTHING = Backlog(0, 0.0, 0)


class Metrics(TypedDict):
    """What ``Relay.metrics()`` returns. Seconds, events, events/s; seen at most a second ago.

    ``held`` are parked events that an outage of their stream holds up, ``held_lag_seconds`` the age
    of the oldest; ``unverified`` are duplicates whose stored message could not be looked at. A
    standby does not look at what waits: lag, undelivered, parked, dead and held are 0 there.
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
    parked: int
    dead: int
    held: int
    held_lag_seconds: float
    circuit_breaker: str
    bus_breaker: str
    wakes: dict[str, int]


class RelayState:
    """Adds facts up. Call ``record`` with each; ``metrics`` at any time."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        """Begin at zero, on the clock ``now``."""
        self._now = now
        self._leading = False
        self._epoch = 0
        self._backlog = _NOTHING
        self._delivered = self._duplicates = self._unverified = 0
        self._retries = self._refusals = self._collisions = 0
        self._breakers = {"lag": State.CLOSED, "bus": State.CLOSED}
        self._wakes: Counter[Wake] = Counter()
        self._recent: deque[tuple[float, int]] = deque()
        self._recent_sum = 0
        self._since = now()

    def record(self, fact: Fact) -> None:
        """Take note of one fact."""
        match fact:
            case PageDelivered(delivered=events) | Unparked(events=events):
                self._delivered += events
                self._duplicates += fact.duplicates
                self._unverified += fact.unverified
                self._remember(events)
            case BacklogSeen(backlog=backlog):
                self._backlog = backlog
            case BreakerChanged(breaker=breaker, state=state):
                self._breakers[breaker] = state
            case Woken(cause=cause):
                self._wakes[cause] += 1
            case Parked(fault=fault):
                self._refusals += 1
                self._collisions += fault is Fault.COLLISION
            case Retried(events=events):
                self._retries += events
            case TermBegan(epoch=epoch):
                self._leading, self._epoch = True, epoch
            case TermEnded():
                self._leading = False
            case StandingBy():  # what waits is looked at by who leads
                self._backlog = _NOTHING
            case _:
                pass

    def metrics(self) -> Metrics:
        """Return the figures as they stand."""
        now = self._now()
        self._forget(now)
        backlog = self._backlog
        span = min(RATE_OVER, max(now - self._since, 1e-3))
        return {
            "leading": self._leading,
            "epoch": self._epoch,
            "delivery_lag_seconds": backlog.lag,
            "delivery_rate": self._recent_sum / span,
            "undelivered": backlog.undelivered,
            "delivered": self._delivered,
            "duplicates": self._duplicates,
            "unverified": self._unverified,
            "retries": self._retries,
            "refusals": self._refusals,
            "collisions": self._collisions,
            "parked": backlog.parked,
            "dead": backlog.dead,
            "held": backlog.held,
            "held_lag_seconds": backlog.held_lag,
            "circuit_breaker": self._breakers["lag"].value,
            "bus_breaker": self._breakers["bus"].value,
            "wakes": {cause.value: self._wakes[cause] for cause in Wake},
        }

    def _remember(self, delivered: int) -> None:
        now = self._now()
        self._recent.append((now, delivered))
        self._recent_sum += delivered
        self._forget(now)

    def _forget(self, now: float) -> None:
        while self._recent and self._recent[0][0] < now - RATE_OVER:
            self._recent_sum -= self._recent.popleft()[1]
