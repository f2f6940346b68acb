"""A real relay, exporting to a real collector by both protocols: what arrives there, and when."""

import re
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

import nats
import psycopg
import pytest
from nats.js.api import ConsumerConfig, DeliverPolicy
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from relay import __version__, devstack
from relay.otel.instruments import INSTRUMENTS, Kind
from tests.otel.sink import Sink, attributes, sink
from tests.system.harness import STREAM, RelayProcess, delivered, until

pytestmark = pytest.mark.anyio

KINDS = {Kind.COUNTER: "sum", Kind.GAUGE: "gauge", Kind.HISTOGRAM: "histogram"}
INSERT = """
    insert into relay.outbox (event_id, subject, key, payload_bytes, headers)
    values (%s, %s, %s, 'x', %s)
"""


@pytest.fixture
def collector() -> Iterator[Sink]:
    with sink() as taken:
        yield taken


def otlp(taken: Sink, protocol: str = "grpc", **more: str) -> dict[str, str]:
    """The variables that send everything to ``taken``, soon."""
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": taken.grpc_url if protocol == "grpc" else taken.http_url,
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_METRIC_EXPORT_INTERVAL": "200",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    } | more


class Producer:
    """A request with a trace of its own."""

    def __init__(self, *, sampled: bool = True) -> None:
        self.event_id = str(uuid.uuid4())
        self.trace_id = uuid.uuid4().hex
        self.span_id = uuid.uuid4().hex[:16]
        self.headers = {
            "traceparent": f"00-{self.trace_id}-{self.span_id}-{int(sampled):02x}",
            "tracestate": "vendor=opaque,other=1",
            "baggage": "tenant=blue",
        }


def emit(dsn: str, producers: list[Producer], subject: str = "orders.placed") -> None:
    """Commit one event of each in one transaction."""
    with psycopg.connect(dsn) as connection, connection.cursor() as cursor:
        cursor.executemany(
            INSERT,
            [
                (each.event_id, subject, each.event_id, psycopg.types.json.Jsonb(each.headers))
                for each in producers
            ],
        )


def linked(spans: list[Span]) -> list[str]:
    return [link.trace_id.hex() for span in spans for link in span.links]


UNUSUAL = {"relay.duplicates", "relay.duplicates.unverified", "relay.collisions", "relay.retries"}
"""What has no point where nothing goes wrong."""


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_every_metric_arrives_as_the_table_says_and_none_besides(
    outbox_dsn: str, own_nats: devstack.NatsServer, collector: Sink, tmp_path: Path, protocol: str
) -> None:
    expected = {each.name for each in INSTRUMENTS} - UNUSUAL
    variables = otlp(collector, protocol, OTEL_EXPORTER_OTLP_COMPRESSION="gzip")
    with RelayProcess(outbox_dsn, own_nats.url, tmp_path / "log", variables=variables) as relay:
        emit(outbox_dsn, [Producer() for _ in range(5)])
        emit(outbox_dsn, [Producer()], subject="nobody.takes.this")
        until(lambda: set(collector.metrics) >= expected, 20)
        assert relay.terminate() == 0
    for each in INSTRUMENTS:
        if each.name in collector.metrics:
            came = collector.metrics[each.name]
            assert (came.unit, came.description) == (each.unit, each.help)
            assert came.WhichOneof("data") == KINDS[each.kind]
            for point in collector.points[each.name]:
                assert set(attributes(point.attributes)) <= set(each.attributes)
                if each.kind is Kind.HISTOGRAM:
                    assert tuple(point.explicit_bounds) == each.buckets
    assert set(collector.metrics) == expected
    sent = {
        attributes(point.attributes).get("error.type", ""): point.as_int
        for point in collector.metrics["messaging.client.sent.messages"].sum.data_points
    }
    assert sent[""] == 5
    assert sent["refused"] >= 1
    for resource in collector.resources:
        assert resource["service.name"] == "outbox-relay"
        assert resource["service.version"] == __version__
    assert len({resource["service.instance.id"] for resource in collector.resources}) == 1


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_a_batch_is_one_span_with_links_and_each_sampled_producer_sees_its_wait(
    outbox_dsn: str, own_nats: devstack.NatsServer, collector: Sink, tmp_path: Path, protocol: str
) -> None:
    sampled = [Producer() for _ in range(3)]
    unsampled = [Producer(sampled=False) for _ in range(3)]
    emit(outbox_dsn, sampled + unsampled)
    variables = otlp(collector, protocol, OTEL_SERVICE_NAME="orders-relay")
    with RelayProcess(outbox_dsn, own_nats.url, tmp_path / "log", variables=variables) as relay:
        until(lambda: len(collector.spans) >= 4, 20)
        assert relay.terminate() == 0
    (publish,) = collector.named("publish")
    assert publish.name == f"publish {STREAM}"
    assert publish.kind == Span.SPAN_KIND_CLIENT
    assert not publish.parent_span_id
    about = attributes(publish.attributes)
    assert about == {
        "messaging.system": "nats",
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
        "messaging.destination.name": STREAM,
        "messaging.batch.message_count": 6,
        "server.address": "127.0.0.1",
        "server.port": int(own_nats.url.rpartition(":")[2]),
    }
    assert sorted(linked([publish])) == sorted(each.trace_id for each in sampled)
    waits = {span.trace_id.hex(): span for span in collector.named("outbox wait")}
    assert set(waits) == {each.trace_id for each in sampled}
    for each in sampled:
        wait = waits[each.trace_id]
        assert wait.parent_span_id.hex() == each.span_id
        assert wait.trace_state == each.headers["tracestate"]
        assert attributes(wait.attributes)["messaging.message.id"] == f"relay-{each.event_id}"
        assert wait.start_time_unix_nano < publish.start_time_unix_nano
        assert wait.end_time_unix_nano == publish.end_time_unix_nano
        assert [link.span_id for link in wait.links] == [publish.span_id]
    assert {resource["service.name"] for resource in collector.resources} == {"orders-relay"}


