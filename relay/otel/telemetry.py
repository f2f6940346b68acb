"""One relay's telemetry: what is measured around its adapters' calls, and the sizes it looks at.

    engine ──► timed publish ─────► the bus       Sent      once a batch of which something is sent
    engine ──► timed operations ──► the store     Asked     once a call, but for empty reads
    a task beside the engine ─────► both          Looked    every 10 s, by the leader

Made only where this process has providers of OpenTelemetry, whoever set them: ``export``, the
application that the relay is a part of, or opentelemetry-instrument. Without them the engine calls
its adapters directly. A timed call returns and raises what the call itself does. Spans are made
here too: they need the events, which no fact carries.

Nothing waits for a look at the sizes. The first of several failures in a row is recorded as failed
housekeeping; a bug in a look ends the looks at that side, and the relay goes on.
"""

import inspect
import logging
import random
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from functools import partial
from operator import attrgetter
from typing import Any, Final, TypeVar, cast

import anyio
from opentelemetry import metrics, trace

from relay import __version__
from relay.core.event import Event
from relay.core.outcome import Held, Outcome, Refused, Stored, Unknown
from relay.core.storage import OutboxStorage, StreamStorage
from relay.errors import BusOutage, RelayError
from relay.facts import Asked, FactSink, HousekeepingFailed, Looked, Sent
from relay.otel.export import is_real
from relay.otel.metrics import MetricsSink
from relay.otel.tracing import Traces
from relay.ports import EventBus, Outbox, OutboxStore, Page, ParkedEvents, Permit
from relay.state import RelayState

log = logging.getLogger("relay.otel")

LOOK_EVERY: Final = 10.0
TURN: Final = 0.5
"""Seconds; the first look comes at the first turn of a term, when the bus is connected."""

_NOT_TIMED: Final = frozenset({"watch", "close"})
"""Methods of a store that last as long as its term, or are its end."""

WAITS_PER_BATCH: Final = 16
"""Events of a batch whose time in the outbox is noted; each costs about 5 us to write down."""

BATCHES_PER_SECOND: Final = 50.0
"""Batches whose events' times are noted: their distribution needs no more."""

MOST_SUBJECTS: Final = 10_000
"""Subjects of which the stream is remembered."""

_SCHEMA: Final = "https://opentelemetry.io/schemas/1.44.0"
"""Of the conventions whose names are used."""

_RESULTS: Final = {Stored: "", Refused: "refused", Held: "held", Unknown: "unknown"}
_SUBJECT: Final = attrgetter("subject")
_SENT: Final = attrgetter("sent")
_Port = TypeVar("_Port")

Look = Callable[[], Awaitable[OutboxStorage | Sequence[StreamStorage] | None]]
"""Looks once; None or nothing if there is nothing to be seen yet."""


class Telemetry:
    """Measures one relay for the length of ``run``."""

    def __init__(self, outbox: Outbox, bus: EventBus, record: FactSink, state: RelayState) -> None:
        """Measure both sides; ``timed`` has them for the engine.

        What is measured goes to ``record``, which hands it on to ``self.record`` like all facts;
        ``state`` is what the gauges show.
        """
        meter = metrics.get_meter("relay", __version__, schema_url=_SCHEMA)
        tracer = trace.get_tracer("relay", __version__, schema_url=_SCHEMA)
        traces = Traces(tracer) if is_real(trace.get_tracer_provider()) else None
        self._looks: Mapping[str, Look] = {
            "the outbox's size": outbox.storage,
            "the streams' sizes": bus.storage,
        }
        self._look_on = partial(keep_looking, lambda: state.leading, record)
        self._metrics = MetricsSink(meter, state)
        self.record = self._metrics.record
        pages = Pages()
        self.timed = timed_outbox(outbox, record, pages), timed_bus(bus, record, traces, pages)

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        """Look at the sizes while ``work`` runs; what it raises is raised."""
        failure: Exception | None = None
        try:
            async with anyio.create_task_group() as tasks:
                for side, look in self._looks.items():
                    tasks.start_soon(self._look_on, side, look)
                try:
                    await work()
                except Exception as error:  # noqa: BLE001 - raised below, as it is and alone
                    failure = error
                tasks.cancel_scope.cancel()
        finally:
            self._metrics.close()
        if failure is not None:
            raise failure


