"""Order per key: nothing of a key is sent or passed over past an event of it that is not stored.

R-ORDER. This module alone decides "not past this one of its key": for a page in the engine, for
both publishing paths, for rounds over several streams, and for the memory adapters. What outlives
the process is the view ``fence`` over ``relay.parked`` (sql/views/fence.sql), whose keys come into
the engine's ``KeyFence`` before a page is published.

    KeyFence    closed keys, of one page or call. An event closes its key when it is not stored.
                The next page has a fence of its own, made when the settlement that parks the
                event has been written and the view answers for it.
    KeyChains   the windowed path: one event of each key on the wire at a time

            waiting ──the one before it stored──► ready ──taken──► in flight
            in flight ──stored──► released: the key's next event is ready
            in flight ──anything else──► blocked: no later event of the key is sent

    ParkedWatch whether a parked event may stand before a page's. "None" only by a look that began
                after the last settlement of parked events was written, and while none was to come:
                one that overlaps such a settlement may have been answered before it

            maybe ◄──a settlement parks──► none, a look says so

An event without a key waits for nobody. The order within a key is the order in which events are
given here, which is that of their ids.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from relay.core.event import Event
from relay.core.outcome import Outcome, Stored, Unknown

WAITS: Final = Unknown("waits for an earlier event of its key")
"""The outcome of every event that was not sent because one before it was not stored."""


class KeyFence:
    """The keys that are closed. ``bool(fence)`` says whether any is."""

    __slots__ = ("_closed",)

    def __init__(self, closed: Iterable[str] = ()) -> None:
        """Begin with these keys closed."""
        self._closed = set(closed)

    def __bool__(self) -> bool:
        """Say whether any key is closed."""
        return bool(self._closed)

    def close(self, key: str | None) -> None:
        """Let nothing more of ``key`` pass: an event of it is not stored."""
        if key is not None:
            self._closed.add(key)

    def passes(self, key: str | None) -> bool:
        """Say whether an event of ``key`` may be sent."""
        return key is None or key not in self._closed

    def split(self, events: Sequence[Event]) -> tuple[list[Event], list[Event]]:
        """Return the events that pass, and those that wait behind their key; both in order."""
        passing: list[Event] = []
        waiting: list[Event] = []
        for event in events:
            (passing if self.passes(event.key) else waiting).append(event)
        return passing, waiting

    def note(self, events: Sequence[Event], outcomes: Sequence[Outcome]) -> None:
        """Close the keys of all events that were not stored."""
        for event, outcome in zip(events, outcomes, strict=True):
            if not isinstance(outcome, Stored):
                self.close(event.key)


def put_behind(events: Sequence[Event], outcomes: list[Outcome]) -> None:
    """Give ``WAITS`` to every event that stands behind one of its key that was not stored.

    None of them is stored; whatever outcome it has says only why it is not.
    """
    fence = KeyFence()
    for place, event in enumerate(events):
        if isinstance(outcomes[place], Stored):
            continue
        if not fence.passes(event.key):
            outcomes[place] = WAITS
        fence.close(event.key)


class KeyChains:
    """The chains of one call. ``ready`` holds the places that may be sent now, oldest first.

    Events are named by their place in the call, from 0.
    """

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


LOOK_EVERY: Final = 0.2
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

    def wait(self, now: float) -> float | None:
        """Return the s until the next look at what is due; None while nothing can be."""
        return max(0.0, self._look_at - now) if self.maybe else None

    def looked_at(self, now: float) -> None:
        """What is due is looked at now."""
        self._look_at = now + LOOK_EVERY

    def look_soon(self, now: float) -> None:
        """There is more that is due."""
        self._look_at = now