async def test_the_consumer_gets_the_producers_context_as_it_was_written(
    outbox_dsn: str, own_nats: devstack.NatsServer, collector: Sink, tmp_path: Path
) -> None:
    producers = [Producer(), Producer(sampled=False), Producer()]
    producers[2].headers = {"traceparent": "not a context", "x": "1"}
    emit(outbox_dsn, producers)
    variables = otlp(collector)
    with RelayProcess(outbox_dsn, own_nats.url, tmp_path / "log", variables=variables) as relay:
        until(lambda: delivered(outbox_dsn) == 3, 20)
        assert relay.terminate() == 0
    async with await nats.connect(own_nats.url) as client:
        everything = ConsumerConfig(deliver_policy=DeliverPolicy.ALL)
        consumer = await client.jetstream().pull_subscribe("", stream=STREAM, config=everything)
        messages = await consumer.fetch(3, timeout=5)
    theirs = {}
    for message in messages:
        headers = dict(message.headers)
        ours = [name for name in headers if name.startswith(("Nats-", "Relay-"))]
        event_id = headers["Relay-Event-Id"]
        theirs[event_id] = {name: headers[name] for name in headers if name not in ours}
    assert theirs == {each.event_id: each.headers for each in producers}


def test_more_producers_than_a_span_takes_links_lose_none(
    outbox_dsn: str, own_nats: devstack.NatsServer, collector: Sink, tmp_path: Path
) -> None:
    producers = [Producer() for _ in range(300)]
    emit(outbox_dsn, producers)
    variables = otlp(collector)
    with RelayProcess(
        outbox_dsn, own_nats.url, tmp_path / "log", variables=variables, batch_size="1000"
    ) as relay:
        until(lambda: len(collector.named("outbox wait")) == 300, 20)
        assert relay.terminate() == 0
    spans = collector.named(f"publish {STREAM}")
    assert sorted(len(span.links) for span in spans) == [44, 128, 128]
    assert sorted(linked(spans)) == sorted(each.trace_id for each in producers)
    assert all(span.dropped_links_count == 0 for span in spans)
    (batch,) = [span for span in spans if not span.parent_span_id]
    assert {span.parent_span_id for span in spans if span is not batch} == {batch.span_id}
    assert attributes(batch.attributes)["messaging.batch.message_count"] == 300


def test_idling_makes_no_span(
    outbox_dsn: str, own_nats: devstack.NatsServer, collector: Sink, tmp_path: Path
) -> None:
    variables = otlp(collector)
    with RelayProcess(outbox_dsn, own_nats.url, tmp_path / "log", variables=variables) as relay:
        until(lambda: "relay.backlog" in collector.metrics, 20)
        emit(outbox_dsn, [Producer()])
        until(lambda: len(collector.spans) == 2, 20)
        until(lambda: "relay.wakes" in collector.points, 20)
        wakes = collector.points["relay.wakes"]
        before = len(wakes)
        until(lambda: len(wakes) >= before + 10, 20)  # 2 s of idle polls
        assert relay.terminate() == 0
    assert sorted(span.name for span in collector.spans) == ["outbox wait", f"publish {STREAM}"]


def test_a_collector_that_just_starts_gets_all_spans(
    outbox_dsn: str, own_nats: devstack.NatsServer, tmp_path: Path
) -> None:
    emit(outbox_dsn, [Producer() for _ in range(10)])
    with sink(refuse=2) as collector:
        variables = otlp(collector, "http/protobuf", OTEL_METRICS_EXPORTER="none")
        with RelayProcess(outbox_dsn, own_nats.url, tmp_path / "log", variables=variables) as relay:
            until(lambda: len(collector.spans) == 11, 20)
            assert relay.terminate() == 0
        assert not collector.metrics


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
@pytest.mark.parametrize("silent", [False, True], ids=["dead", "silent"])
def test_a_dead_collector_stops_neither_the_delivery_nor_the_exit(
    outbox_dsn: str, own_nats: devstack.NatsServer, tmp_path: Path, protocol: str, silent: bool
) -> None:
    log = tmp_path / "log"
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        if not silent:
            listening.close()
        dead = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": url,
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
            "OTEL_METRIC_EXPORT_INTERVAL": "200",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            # far longer than the exit may take
            "OTEL_EXPORTER_OTLP_TIMEOUT": "60",
            "OTEL_METRIC_EXPORT_TIMEOUT": "60000",
            "OTEL_BSP_EXPORT_TIMEOUT": "60000",
        }
        with RelayProcess(outbox_dsn, own_nats.url, log, variables=dead) as relay:
            for _ in range(5):
                wanted = delivered(outbox_dsn) + 50
                emit(outbox_dsn, [Producer() for _ in range(50)])
                until(lambda wanted=wanted: delivered(outbox_dsn) == wanted, 10)
            assert relay.terminate() == 0
    told = log.read_text()
    assert len(re.findall(r'"logger": "(?:opentelemetry|urllib3)', told)) <= 4, told
