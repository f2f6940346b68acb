"""Facts as metrics: a sink that writes them into the instruments of ``instruments``.

Counters and histograms are written as a fact is told: a few a batch, not one an event. Gauges are
read when somebody collects; nothing is shown of a relay that is closed.
"""

from collections.abc import Callable, Iterator
from typing import Final

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from relay.core.outcome import Fault
from relay.facts import Asked, Fact, PageDelivered, Parked, Retried, Sent, Unparked, Woken
from relay.otel import instruments
from relay.otel.gauges import Gauges, Points
from relay.otel.instruments import INSTRUMENTS, Kind

_PUBLISHED: Final = {"messaging.system": "nats", "messaging.operation.name": "publish"}


class MetricsSink:
    """Writes facts into the instruments of one meter. Call ``record`` with each."""

    def __init__(self, meter: Meter) -> None:
        """Make every instrument of the table."""
        self._gauges = Gauges()
        self._open = True
        self._add: dict[str, Callable[..., None]] = {}
        self._record: dict[str, Callable[..., None]] = {}
        points = self._gauges.points()
        for each in INSTRUMENTS:
            match each.kind:
                case Kind.COUNTER:
                    counter = meter.create_counter(each.name, each.unit, each.help)
                    self._add[each.name] = counter.add
                case Kind.HISTOGRAM:
                    histogram = meter.create_histogram(
                        each.name,
                        each.unit,
                        each.help,
                        explicit_bucket_boundaries_advisory=each.buckets,
                    )
                    self._record[each.name] = histogram.record
                case Kind.GAUGE:
                    read = [self._reading(points[each.name])]
                    meter.create_observable_gauge(each.name, read, each.unit, each.help)

    @property
    def leading(self) -> bool:
        """Whether this relay leads."""
        return self._gauges.leading

    def close(self) -> None:
        """Show no gauge any more: this relay is at its end, the process may go on."""
        self._open = False

    def record(self, fact: Fact) -> None:
        """Take note of one fact."""
        match fact:
            case Sent():
                self._note_batch(fact)
            case Asked(operation=operation, seconds=seconds, error=error):
                about = {"db.system.name": "postgresql", "db.operation.name": operation}
                self._record[instruments.DATABASE_DURATION.name](seconds, _with(about, error))
            case PageDelivered() | Unparked():
                if fact.duplicates:
                    self._add[instruments.DUPLICATES.name](fact.duplicates)
                if fact.unverified:
                    self._add[instruments.UNVERIFIED.name](fact.unverified)
            case Woken(cause=cause):
                self._add[instruments.WAKES.name](1, {"relay.cause": cause.value})
            case Retried(events=events):
                self._add[instruments.RETRIES.name](events)
            case Parked(code=code, fault=fault):
                self._add[instruments.REFUSALS.name](1, {"relay.code": str(code)})
                if fault is Fault.COLLISION:
                    self._add[instruments.COLLISIONS.name](1)
            case _:
                self._gauges.record(fact)

    def _note_batch(self, sent: Sent) -> None:
        """Write down a batch: one point a stream and outcome, and the call's own."""
        add = self._add[instruments.SENT_MESSAGES.name]
        for (stream, error), count in sent.counts.items():
            add(count, _with(_to(stream), error))
        streams = {stream for stream, _ in sent.counts}
        errors = {error for _, error in sent.counts}
        # One stream where there was one; an error where all came to the same.
        about = _with(
            _to(streams.pop() if len(streams) == 1 else ""),
            errors.pop() if len(errors) == 1 else "",
        )
        self._record[instruments.PUBLISH_DURATION.name](sent.seconds, about)
        self._record[instruments.BATCH_SIZE.name](sent.events)
        record = self._record[instruments.DELIVERY_DURATION.name]
        for stream, seconds in sent.waits:
            record(seconds, {"messaging.destination.name": stream} if stream else None)

    def _reading(
        self, points: Callable[[], Points]
    ) -> Callable[[CallbackOptions], Iterator[Observation]]:
        def read(_: CallbackOptions) -> Iterator[Observation]:
            if self._open:
                for value, about in points():
                    yield Observation(value, about)

        return read


def _to(stream: str) -> dict[str, str]:
    return _PUBLISHED | {"messaging.destination.name": stream} if stream else _PUBLISHED


def _with(about: dict[str, str], error: str) -> dict[str, str]:
    return about | {"error.type": error} if error else about