async def keep_looking(
    leading: Callable[[], bool], record: FactSink, side: str, look: Look
) -> None:
    """Look now and then, while ``leading``, until cancelled; ``side`` is for a person."""
    again_at, failing = 0.0, False
    try:
        while True:
            await anyio.sleep(TURN)
            if not leading():
                again_at = 0.0
                continue
            now = anyio.current_time()
            if now < again_at:
                continue
            again_at = now + LOOK_EVERY
            try:
                storage = await look()
            except RelayError as error:
                if not failing and leading():  # a look that a stop cut off is no failure
                    record(HousekeepingFailed(f"{side} can't be looked at: {error}"))
                failing = True
                continue
            failing = False
            if not storage:
                again_at = 0.0  # nothing is there yet
            if storage is not None:
                record(Looked(storage))
    except Exception:
        log.exception("looking at sizes failed: delivery goes on without it")


class Pages:
    """When the newest pages were read: the one that is delivered, and the one ahead of it."""

    def __init__(self) -> None:
        """Know none."""
        self._newest = deque[tuple[int, int, float]](maxlen=2)

    def note(self, page: Page) -> None:
        """Note that ``page`` was read just now."""
        self._newest.append((page.events[0].id, page.events[-1].id, time.perf_counter()))

    def phases(self, event: Event, age: float, began: float, seconds: float) -> dict[str, float]:
        """Return what an event of these pages waited for, by phase; nothing for a parked one.

        It was ``age`` s old at its PubAck, and handed over at ``began``, ``seconds`` before that.
        """
        for first, last, seen_at in reversed(self._newest):
            if first <= event.id <= last and seen_at <= began:
                in_hand = began - seen_at
                seen = max(0.0, age - in_hand - seconds)
                return {"seen": seen, "sent": in_hand, "acknowledged": seconds}
        return {}


