"""One side's failures in a row: pause, breaker and facts come from this one book.

    there ──failed──► away ──failed──► away ──answered──► there

    breaker   closed ──3 failures in a row──► open ──pause over──► half-open ──answered──► closed
                                                ▲                      │
                                                └────────failed────────┘

A book lasts for the life of the process, and is kept by whoever asks that side. An outage is
recorded once when it begins and once when it ends, however many tries it takes; and in between when
its reason becomes one of another kind: Postgres is back, but somebody else holds the lease.
"""

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import anyio

from relay.core.backoff import Backoff, State
from relay.errors import StoreBusy, StoreFull
from relay.facts import BreakerChanged, FactSink, OutageBegan, OutageChanged, OutageEnded

PAUSE_FIRST: Final = 0.05
PAUSE_MOST: Final = 0.5
"""Seconds: one relay asking twice a second burdens no server, and is back soon after it is."""

TRIP_AFTER: Final = 3
"""Failures in a row after which the breaker is open."""

SAY_AGAIN: Final = 30.0
"""Seconds before a kind of reason that was recorded in this outage is recorded again."""

_T = TypeVar("_T")


class OutageBook:
    """Keeps the outages of one side: "postgres" or "nats".

    Attributes:
        state: where the breaker stands.
        lasts: whether the side is away.
    """

    def __init__(
        self,
        side: str,
        *,
        jitter: Callable[[], float],
        record: FactSink,
        longest_pause: float = PAUSE_MOST,
        breaker: str = "",
        now: Callable[[], float] = anyio.current_time,
    ) -> None:
        """Begin with the side there; ``breaker`` names the breaker that this book is, if any."""
        self.state = State.CLOSED
        self.lasts = False
        self._side = side
        self._jitter = jitter
        self._record = record
        self._breaker = breaker
        self._now = now
        self._backoff = Backoff(base=PAUSE_FIRST, cap=min(PAUSE_MOST, longest_pause))
        self._failures = 0
        self._waiting = 0
        self._since = 0.0
        self._kind: type[Exception] | None = None
        self._recorded_at: dict[type[Exception], float] = {}

    def failed(self, why: Exception) -> float:
        """Count a failed try; the seconds to wait before the next one."""
        now, reason = self._now(), str(why)
        if not self.lasts:
            self.lasts, self._since, self._failures = True, now, 0
            self._kind, self._recorded_at = type(why), {type(why): now}
            self._record(OutageBegan(self._side, reason))
        elif type(why) is not self._kind and self._is_news(type(why), now):
            self._kind, self._recorded_at[type(why)] = type(why), now
            self._record(OutageChanged(self._side, reason))
        self._failures += 1
        if self._failures >= TRIP_AFTER or self.state is State.HALF_OPEN:
            self._change(State.OPEN, reason)
        return self._backoff.failed(self._jitter())

    def trying(self) -> None:
        """The pause is over: the next try goes through."""
        if self.state is State.OPEN:
            self._change(State.HALF_OPEN, "the pause is over: trying")

    def answered(self, *, forget_pauses: bool = True) -> None:
        """The side answered. Nothing, if it was there.

        With ``forget_pauses`` false the next failure's pause is as long as if none had ended: for a
        side that lets us in and then fails.
        """
        if forget_pauses:
            self._backoff.succeeded()
        if self.lasts:
            self.lasts = False
            self._record(OutageEnded(self._side, self._now() - self._since, self._failures))
        self._change(State.CLOSED, f"{self._side} answers again")

    async def wait_out(
        self, ask: Callable[[], Awaitable[_T]], pause: Callable[[float], Awaitable[None]]
    ) -> _T:
        """Ask until there is room, a lock, a session: a new term would fare no better.

        Several may ask at once: the outage is over once all of them that failed have an answer.

        Raises what ``ask`` raises but StoreBusy and StoreFull, and what ``pause`` raises.
        """
        failed = False
        try:
            while True:
                try:
                    answer = await ask()
                    break
                except (StoreFull, StoreBusy) as why:
                    self._waiting += not failed
                    failed = True
                    await pause(self.failed(why))
        finally:
            self._waiting -= failed
        if failed and not self._waiting:
            self.answered()
        return answer

    def forget(self) -> None:
        """Another relay asks from now on: whether the side is away is not known here."""
        self.lasts = False
        self._backoff.succeeded()
        self._change(State.CLOSED, "another relay leads, and asks the bus")

    def _is_news(self, kind: type[Exception], now: float) -> bool:
        return now >= self._recorded_at.get(kind, float("-inf")) + SAY_AGAIN

    def _change(self, state: State, reason: str) -> None:
        before, self.state = self.state, state
        if self._breaker and state is not before:
            self._record(BreakerChanged(self._breaker, before, state, reason))
