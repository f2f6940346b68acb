"""Both sides as the engine knows them, with a stopwatch: what is measured around their methods.

    engine ──► ObservedBus ──► the bus         Sent     once a batch, not an event
    engine ──► ObservedOutbox ──► the store    Asked    once a call, but for reads of nothing

They change no answer and no exception, and are there only while somebody measures: without them the
relay pays nothing. Spans are made here too, for they need the events, which no fact carries.
"""

import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from relay.core.event import Event
from relay.core.outcome import Held, Outcome, Refused, Stored, Unknown
from relay.errors import BusOutage
from relay.facts import Asked, FactSink, Sent
from relay.ports import (
    Backlog,
    Due,
    EventBus,
    Outbox,
    OutboxStore,
    Page,
    ParkedEvents,
    Permit,
    Report,
    Settlement,
)

if TYPE_CHECKING:
    from relay.otel.tracing import Publishing, Traces

WAITS_PER_BATCH: Final = 16
"""Events of a batch whose time in the outbox is noted; each costs about 5 us to write down."""

MOST_SUBJECTS: Final = 10_000
"""Subjects of which the stream is remembered."""

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

    def __init__(self, bus: EventBus, record: FactSink, traces: "Traces | None" = None) -> None:
        """FactSink of each batch; make spans of it with ``traces``."""
        self._bus = bus
        self._record = record
        self._traces = traces
        self._streams = _Streams()
        self.connect = bus.connect
        self.recall = bus.recall
        self.learnt = bus.learnt
        self.storage = bus.storage
        self.close = bus.close

    @property
    def paths(self) -> Mapping[str, str]:
        """How each stream met so far is published to."""
        return self._bus.paths

    @property
    def server(self) -> tuple[str, int] | None:
        """Host and port of the server that the newest connection is, or was, to."""
        return self._bus.server

    @property
    def sole_hold(self) -> str | None:
        """The name of the hold that would hold up every event, if there is such a one."""
        return self._bus.sole_hold

    @property
    def duplicate_window(self) -> float | None:
        """The shortest duplicate window in s of the streams met so far."""
        return self._bus.duplicate_window

    async def publish(
        self, events: Sequence[Event], permit: Permit, *, closed: Collection[str] = ()
    ) -> Sequence[Outcome]:
        """Publish, and tell."""
        if self._traces is None:
            return await self._publish(events, permit, closed, None)
        with self._traces.publishing(events) as publishing:
            return await self._publish(events, permit, closed, publishing)

    async def _publish(
        self,
        events: Sequence[Event],
        permit: Permit,
        closed: Collection[str],
        publishing: "Publishing | None",
    ) -> Sequence[Outcome]:
        began = time.perf_counter()
        try:
            outcomes = await self._bus.publish(events, permit, closed=closed)
        except BusOutage:
            seconds = time.perf_counter() - began
            streams = self._streams.of(events)
            if publishing is not None:
                publishing.went_to(streams, self._bus.server)
            counts = Counter((streams[event.subject], OUTAGE) for event in events)
            self._record(Sent(len(events), counts, seconds, ()))
            raise
        seconds, now = time.perf_counter() - began, datetime.now(UTC)
        self._streams.learn(events, outcomes)
        streams = self._streams.of(events)
        if publishing is not None:
            publishing.came_to(outcomes)
            publishing.went_to(streams, self._bus.server)
        self._record(_sent(events, outcomes, streams, seconds, now))
        return outcomes