class Sample:
    """Chooses by chance ``BATCHES_PER_SECOND`` of the batches, by the rate a moment ago."""

    def __init__(
        self,
        *,
        chance: Callable[[], float] = random.random,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Choose all batches at first."""
        self._chance, self._now = chance, now
        self._began, self._batches, self._share = now(), 0, 1.0

    def takes(self) -> bool:
        """Say whether one more batch is chosen."""
        seconds = self._now() - self._began
        if seconds >= 1.0:
            self._share = BATCHES_PER_SECOND * seconds / max(self._batches, 1)
            self._began, self._batches = self._began + seconds, 0
        self._batches += 1
        return self._share >= 1.0 or self._chance() < self._share


def timed_outbox(outbox: Outbox, record: FactSink, pages: Pages) -> Outbox:
    """Return ``outbox`` with stores that are timed; its campaigns are not, a standby has many."""

    async def campaign(holder: str) -> OutboxStore | None:
        store = await outbox.campaign(holder)
        if store is None:
            return None
        parked = _timed(store.parked, ParkedEvents, record)
        read = _timed_call("read", store.read, record)

        async def noted_read(limit: int) -> Page:
            page: Page = await read(limit)
            if page.events:
                pages.note(page)
            return page

        # granted, not timed, is asked before each chunk: bound here, a call costs nothing more
        bound = {"read": noted_read, "granted": store.granted, "parked": parked}
        return _timed(store, OutboxStore, record, **bound)

    return _with(outbox, campaign=campaign)


def timed_bus(bus: EventBus, record: FactSink, traces: Traces | None, pages: Pages) -> EventBus:
    """Return ``bus`` with a ``publish`` that records ``Sent``, and makes spans with ``traces``."""
    streams, sample = _Streams(), Sample()

    async def publish(
        events: Sequence[Event], permit: Permit, *, closed: Collection[str] = ()
    ) -> Sequence[Outcome]:
        with nullcontext() if traces is None else traces.publishing(events) as publishing:
            began = time.perf_counter()
            try:
                outcomes = await bus.publish(events, permit, closed=closed)
            except BusOutage:
                seconds = time.perf_counter() - began
                stream_of = streams.of(events)
                if publishing is not None:
                    publishing.went_to(stream_of, bus.server)
                counts = Counter((stream_of[event.subject], "outage") for event in events)
                record(Sent(len(events), counts, seconds, ()))
                raise
            seconds, now = time.perf_counter() - began, datetime.now(UTC)
            if publishing is not None:
                publishing.came_to(outcomes)
            streams.learn(events, outcomes)
            stream_of = streams.of(events)
            if publishing is not None:
                publishing.went_to(stream_of, bus.server)
            if not (sent := _counts(events, outcomes, stream_of)):
                return outcomes
            waits: Sequence[tuple[str, float]] = ()
            phases: Mapping[str, float] = {}
            if sample.takes():
                waits, phases = _times(events, outcomes, stream_of, seconds, now, began, pages)
            record(Sent(sum(sent.values()), sent, seconds, waits, phases))
            return outcomes

    return _with(bus, publish=publish)


class _Streams:
    """The stream of each subject, as the answers named it; bounded, and forgotten when full."""

    def __init__(self) -> None:
        self._by_subject: dict[str, str] = {}

    def learn(self, events: Sequence[Event], outcomes: Sequence[Outcome]) -> None:
        self._by_subject.update(
            (event.subject, outcome.stream)
            for event, outcome in zip(events, outcomes, strict=True)
            if type(outcome) is Stored and outcome.stream
        )

    def of(self, events: Sequence[Event]) -> dict[str, str]:
        """Return the stream of each event's subject; "" where it is not known."""
        subjects = set(map(_SUBJECT, events))
        found = {subject: self._by_subject.get(subject, "") for subject in subjects}
        if len(self._by_subject) > MOST_SUBJECTS:
            self._by_subject = {subject: stream for subject, stream in found.items() if stream}
        return found


def _counts(
    events: Sequence[Event], outcomes: Sequence[Outcome], stream_of: Mapping[str, str]
) -> Mapping[tuple[str, str], int]:
    """Count the events that were sent, by stream and result."""
    names = set(stream_of.values())
    if len(names) == 1 and set(map(type, outcomes)) == {Stored} and all(map(_SENT, outcomes)):
        return {(names.pop(), ""): len(events)}
    return Counter(
        (stream_of[event.subject], _RESULTS[type(outcome)])
        for event, outcome in zip(events, outcomes, strict=True)
        if not isinstance(outcome, Stored | Held) or outcome.sent
    )


def _times(  # noqa: PLR0917 - all of it is the batch's
    events: Sequence[Event],
    outcomes: Sequence[Outcome],
    stream_of: Mapping[str, str],
    seconds: float,
    now: datetime,
    began: float,
    pages: Pages,
) -> tuple[Sequence[tuple[str, float]], Mapping[str, float]]:
    """Return how long some of the events took in all, and the first one by phase."""
    noted = min(len(events), WAITS_PER_BATCH)
    places = [number * len(events) // noted for number in range(noted)]
    taken = [(events[place], outcomes[place]) for place in places]
    stored = [event for event, outcome in taken if isinstance(outcome, Stored) and outcome.sent]
    ages = [max(0.0, (now - event.created_at).total_seconds()) for event in stored]  # two clocks
    waits = [(stream_of[event.subject], age) for event, age in zip(stored, ages, strict=True)]
    phases = pages.phases(stored[0], ages[0], began, seconds) if stored else {}
    return waits, phases


def operations(port: type) -> set[str]:
    """Return the methods of a port that are timed."""
    return {name for name, _ in inspect.getmembers(port, inspect.iscoroutinefunction)} - _NOT_TIMED


def _timed(adapter: _Port, port: type, record: FactSink, **replacements: Any) -> _Port:
    timed = {name: _timed_call(name, getattr(adapter, name), record) for name in operations(port)}
    return _with(adapter, **(timed | replacements))


def _timed_call(
    operation: str, call: Callable[..., Awaitable[Any]], record: FactSink
) -> Callable[..., Awaitable[Any]]:
    async def timed(*arguments: Any, **options: Any) -> Any:
        began = time.perf_counter()
        try:
            answer = await call(*arguments, **options)
        except Exception as error:
            record(Asked(operation, time.perf_counter() - began, type(error).__name__))
            raise
        if not isinstance(answer, Page) or answer.events:
            record(Asked(operation, time.perf_counter() - began))
        return answer

    return timed


class _Replaced:
    """An object with some of its attributes replaced."""

    def __init__(self, original: object, replacements: Mapping[str, Any]) -> None:
        self._original = original
        vars(self).update(replacements)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)


def _with(port: _Port, **replacements: Any) -> _Port:
    return cast("_Port", _Replaced(port, replacements))
