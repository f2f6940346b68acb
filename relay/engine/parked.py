"""Whether a parked event may stand before a page's, and when to look at what is due.

    maybe   a settlement parked something, or the store's last look says so; true at first
    none    a look says so that began after the last such settlement was written

A look that overlaps a settlement of parked events proves nothing: it may have been answered before
that was written. Nor does one while such a settlement is yet to come. So these looks do not count
as "none" (R-ORDER).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import anyio

LOOK_EVERY = 0.2
"""Seconds between looks at the parked, while there are any that could be due."""


class ParkedWatch:
    """What the engine knows of the parked without asking."""

    __slots__ = ("_changes", "_look_at", "_open", "_promised", "maybe")

    def __init__(self) -> None:
        """Begin with "maybe": an earlier term may have parked events."""
        self.maybe = True
        self._changes = 0
        self._open = 0
        self._promised = False
        self._look_at = 0.0

    def will_change(self) -> None:
        """Events in hand are to be parked; ``changing`` follows, or the term's end."""
        self._promised = True

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Hold for as long as a settlement of parked events is under way."""
        self.maybe = True
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1
            self._promised = False
            self._changes += 1

    def begin_look(self) -> int:
        """Return a token for ``end_look``, taken before the store is asked."""
        return -1 if self._open or self._promised else self._changes

    def end_look(self, token: int, *, blocking: bool) -> bool:
        """Take the store's word; say whether the look overlapped no settlement."""
        counts = token == self._changes and not self._open and not self._promised
        if blocking or counts:
            self.maybe = blocking
        return counts

    @property
    def wait(self) -> float:
        """Seconds until the next look at what is due, while there may be anything."""
        return max(0.0, self._look_at - anyio.current_time())

    def looked_at(self, now: float) -> None:
        """What is due is looked at now."""
        self._look_at = now + LOOK_EVERY

    def look_soon(self, now: float) -> None:
        """There is more that is due."""
        self._look_at = now
