"""Which of a page's events may be on the wire: one of each key at a time.

    waiting ──first of its key, or the one before it released──► ready ──taken──► in flight
    in flight ──stored or refused──► released: the key's next event is ready
    in flight ──unknown──► blocked: nobody can tell, so no later event of the key is sent

Nothing is authoritative here but the order of ``keys``. An event without a key waits for nobody.
Events are named by their place in the page, from 0.
"""

from collections import deque
from collections.abc import Sequence


class KeyOrder:
    """The chains of one page. ``ready`` holds the places that may be sent now, oldest first."""

    __slots__ = ("_next", "ready")

    def __init__(self, keys: Sequence[str | None]) -> None:
        """Chain the events of each key; the first of each chain and all without a key are ready."""
        self.ready: deque[int] = deque()
        self._next = [-1] * len(keys)
        last: dict[str, int] = {}
        for place, key in enumerate(keys):
            if key is None:
                self.ready.append(place)
                continue
            before = last.get(key, -1)
            if before < 0:
                self.ready.append(place)
            else:
                self._next[before] = place
            last[key] = place

    def release(self, place: int) -> None:
        """The event at ``place`` was stored or refused: its key's next one becomes ready."""
        after = self._next[place]
        if after >= 0:
            self.ready.append(after)

    def block(self, place: int) -> list[int]:
        """Nobody can tell about ``place``: return its key's later events, which are never sent."""
        behind = []
        after = self._next[place]
        while after >= 0:
            behind.append(after)
            after = self._next[after]
        return behind
