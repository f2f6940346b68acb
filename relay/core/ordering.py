"""Which of a page's events may be on the wire: one of each key at a time.

    waiting ──first of its key, or the one before it stored──► ready ──taken──► in flight
    in flight ──stored──► released: the key's next event is ready
    in flight ──anything else──► blocked: no later event of the key is sent

Nothing is authoritative here but the order of ``keys``. An event without a key waits for nobody.
Events are named by their place in the page, from 0.
"""

from collections import deque
from collections.abc import Sequence
from typing import Final

from relay.core.event import Event
from relay.core.outcome import Outcome, Stored, Unknown

WAITS: Final = Unknown("waits for an earlier event of its key")
"""The outcome of every event that was not sent because one before it was not stored."""


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
        """The event at ``place`` was stored: its key's next one becomes ready."""
        after = self._next[place]
        if after >= 0:
            self.ready.append(after)

    def block(self, place: int) -> list[int]:
        """``place`` was not stored: return its key's later events, which are never sent."""
        behind = []
        after = self._next[place]
        while after >= 0:
            behind.append(after)
            after = self._next[after]
        return behind


def put_behind(events: Sequence[Event], outcomes: list[Outcome]) -> None:
    """Give ``WAITS`` to every event that stands behind one of its key that was not stored.

    None of them is stored; whatever outcome it has says only why it is not.
    """
    stuck: set[str] = set()
    for place, event in enumerate(events):
        if isinstance(outcomes[place], Stored) or event.key is None:
            continue
        if event.key in stuck:
            outcomes[place] = WAITS
        stuck.add(event.key)
