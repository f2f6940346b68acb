"""One side's outage, told once when it begins and once when it ends, however many tries it takes.

The book itself is ``relay.core.backoff.Outage``; here its changes become facts. One object a side
for the life of the process: whoever asks that side says how it went.
"""

from collections.abc import Callable

import anyio

from relay.core.backoff import ConsecutiveFailures
from relay.core.breakers import State
from relay.facts import BreakerChanged, FactSink, OutageBegan, OutageEnded

PAUSE_FIRST = 0.05
PAUSE_MOST = 0.5
"""Seconds: one relay asking twice a second burdens no server, and is back soon after it is."""


class OutageBook:
    """Keeps the outages of one side: "postgres" or "nats"."""

    def __init__(
        self,
        side: str,
        *,
        jitter: Callable[[], float],
        record: FactSink,
        longest_pause: float = PAUSE_MOST,
        breaker: str = "",
    ) -> None:
        """Begin with the side there; ``breaker`` names the breaker whose label this book is."""
        self._side = side
        self._jitter = jitter
        self._record = record
        self._breaker = breaker
        self._outage = ConsecutiveFailures(base=PAUSE_FIRST, cap=min(PAUSE_MOST, longest_pause))

    @property
    def lasts(self) -> bool:
        """Whether the side is away."""
        return self._outage.lasts

    @property
    def state(self) -> State:
        """Where the breaker stands."""
        return self._outage.state

    def failed(self, reason: str) -> float:
        """Count a failed try; the seconds to wait before the next one."""
        began, before = not self._outage.lasts, self._outage.state
        pause = self._outage.failed(anyio.current_time(), self._jitter())
        if began:
            self._record(OutageBegan(self._side, reason))
        self._changed(before, reason)
        return pause

    def trying(self) -> None:
        """The pause is over: the next try goes through."""
        before = self._outage.state
        self._outage.trying()
        self._changed(before, "the pause is over: trying")

    def answered(self, *, forget_pauses: bool = True) -> None:
        """The side answered. Nothing, if it was there."""
        before = self._outage.state
        lasted = self._outage.answered(anyio.current_time(), forget_pauses=forget_pauses)
        if lasted is not None:
            self._record(OutageEnded(self._side, lasted.seconds, lasted.attempts))
        self._changed(before, f"{self._side} answers again")

    def forget(self) -> None:
        """Another relay asks from now on."""
        before = self._outage.state
        self._outage.forget()
        self._changed(before, "another relay leads, and asks the bus")

    def _changed(self, before: State, reason: str) -> None:
        if self._breaker and self._outage.state is not before:
            self._record(BreakerChanged(self._breaker, before, self._outage.state, reason))
