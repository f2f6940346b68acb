"""How much may be asked for: requests in turn, and budgets by address. Pure, on a clock given.

    every request   waits for its turn       200 a second, however many connections ask
    pages, metrics  have a budget            then 429, and the connection is closed
    probes          have none                their turn comes within half a second at the latest

Probes are answered whoever else asks; what is dear is refused to whoever asks too often, and to
one address before the others.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

_MOST_ADDRESSES: Final = 1_000


class Turns:
    """Hands out turns at a bounded rate, in the order of asking."""

    def __init__(
        self, rate: float, at_once: int, now: Callable[[], float] = time.monotonic
    ) -> None:
        """Hand out ``rate`` turns a second, and ``at_once`` at once after a rest."""
        self._every = 1.0 / rate
        self._saved = (at_once - 1) * self._every
        self._now = now
        self._next = now() - self._saved

    def take(self) -> float:
        """Take the next turn; the seconds until it comes."""
        now = self._now()
        turn = max(self._next, now - self._saved)
        self._next = turn + self._every
        return max(0.0, turn - now)


@dataclass(frozen=True, slots=True)
class Allowance:
    """What may be asked for: ``rate`` a second, and ``at_once`` after a rest."""

    rate: float
    at_once: float


class Budget:
    """One allowance for all, and a smaller one for each address."""

    def __init__(
        self, of_all: Allowance, of_each: Allowance, now: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin with everything saved up."""
        self._of_all = of_all
        self._of_each = of_each
        self._now = now
        self._all = (of_all.at_once, now())
        self._each: dict[str, tuple[float, float]] = {}

    def spend(self, address: str) -> bool:
        """Take one request off; False if there is nothing left for this address, or at all."""
        now = self._now()
        mine = self._each.pop(address, (self._of_each.at_once, now))
        left_for_each = _left(mine, self._of_each, now)
        left_for_all = _left(self._all, self._of_all, now)
        granted = left_for_each >= 1 and left_for_all >= 1
        self._each[address] = (left_for_each - granted, now)
        self._all = (left_for_all - granted, now)
        if len(self._each) > _MOST_ADDRESSES:
            del self._each[next(iter(self._each))]
        return granted


def _left(saved: tuple[float, float], allowance: Allowance, now: float) -> float:
    left, at = saved
    return min(allowance.at_once, left + (now - at) * allowance.rate)
