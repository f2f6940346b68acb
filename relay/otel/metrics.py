"""Facts as metrics: a sink that writes them into the instruments of ``instruments``.

Counters and histograms are noted as a fact is recorded: a few a batch, not one an event. They are
written when somebody collects; a histogram's values before that as soon as ``MANY`` are noted, for
one that is written by itself costs the SDK three times as much: nothing of it is in the processor's
caches by then. Gauges are read from ``RelayState`` when somebody collects, by another thread. What
only a leader looks at has no point while this relay does not lead, and a relay that is closed has
no gauge at all.
"""

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, Final

from opentelemetry.context import Context, get_current
from opentelemetry.metrics import CallbackOptions, Meter, Observation

from relay.core.backoff import State
from relay.core.outcome import Fault
from relay.facts import (
    Asked,
    Fact,
    PageDelivered,
    Parked,
    Repaired,
    Retried,
    Sent,
    StreamLost,
    Unparked,
    Woken,
)
from relay.otel import instruments
from relay.otel.instruments import INSTRUMENTS, Instrument, Kind
from relay.state import RelayState

_PUBLISHED: Final = {"messaging.system": "nats", "messaging.operation.name": "publish"}
_BREAKER_STATES: Final = {State.CLOSED: 0, State.HALF_OPEN: 1, State.OPEN: 2}

_Gauge = Callable[[RelayState], Sequence[Observation]]
_Write = Callable[..., None]
_Attributes = Mapping[str, str]
_NONE: Final[_Attributes] = {}

MANY: Final = 64
"""A histogram's values that are written at once; 0.5 ms of the event loop."""


class MetricsSink:
    """Writes facts into the instruments of one meter. Call ``record`` with each."""

    def __init__(self, meter: Meter, state: RelayState) -> None:
        """Make every instrument of the table; the gauges show ``state``."""
        self._state = state
        self._open = True
        self._write: dict[str, _Write] = {}
        self._values = deque[tuple[_Write, float, _Attributes, Context]]()
        self._totals: dict[tuple[_Write, tuple[tuple[str, str], ...]], int] = {}
        self._totals_lock = threading.Lock()
        for each in INSTRUMENTS:
            match each.kind:
                case Kind.COUNTER:
                    counter = meter.create_counter(each.name, each.unit, each.help)
                    self._write[each.name] = counter.add
                case Kind.HISTOGRAM:
                    histogram = meter.create_histogram(
                        each.name,
                        each.unit,
                        each.help,
                        explicit_bucket_boundaries_advisory=each.buckets,
                    )
                    self._write[each.name] = histogram.record
                case Kind.GAUGE:
                    read = partial(self._read, _GAUGES[each.name])
                    meter.create_observable_gauge(each.name, [read], each.unit, each.help)
        for each in (instruments.REPAIRED, instruments.LOST, instruments.UNREPAIRED):
            self._count(each, 0, always=True)  # alerts ring at the first, which needs a zero before

    def close(self) -> None:
        """Show no gauge any more: this relay is at its end, the process may go on."""
        self._open = False
        self._write_all()

    def record(self, fact: Fact) -> None:
        """Note one fact."""
        match fact:
            case Sent():
                self._note_batch(fact)
            case Asked(operation=operation, seconds=seconds, error=error):
                self._note(instruments.DATABASE_DURATION, seconds, _of_operation(operation, error))
            case PageDelivered() | Unparked():
                self._count(instruments.DUPLICATES, fact.duplicates)
                self._count(instruments.UNVERIFIED, fact.unverified)
            case Woken(cause=cause):
                self._count(instruments.WAKES, 1, {"relay.cause": cause.value})
            case Retried(events=events):
                self._count(instruments.RETRIES, events)
            case Parked(code=code, fault=fault):
                self._count(instruments.REFUSALS, 1, {"relay.code": str(code)})
                self._count(instruments.COLLISIONS, fault is Fault.COLLISION)
            case Repaired(events=events):
                self._count(instruments.REPAIRED, events)
            case StreamLost(gone=gone, repairing=repairing):
                self._count(instruments.LOST, gone)
                self._count(instruments.UNREPAIRED, not repairing)

    def _note_batch(self, sent: Sent) -> None:
        """Note one point a stream and result, and those of the call as a whole."""
        for (stream, error), count in sent.counts.items():
            self._count(instruments.SENT_MESSAGES, count, _to(stream, error))
        # The call names a stream or an error only if all its events have the same.
        streams = {stream for stream, _ in sent.counts}
        errors = {error for _, error in sent.counts}
        attributes = _to(
            streams.pop() if len(streams) == 1 else "", errors.pop() if len(errors) == 1 else ""
        )
        self._note(instruments.PUBLISH_DURATION, sent.seconds, attributes)
        self._note(instruments.BATCH_SIZE, sent.events)
        for stream, seconds in sent.waits:
            to = {"messaging.destination.name": stream} if stream else _NONE
            self._note(instruments.DELIVERY_DURATION, seconds, to)
        for phase, seconds in sent.phases.items():
            self._note(instruments.PHASE_DURATION, seconds, {"relay.phase": phase})

    def _count(
        self,
        counter: Instrument,
        count: int,
        attributes: _Attributes = _NONE,
        *,
        always: bool = False,
    ) -> None:
        """Add ``count`` to a counter; with ``always`` also a 0, which makes it appear."""
        if not (count or always):
            return
        point = self._write[counter.name], tuple(attributes.items())
        with self._totals_lock:
            self._totals[point] = self._totals.get(point, 0) + count

    def _note(self, histogram: Instrument, value: float, attributes: _Attributes = _NONE) -> None:
        """Note a value, with the span it belongs to: an exemplar may name it."""
        values = self._values
        values.append((self._write[histogram.name], value, attributes, get_current()))
        if len(values) >= MANY:
            self._write_values()

    def _write_values(self) -> None:
        while self._values:
            try:
                write, value, attributes, context = self._values.popleft()
            except IndexError:
                return  # the other thread took it
            write(value, attributes, context)

    def _write_all(self) -> None:
        """Write what is noted; also from the thread that collects."""
        with self._totals_lock:
            totals, self._totals = self._totals, {}
        for (write, attributes), count in totals.items():
            write(count, dict(attributes))
        self._write_values()

    def _read(self, gauge: _Gauge, _: CallbackOptions) -> Sequence[Observation]:
        self._write_all()
        return gauge(self._state) if self._open else []


