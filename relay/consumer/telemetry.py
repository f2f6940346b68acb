"""Metrics and spans of a consumer, by the OpenTelemetry API if it is installed.

Who wants them sets up an SDK, as for the rest of the application; nothing is sent otherwise, and
the SDK is not imported here. A handler runs in a span of kind CONSUMER, below the producer's:
``traceparent`` travels from the producer's transaction through outbox and stream.

    messaging.client.consumed.messages   counter     deliveries done, by relay.outcome: handled,
                                                     repeated, parked, waiting (behind a parked one)
    messaging.process.duration           histogram   s of one call of the handler
    relay.inbox.refusals                 counter     tries that ended in an error of the handler
    relay.inbox.lag                      histogram   s from storing in JetStream to the commit
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from relay.consumer.message import Message

try:
    from opentelemetry import metrics, propagate, trace
except ImportError:  # the API is optional
    metrics = propagate = trace = None  # type: ignore[assignment]

_MOST_LINKS = 128


class Telemetry:
    """What one consumer measures. Without the API nothing at all."""

    def __init__(self, stream: str, consumer: str) -> None:
        """Name what is measured."""
        self._about: dict[str, str] = {
            "messaging.system": "nats",
            "messaging.operation.name": "process",
            "messaging.destination.name": stream,
            "messaging.consumer.group.name": consumer,
        }
        self._name = f"process {stream}"
        if metrics is None:
            return
        meter = metrics.get_meter("relay.consumer")
        self._tracer = trace.get_tracer("relay.consumer")
        self._consumed = meter.create_counter("messaging.client.consumed.messages", "{message}")
        self._duration = meter.create_histogram("messaging.process.duration", "s")
        self._refusals = meter.create_counter("relay.inbox.refusals", "{refusal}")
        self._lag = meter.create_histogram("relay.inbox.lag", "s")

    def consumed(self, outcome: str, count: int) -> None:
        """Count deliveries that are done."""
        if metrics is not None and count:
            self._consumed.add(count, self._about | {"relay.outcome": outcome})

    def refused(self, error: BaseException) -> None:
        """Count a try that failed."""
        if metrics is not None:
            self._refusals.add(1, self._about | {"error.type": type(error).__name__})

    def called(self, seconds: float) -> None:
        """Measure a call of the handler."""
        if metrics is not None:
            self._duration.record(seconds, self._about)

    def lagged(self, seconds: float) -> None:
        """Measure how late a message is done."""
        if metrics is not None:
            self._lag.record(max(0.0, seconds), self._about)

    @contextmanager
    def processing(self, messages: Sequence[Message]) -> Iterator[None]:
        """Make the block one span: of one message below its producer's, of many with links."""
        if trace is None or isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
            yield  # nobody has set up an SDK
            return
        about: dict[str, Any] = {**self._about, "messaging.operation.type": "process"}
        contexts = [propagate.extract(message.headers) for message in messages[:_MOST_LINKS]]
        if len(messages) == 1:
            about["messaging.message.id"] = messages[0].id
            parent, links = contexts[0], []
        else:
            about["messaging.batch.message_count"] = len(messages)
            spans = [trace.get_current_span(each).get_span_context() for each in contexts]
            parent, links = None, [trace.Link(each) for each in spans if each.is_valid]
        with self._tracer.start_as_current_span(
            self._name, parent, kind=trace.SpanKind.CONSUMER, attributes=about, links=links
        ):
            yield
