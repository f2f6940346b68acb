"""How long to wait before trying again, and the one book of a side that is away.

Pauses are exponential with full jitter and a cap; chance and time are arguments. Full jitter (any
moment between now and the ceiling) spreads a herd of relays that lost the same server best.
Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.

``ConsecutiveFailures`` gives the pause and the breaker's label of one side, Postgres or NATS:

    there ──failed──► away ──failed──► away ──answered──► there

    the label   closed ──3 failures in a row──► open ──pause over──► half-open ──answered──► closed
                                                  ▲                      │
                                                  └────────failed────────┘
"""

from dataclasses import dataclass
from typing import Final

from relay.core.breakers import State

_MOST_DOUBLINGS: Final = 1023  # 2.0 ** 1024 overflows; a base of 1 us is beyond any cap long before

TRIP_AFTER: Final = 3
"""Failures in a row after which the breaker's label is open."""


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


@dataclass(frozen=True, slots=True)
class Lasted:
    """An outage that is over: how many s it lasted, and how many tries failed."""

    seconds: float
    attempts: int


class ConsecutiveFailures:
    """The book of one side's failures in a row."""

    __slots__ = ("_backoff", "_failures", "_since", "state")

    def __init__(self, *, base: float, cap: float) -> None:
        """Begin with the side there, as far as is known; pauses as in ``Backoff``."""
        self._backoff = Backoff(base=base, cap=cap)
        self._failures = 0
        self._since: float | None = None
        self.state = State.CLOSED

    @property
    def lasts(self) -> bool:
        """Whether the side is away."""
        return self._since is not None

    def failed(self, now: float, jitter: float) -> float:
        """Count a failed try; the seconds to wait before the next one."""
        if self._since is None:
            self._since, self._failures = now, 0
        self._failures += 1
        if self._failures >= TRIP_AFTER or self.state is State.HALF_OPEN:
            self.state = State.OPEN
        return self._backoff.failed(jitter)

    def trying(self) -> None:
        """The pause is over: one try goes through."""
        if self.state is State.OPEN:
            self.state = State.HALF_OPEN

    def answered(self, now: float, *, forget_pauses: bool = True) -> Lasted | None:
        """The side answered; what ended by that, if it was away.

        With ``forget_pauses`` false the next failure's pause is as long as if none had ended: for a
        side that lets us in and then fails.
        """
        if forget_pauses:
            self._backoff.succeeded()
        self.state = State.CLOSED
        if self._since is None:
            return None
        since, self._since = self._since, None
        return Lasted(now - since, self._failures)

    def forget(self) -> None:
        """Another relay asks from now on: whether the side is away is not known here."""
        self._since = None
        self._failures = 0
        self._backoff.succeeded()
        self.state = State.CLOSED
