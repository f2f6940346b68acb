"""How long to wait before trying again, and the breakers' states.

Pauses are exponential with full jitter and a cap; chance and time are arguments. Full jitter (any
moment between now and the ceiling) spreads a herd of relays that lost the same server best.
Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.

The lag breaker is an alarm that stops nothing. The bus breaker is the state of the book of NATS's
outages: see ``relay.engine.outage``.

    lag    closed ──older than the limit──► open ──at most half of it──► closed

The lag breaker closes at half its limit, so that a lag about the limit does not ring every second.
A standby does not look at the lag, so it resets the breaker.
"""

import enum
from typing import Final

_MOST_DOUBLINGS: Final = 1023  # 2.0 ** 1024 overflows; a base of 1 us is beyond any cap long before


def delay(attempt: int, *, base: float, cap: float, jitter: float) -> float:
    """Seconds to wait after the failure number ``attempt`` (from 0), in [0, ceiling).

    Args:
        attempt: failures in a row before this one; any size.
        base: the ceiling of the first wait in seconds, at least 1e-6.
        cap: the highest ceiling in seconds.
        jitter: chance in [0, 1), such as ``random.random()``.
    """
    return jitter * min(cap, base * 2.0 ** min(attempt, _MOST_DOUBLINGS))


class Backoff:
    """``delay`` with the count of failures kept: one object for each thing that is retried."""

    __slots__ = ("_base", "_cap", "attempts")

    def __init__(self, *, base: float, cap: float) -> None:
        """Start with no failure seen; ``base`` and ``cap`` are seconds as in ``delay``."""
        self._base = base
        self._cap = cap
        self.attempts = 0

    def failed(self, jitter: float) -> float:
        """Count one more failure; the seconds to wait before the next try."""
        wait = delay(self.attempts, base=self._base, cap=self._cap, jitter=jitter)
        self.attempts += 1
        return wait

    def succeeded(self) -> None:
        """Forget the failures: the next wait starts at ``base`` again."""
        self.attempts = 0


class State(enum.StrEnum):
    """Where a breaker stands."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


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
        """Another relay watches from now on."""
        self.state = State.CLOSED