class _Streams:
    """The stream of each subject, as the answers named it; bounded, and forgotten when full."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def learn(self, events: Sequence[Event], outcomes: Sequence[Outcome]) -> None:
        self._known.update(
            (event.subject, outcome.stream)
            for event, outcome in zip(events, outcomes, strict=True)
            if type(outcome) is Stored and outcome.stream
        )

    def of(self, events: Sequence[Event]) -> dict[str, str]:
        """Return the stream of each event's subject; "" where it is not known."""
        found = {subject: self._known.get(subject, "") for subject in set(map(_SUBJECT, events))}
        if len(self._known) > MOST_SUBJECTS:
            self._known = {subject: stream for subject, stream in found.items() if stream}
        return found


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

    def __init__(self, outbox: Outbox, record: FactSink) -> None:
        """FactSink of what the stores of its terms are asked for."""
        self._outbox = outbox
        self._record = record
        self.storage = outbox.storage
        self.close = outbox.close

    async def campaign(self, holder: str) -> OutboxStore | None:
        """Try once to begin a term; not told, for a standby tries again and again."""
        store = await self._outbox.campaign(holder)
        return None if store is None else ObservedStore(store, self._record)


class ObservedStore:
    """``relay.ports.OutboxStore`` around another one."""

    def __init__(self, store: OutboxStore, record: FactSink) -> None:
        """FactSink of what ``store`` is asked for."""
        self.epoch = store.epoch
        self.parked: ParkedEvents = _ObservedParked(store.parked, record)
        self.granted = store.granted
        self.watch = store.watch
        self.close = store.close
        self._store = store
        self._record = record

    async def read(self, limit: int) -> Page:
        """Read; told only of pages with events, and of failures."""
        began = time.perf_counter()
        try:
            page = await self._store.read(limit)
        except Exception as error:
            self._record(Asked("read", time.perf_counter() - began, type(error).__name__))
            raise
        if page.events:
            self._record(Asked("read", time.perf_counter() - began))
        return page

    async def settle(self, done: Settlement) -> None:
        """Settle, and tell."""
        with _asking("settle", self._record):
            await self._store.settle(done)

    async def look(self, position: object | None) -> Backlog:
        """Look at what waits, and tell."""
        with _asking("look", self._record):
            return await self._store.look(position)

    async def tend(self, retention: float) -> int:
        """Do a piece of housekeeping, and tell."""
        with _asking("tend", self._record):
            return await self._store.tend(retention)

    async def report(self, report: Report) -> None:
        """Leave word of the leader, and tell."""
        with _asking("report", self._record):
            await self._store.report(report)

    async def renew(self) -> None:
        """Ask for a new proof of the lease, and tell."""
        with _asking("renew", self._record):
            await self._store.renew()

    async def streams(self) -> Mapping[str, Collection[str]]:
        """Return every stream that was ever learnt, and tell."""
        with _asking("streams", self._record):
            return await self._store.streams()

    async def keep_streams(self, streams: Mapping[str, Collection[str]]) -> None:
        """Remember streams, and tell."""
        with _asking("keep_streams", self._record):
            await self._store.keep_streams(streams)


class _ObservedParked:
    """``relay.ports.ParkedEvents`` around others."""

    def __init__(self, parked: ParkedEvents, record: FactSink) -> None:
        self._parked = parked
        self._record = record

    async def blocked(self, keys: Collection[str]) -> set[str]:
        with _asking("blocked", self._record):
            return await self._parked.blocked(keys)

    async def due(self, limit: int, *, without: Collection[str] = ()) -> Sequence[Due]:
        with _asking("due", self._record):
            return await self._parked.due(limit, without=without)


@contextmanager
def _asking(operation: str, record: FactSink) -> Iterator[None]:
    began = time.perf_counter()
    try:
        yield
    except Exception as error:
        record(Asked(operation, time.perf_counter() - began, type(error).__name__))
        raise
    record(Asked(operation, time.perf_counter() - began))


_SUBJECT: Final = attrgetter("subject")


def _spread(events: int) -> Sequence[int]:
    """Choose places of a batch: all of a small one."""
    if events <= WAITS_PER_BATCH:
        return range(events)
    return [number * events // WAITS_PER_BATCH for number in range(WAITS_PER_BATCH)]


def _seconds(since: datetime, now: datetime) -> float:
    return max(0.0, (now - since).total_seconds())  # the clocks are two
