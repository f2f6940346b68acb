"""Outages of single streams, or of parts of one: which last, and when each may be tried again.

    began ──pause──► tried ──still held──► a longer pause ──► tried ... ──stored──► ended

Known by name only (``Held.by``). Nothing here is kept over a term: a new one tries at once. Time
and chance are arguments; times are monotonic seconds.
"""

from relay.core.backoff import Backoff

RETRY_FIRST = 0.1
RETRY_MOST = 0.5
"""s: the stream's own adapter answers for it without a question, so that asking is cheap."""


PATIENCE = 1.0
"""s for which events wait for a stream that takes nothing, before they are set aside: a new leader
is elected faster than that, as a rule, and setting aside writes every event once more."""


class _Hold:
    __slots__ = ("aside", "backoff", "began", "closed_until")

    def __init__(self, began: float) -> None:
        self.began = began
        self.backoff = Backoff(base=RETRY_FIRST, cap=RETRY_MOST)
        self.closed_until = began
        self.aside = False


class Holds:
    """The book of holds. Its size is that of the set of names, which is small."""

    def __init__(self) -> None:
        """Begin with none."""
        self._holds: dict[str, _Hold] = {}

    def began(self, by: str, now: float) -> bool:
        """Write ``by`` down; True if it is new."""
        if by in self._holds:
            return False
        self._holds[by] = _Hold(now)
        return True

    def still(self, by: str, now: float, jitter: float) -> float:
        """Note that a try was held again; the pause in s before the next one."""
        hold = self._holds[by]
        pause = hold.backoff.failed(jitter)
        hold.closed_until = now + pause
        return pause

    def set_aside(self, by: str) -> None:
        """Note that events held by it are parked: it ends when those are gone."""
        self._holds[by].aside = True

    def ended(self, by: str, now: float) -> float | None:
        """Strike ``by`` out; how long it lasted in s, None if it was not known."""
        hold = self._holds.pop(by, None)
        return None if hold is None else now - hold.began

    def lasting(self, now: float) -> set[str]:
        """Name those that last longer than patience does."""
        return {by for by, hold in self._holds.items() if now - hold.began >= PATIENCE}

    def closed(self, now: float) -> list[str]:
        """Name those that may not be tried yet."""
        return [by for by, hold in self._holds.items() if hold.closed_until > now]

    def open(self, now: float) -> list[str]:
        """Name those with parked events that may be tried."""
        return [by for by, hold in self._holds.items() if hold.aside and hold.closed_until <= now]

    def in_hand(self) -> list[str]:
        """Name those without parked events: they end with the page that waits for them."""
        return [by for by, hold in self._holds.items() if not hold.aside]
