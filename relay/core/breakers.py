"""The breakers' states, and the lag breaker: an alarm that stops nothing.

    lag    closed ──older than the limit──► open ──at most half of it──► closed

It closes at half its limit, so that a lag about the limit does not ring every second. A standby
does not look at the lag, so it resets the breaker. The bus breaker is the state of the book of
NATS: see ``relay.engine.outage``.
"""

import enum


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
