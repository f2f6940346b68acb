"""Spans continue the producer's trace; what is measured. The SDK is the application's."""

import asyncio
from typing import Any

import pytest
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from relay.consumer import Message
from tests.consumer.rig import World, until

pytestmark = pytest.mark.anyio
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


async def test_a_handler_runs_in_a_span_below_its_producer_s_and_all_is_counted(
    there: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracers = TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    meters = MeterProvider([reader])
    monkeypatch.setattr(trace, "get_tracer", tracers.get_tracer)
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: tracers)
    monkeypatch.setattr(metrics, "get_meter", meters.get_meter)
    current = []

    async def handle(_: Any, message: Message) -> None:
        current.append(trace.get_current_span().get_span_context().trace_id)
        if message.id == "bad":
            raise ValueError("no")

    async with there.running(handle, max_attempts=1) as consumer:
        await there.publish(1, "a", traceparent=f"00-{TRACE}-00f067aa0ba902b7-01")
        await until(lambda: consumer.counts.handled == 1)
        await there.publish(2, "b", id_="bad")
        await until(lambda: consumer.counts.parked == 1)
    assert current[0] == int(TRACE, 16)
    spans = exporter.get_finished_spans()
    assert spans[0].name == f"process {there.stream}"
    assert spans[0].kind is trace.SpanKind.CONSUMER
    assert spans[0].parent is not None
    assert spans[0].parent.span_id == int("00f067aa0ba902b7", 16)
    assert spans[-1].status.status_code is trace.StatusCode.ERROR
    data = reader.get_metrics_data()
    assert data is not None
    found = {
        metric.name: list(metric.data.data_points)
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
    consumed = {
        point.attributes["relay.outcome"]: point.value
        for point in found["messaging.client.consumed.messages"]
    }
    assert consumed == {"handled": 1, "parked": 1}
    assert found["relay.inbox.refusals"][0].attributes["error.type"] == "ValueError"
    assert found["messaging.process.duration"][0].count == 2
    assert found["relay.inbox.lag"][0].count == 1
    await asyncio.to_thread(meters.shutdown)
