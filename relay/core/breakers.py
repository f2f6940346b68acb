"""Two circuit breakers, as decisions: when they open and close. Who acts on it is the engine.

    bus    closed ──3 outages in a row──► open ──pause over──► half-open ──success──► closed
                                            ▲                      │
                                            └──────outage──────────┘

    lag    closed ──older than the limit──► open ──at most half of it──► closed

The bus breaker stops publishing while the broker is away and lets single tries through, its pauses
growing. The lag breaker stops nothing: it is an alarm. It closes at half its limit, so that a lag
about the limit does not ring every second. Both close when another relay leads, which watches then.
"""

import enum
from dataclasses import dataclass
from typing import Final

TRIP_AFTER: Final = 3
"""Outages in a row after which the bus breaker opens."""


class State(enum.StrEnum):
    """Where a breaker stands."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class Heard(enum.Enum):
    """What moves the bus breaker."""

    SUCCESS = "success"
    OUTAGE = "outage"
    TRIPPED = "the last of too many outages"
    PAUSE_OVER = "pause over"
    NOT_OURS = "another relay leads, and asks the broker"


NEXT: Final[dict[tuple[State, Heard], State]] = {
    (State.CLOSED, Heard.SUCCESS): State.CLOSED,
    (State.CLOSED, Heard.OUTAGE): State.CLOSED,
    (State.CLOSED, Heard.TRIPPED): State.OPEN,
    (State.OPEN, Heard.PAUSE_OVER): State.HALF_OPEN,
    (State.HALF_OPEN, Heard.SUCCESS): State.CLOSED,
    (State.HALF_OPEN, Heard.OUTAGE): State.OPEN,
    (State.HALF_OPEN, Heard.TRIPPED): State.OPEN,
    (State.CLOSED, Heard.NOT_OURS): State.CLOSED,
    (State.OPEN, Heard.NOT_OURS): State.CLOSED,
    (State.HALF_OPEN, Heard.NOT_OURS): State.CLOSED,
}
"""The whole of the bus breaker; a pair that is not here can't happen."""


class BusBreaker:
    """Counts outages in a row and keeps the state."""

    __slots__ = ("_outages", "state")

    def __init__(self) -> None:
        """Begin closed."""
        self.state = State.CLOSED
        self._outages = 0

    def succeeded(self) -> None:
        """The broker answered."""
        self._outages = 0
        self.state = NEXT[self.state, Heard.SUCCESS]

    def failed(self) -> None:
        """The broker was away."""
        self._outages += 1
        tripped = self._outages >= TRIP_AFTER
        self.state = NEXT[self.state, Heard.TRIPPED if tripped else Heard.OUTAGE]

    def pause_over(self) -> None:
        """The pause after a failure has passed: let one try through."""
        if self.state is State.OPEN:
            self.state = NEXT[self.state, Heard.PAUSE_OVER]

    def forget(self) -> None:
        """Somebody else asks the broker from now on."""
        self._outages = 0
        self.state = NEXT[self.state, Heard.NOT_OURS]


class LagBreaker:
    """Watches the age of the oldest undelivered event."""

    __slots__ = ("_limit", "state")

    def __init__(self, limit: float) -> None:
        """Open above ``limit`` s."""
        self._limit = limit
        self.state = State.CLOSED

    def saw(self, lag: float) -> None:
        """Look at ``lag`` s."""
        if lag > self._limit:
            self.state = State.OPEN
        elif lag <= self._limit / 2:
            self.state = State.CLOSED

    def forget(self) -> None:
        """Somebody else watches from now on."""
        self.state = State.CLOSED


@dataclass(frozen=True, slots=True)
class Breakers:
    """Where both stand, for who asks."""

    lag: State
    bus: State
