"""Both sides as the engine knows them, with a stopwatch: what is measured around their methods.

    engine ──► ObservedBus ──► the bus         Sent     once a batch, not an event
    engine ──► ObservedOutbox ──► the store    Asked    once a call, but for reads of nothing

They change no answer and no exception, and are there only while somebody measures: without them the
relay pays nothing. Spans are made here too, for they need the events, which no fact carries.
"""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from relay.core.breakers import Breakers
from relay.core.event import Event
from relay.core.outcome import Held, Outcome, Refused, Stored, Unknown
from relay.errors import BusOutage
from relay.facts import Asked, Sent, Tell
from relay.ports import Backlog, Due, EventBus, Outbox, OutboxStore, Page, ParkedEvents, Settlement

if TYPE_CHECKING:
    from relay.telemetry.tracing import Publishing, Traces

WAITS_PER_BATCH: Final = 16
"""Events of a batch whose time in the outbox is noted; each costs about 5 us to write down."""

STORED: Final = ""
OUTAGE: Final = "outage"
_CAME_TO: Final[Mapping[type, str]] = {
    Stored: STORED,
    Refused: "refused",
    Held: "held",
    Unknown: "unknown",
}


class ObservedBus:
    """``relay.ports.EventBus`` around another one."""

    def __init__(self, bus: EventBus, tell: Tell, traces: "Traces | None" = None) -> None:
        """Tell of each batch; make spans of it with ``traces``."""
        self._bus = bus
        self._tell = tell
        self._traces = traces
        self._stream_of: Callable[[str], str | None] = getattr(bus, "stream_of", _unknown)
        self.connect = bus.connect
        self.close = bus.close

    async def publish(self, events: Sequence[Event]) -> Sequence[Outcome]:
        """Publish, and tell."""
        if self._traces is None:
            return await self._publish(events, None)
        with self._traces.publishing(events) as publishing:
            return await self._publish(events, publishing)

    async def _publish(
        self, events: Sequence[Event], publishing: "Publishing | None"
    ) -> Sequence[Outcome]:
        began = time.perf_counter()
        try:
            outcomes = await self._bus.publish(events)
        except BusOutage:
            seconds = time.perf_counter() - began
            streams = self._streams(events)
            if publishing is not None:
                publishing.went_to(streams, getattr(self._bus, "server", None))
            counts = Counter((streams[event.subject], OUTAGE) for event in events)
            self._tell(Sent(len(events), counts, seconds, ()))
            raise
        seconds, now = time.perf_counter() - began, datetime.now(UTC)
        streams = self._streams(events)
        if publishing is not None:
            publishing.came_to(outcomes)
            publishing.went_to(streams, getattr(self._bus, "server", None))
        self._tell(_sent(events, outcomes, streams, seconds, now))
        return outcomes

    def _streams(self, events: Sequence[Event]) -> dict[str, str]:
        """Return the stream of each subject; "" where it is not known."""
        return {subject: self._stream_of(subject) or "" for subject in set(map(_SUBJECT, events))}


def _sent(
    events: Sequence[Event],
    outcomes: Sequence[Outcome],
    streams: Mapping[str, str],
    seconds: float,
    now: datetime,
) -> Sent:
    """Make the fact of a batch."""
    names = set(streams.values())
    counts: Mapping[tuple[str, str], int]
    if len(names) == 1 and set(map(type, outcomes)) == {Stored}:
        counts = {(names.pop(), STORED): len(events)}
    else:
        counts = Counter(
            (streams[event.subject], _CAME_TO[type(outcome)])
            for event, outcome in zip(events, outcomes, strict=True)
        )
    waits = tuple(
        (streams[events[place].subject], _seconds(events[place].created_at, now))
        for place in _spread(len(events))
        if isinstance(outcomes[place], Stored)
    )
    return Sent(len(events), counts, seconds, waits)


class ObservedOutbox:
    """``relay.ports.Outbox`` around another one."""

    def __init__(self, outbox: Outbox, tell: Tell) -> None:
        """Tell of what the stores of its terms are asked for."""
        self._outbox = outbox
        self._tell = tell
        self.close = outbox.close

    async def campaign(self, holder: str) -> OutboxStore | None:
        """Try once to begin a term; not told, for a standby tries again and again."""
        store = await self._outbox.campaign(holder)
        return None if store is None else ObservedStore(store, self._tell)


class ObservedStore:
    """``relay.ports.OutboxStore`` around another one."""

    def __init__(self, store: OutboxStore, tell: Tell) -> None:
        """Tell of what ``store`` is asked for."""
        self.epoch = store.epoch
        self.parked: ParkedEvents = _ObservedParked(store.parked, tell)
        self.close = store.close
        self._store = store
        self._tell = tell

    async def read(self, limit: int) -> Page:
        """Read; told only of pages with events, and of failures."""
        began = time.perf_counter()
        try:
            page = await self._store.read(limit)
        except Exception as error:
            self._tell(Asked("read", time.perf_counter() - began, type(error).__name__))
            raise
        if page.events:
            self._tell(Asked("read", time.perf_counter() - began))
        return page

    async def settle(self, done: Settlement) -> None:
        """Settle, and tell."""
        with _asking("settle", self._tell):
            await self._store.settle(done)

    async def prune(self, retention: float) -> int:
        """Prune, and tell."""
        with _asking("prune", self._tell):
            return await self._store.prune(retention)

    async def backlog(self, breakers: Breakers | None = None) -> Backlog:
        """Look at the backlog, and tell."""
        with _asking("backlog", self._tell):
            return await self._store.backlog(breakers)


class _ObservedParked:
    """``relay.ports.ParkedEvents`` around others."""

    def __init__(self, parked: ParkedEvents, tell: Tell) -> None:
        self._parked = parked
        self._tell = tell

    async def blocked(self, keys: Collection[str]) -> set[str]:
        with _asking("blocked", self._tell):
            return await self._parked.blocked(keys)

    async def due(self, limit: int, *, without: Collection[str] = ()) -> Sequence[Due]:
        with _asking("due", self._tell):
            return await self._parked.due(limit, without=without)


@contextmanager
def _asking(operation: str, tell: Tell) -> Iterator[None]:
    began = time.perf_counter()
    try:
        yield
    except Exception as error:
        tell(Asked(operation, time.perf_counter() - began, type(error).__name__))
        raise
    tell(Asked(operation, time.perf_counter() - began))


_SUBJECT: Final = attrgetter("subject")


def _spread(events: int) -> Sequence[int]:
    """Choose places of a batch: all of a small one."""
    if events <= WAITS_PER_BATCH:
        return range(events)
    return [number * events // WAITS_PER_BATCH for number in range(WAITS_PER_BATCH)]


def _seconds(since: datetime, now: datetime) -> float:
    return max(0.0, (now - since).total_seconds())  # the clocks are two


def _unknown(_subject: str) -> None:
    return None
