"""How long to wait before trying again.

Pauses are exponential with full jitter and a cap; chance and time are arguments. Full jitter (any
moment between now and the ceiling) spreads a herd of relays that lost the same server best.
Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
"""

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