@lru_cache(maxsize=1024)
def _to(stream: str, error: str) -> _Attributes:
    to = _PUBLISHED | ({"messaging.destination.name": stream} if stream else {})
    return _with(to, error)


@lru_cache(maxsize=1024)
def _of_operation(operation: str, error: str) -> _Attributes:
    return _with({"db.system.name": "postgresql", "db.operation.name": operation}, error)


def _with(attributes: dict[str, str], error: str) -> _Attributes:
    return attributes | {"error.type": error} if error else attributes


def _of_backlog(name: str) -> _Gauge:
    return lambda state: _point(state.backlog if state.backlog_is_current else None, name)


def _of_outbox(name: str) -> _Gauge:
    return lambda state: _point(state.outbox, name)


def _point(source: object | None, name: str) -> Sequence[Observation]:
    value: Any = getattr(source, name, None)
    return [] if value is None else [Observation(value)]


def _of_streams(name: str) -> _Gauge:
    return lambda state: [
        Observation(getattr(each, name), {"messaging.destination.name": each.stream})
        for each in state.streams
    ]


def _sessions(state: RelayState) -> Sequence[Observation]:
    sessions = state.outbox.sessions if state.outbox else {}
    return [Observation(count, {"relay.duty": duty}) for duty, count in sessions.items()]


_GAUGES: Final[Mapping[str, _Gauge]] = {
    instruments.BACKLOG.name: _of_backlog("undelivered"),
    instruments.LAG.name: _of_backlog("lag"),
    instruments.HELD.name: _of_backlog("held"),
    instruments.HELD_LAG.name: _of_backlog("held_lag"),
    instruments.PARKED.name: _of_backlog("parked"),
    instruments.DEAD.name: _of_backlog("dead"),
    instruments.LEADER.name: lambda state: [Observation(int(state.leading))],
    instruments.EPOCH.name: lambda state: [Observation(state.epoch)] if state.epoch else [],
    instruments.HOLD.name: lambda state: [Observation(len(state.holds))],
    instruments.BREAKER_STATE.name: lambda state: [
        Observation(_BREAKER_STATES[breaker_state], {"relay.breaker": breaker})
        for breaker, breaker_state in state.breakers.items()
    ],
    instruments.OUTAGE.name: lambda state: [
        Observation(int(away), {"relay.side": side})
        for side, away in (
            ("postgres", "postgres" in state.outages or state.looks_fail),
            ("nats", "nats" in state.outages),
        )
    ],
    instruments.OUTBOX_SIZE.name: _of_outbox("size_bytes"),
    instruments.DEAD_ROWS.name: _of_outbox("dead_rows"),
    instruments.OLDEST_TRANSACTION.name: _of_outbox("oldest_transaction"),
    instruments.SESSIONS.name: _sessions,
    instruments.STREAM_MESSAGES.name: _of_streams("messages"),
    instruments.STREAM_SIZE.name: _of_streams("size_bytes"),
}
"""How each gauge is read, by its instrument's name."""
