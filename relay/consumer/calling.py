"""Calling a handler: with a time limit, in a span, measured, and every wrong answer made an error.

Metrics and spans go by the OpenTelemetry API if it is installed.
Who wants them sets up an SDK, as for the rest of the application; nothing is sent otherwise, and
the SDK is not imported here. A handler runs in a span of kind CONSUMER, below the producer's:
``traceparent`` travels from the producer's transaction through outbox and stream.

    messaging.client.consumed.messages   counter     deliveries done, by relay.outcome: handled,
                                                     repeated, parked, waiting (behind a parked one)
    messaging.process.duration           histogram   s of one call of the handler
    relay.inbox.refusals                 counter     errors of the handler that the inbox keeps
    relay.inbox.lag                      histogram   s from storing in JetStream to the commit
"""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from relay.consumer.message import Message
from relay.core import durations
from relay.errors import RelayError

try:
    from opentelemetry import metrics, propagate, trace
except ImportError:  # the API is optional
    metrics = propagate = trace = None  # type: ignore[assignment]

_MOST_LINKS = 128

Call = Callable[[Any, Sequence[Message]], Awaitable[None]]
"""Handles some messages on a connection, in order."""


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
        """Count an error of the handler."""
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


class HandlerError(RelayError):
    """What a handler must not do."""


def calling(
    handler: Callable[..., Any], *, batches: bool, timeout: float, telemetry: Telemetry
) -> Call:
    """Return what calls ``handler``: once a message, or with ``batches`` once for all of them.

    The call raises HandlerError if the handler takes longer than ``timeout`` s or returns
    something, and what the handler raises.
    """

    async def one(connection: Any, messages: Sequence[Message]) -> None:
        began = time.monotonic()
        try:
            with telemetry.processing(messages):
                what = messages if batches else messages[0]
                answer = await _in_time(lambda: handler(connection, what), timeout)
        finally:
            telemetry.called(time.monotonic() - began)
        if answer is not None:
            raise HandlerError(
                f"the handler returned {type(answer).__name__}: it has to return None, or to raise"
            )

    async def each(connection: Any, messages: Sequence[Message]) -> None:
        for message in messages:
            await one(connection, (message,))

    async def all_(connection: Any, messages: Sequence[Message]) -> None:
        if messages:
            await one(connection, messages)

    return all_ if batches else each


async def _in_time(call: Callable[[], Any], seconds: float) -> object:
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            answer = call()
            if not inspect.isawaitable(answer):
                raise HandlerError("the handler is no async function: it has to be one")
            return await answer
    except TimeoutError:
        if limit.expired():
            raise HandlerError(f"took longer than {durations.format(seconds)}") from None
        raise
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise HandlerError("the handler cancelled itself") from None
