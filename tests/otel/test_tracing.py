"""Spans of batches and of producers' waits, made with the SDK and kept in memory."""

from datetime import UTC, datetime, timedelta

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from opentelemetry.trace import SpanKind, StatusCode, get_current_span

from relay.core.event import Event
from relay.core.outcome import Refused, Stored, Unknown
from relay.errors import BusOutage
from relay.otel import tracing
from relay.otel.tracing import Traces


class Spans:
    """Traces into memory, on a clock that stands."""

    def __init__(self, sampler=None) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider(sampler, shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.now = 0.0
        self.traces = Traces(provider.get_tracer("relay"), now=lambda: self.now)

    def publish(self, events, outcomes=None, stream="ORDERS"):
        named = stream if callable(stream) else lambda _: stream
        with self.traces.publishing(events) as publishing:
            self.within = get_current_span().get_span_context()
            publishing.came_to([Stored()] * len(events) if outcomes is None else outcomes)
            publishing.went_to({each.subject: named(each.subject) for each in events})

    def taken(self, name):
        return [span for span in self.exporter.get_finished_spans() if span.name.startswith(name)]


@pytest.fixture
def spans() -> Spans:
    return Spans()


def event(number, *, sampled=True, subject="orders.placed", **headers):
    context = {} if sampled is None else {"traceparent": traceparent(number, sampled=sampled)}
    created_at = datetime.now(UTC) - timedelta(seconds=2)
    made = context | headers
    return Event(number, str(number), f"m{number}", subject, None, created_at, made or None, b"x")


def traceparent(number, *, sampled):
    return f"00-{number:032x}-{number:016x}-{int(sampled):02x}"


def test_one_event_is_named_by_its_message_id(spans: Spans) -> None:
    spans.publish([event(1, sampled=None)])
    (span,) = spans.taken("publish")
    assert (span.name, span.kind, span.parent) == ("publish ORDERS", SpanKind.CLIENT, None)
    assert dict(span.attributes) == {
        "messaging.system": "nats",
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
        "messaging.destination.name": "ORDERS",
        "messaging.message.id": "m1",
    }
    assert span.status.status_code is StatusCode.UNSET
    assert spans.within == span.context


def test_a_sampled_producer_gets_its_wait_and_an_unsampled_one_nothing(spans: Spans) -> None:
    events = [event(1), event(2, sampled=False), event(3, sampled=None)]
    spans.publish(events)
    (wait,) = spans.taken("outbox wait")
    (publish,) = spans.taken("publish")
    assert (wait.parent.trace_id, wait.parent.span_id) == (1, 1)
    assert wait.parent.is_remote
    assert wait.start_time == int(events[0].created_at.timestamp() * 1e9)
    assert wait.end_time == publish.end_time
    assert [link.context.trace_id for link in publish.links] == [1]
    assert dict(publish.links[0].attributes) == {
        "messaging.message.id": "m1",
        "messaging.destination.name": "ORDERS",
    }
    assert [link.context for link in wait.links] == [publish.context]


def test_what_is_not_stored_keeps_waiting(spans: Spans) -> None:
    spans.publish([event(1), event(2), event(3)], [Stored(), Refused("no"), Unknown("?")])
    assert [span.parent.trace_id for span in spans.taken("outbox wait")] == [1]
    (publish,) = spans.taken("publish")
    assert len(publish.links) == 3
    assert publish.attributes["relay.not_stored"] == 2


@pytest.mark.parametrize(
    ("header", "kept"),
    [
        ("vendor=opaque, other=1", {"vendor": "opaque", "other": "1"}),
        ("a@b=1,,\tc=2", {"a@b": "1", "c": "2"}),
        ("c4n4ry", {}),
        ("Vendor=c4n4ry", {}),
        ("a=c4n4ry,a=c4n4ry", {}),
        (f"a=c4n4ry{'x' * 300}", {}),
        (",".join(f"k{number}=c4n4ry" for number in range(33)), {}),
        ("a=c4n4ry\u00e9", {}),
    ],
)
def test_a_tracestate_is_kept_or_dropped_and_never_logged(
    spans: Spans, caplog: pytest.LogCaptureFixture, header: str, kept: dict[str, str]
) -> None:
    spans.publish([event(1, tracestate=header)])
    (publish,) = spans.taken("publish")
    assert dict(publish.links[0].context.trace_state) == kept
    assert caplog.records == []


def test_an_outage_is_an_error_of_the_batch_and_waits_go_on(spans: Spans) -> None:
    with pytest.raises(BusOutage), spans.traces.publishing([event(1)]):
        raise BusOutage("connection lost")
    (publish,) = spans.exporter.get_finished_spans()
    assert publish.name == "publish"
    assert publish.attributes["error.type"] == "BusOutage"
    assert publish.status.status_code is StatusCode.ERROR
    assert not publish.events


def test_several_streams_are_named_on_the_links_alone(spans: Spans) -> None:
    spans.publish([event(1, subject="a"), event(2, subject="b")], stream=str.upper)
    (publish,) = spans.taken("publish")
    assert publish.name == "publish"
    assert "messaging.destination.name" not in publish.attributes
    named = [link.attributes["messaging.destination.name"] for link in publish.links]
    assert named == ["A", "B"]


@pytest.mark.parametrize(
    ("producers", "sizes"), [(128, [128]), (129, [128, 1]), (300, [128] * 2 + [44])]
)
def test_links_are_split_where_a_span_takes_no_more(spans: Spans, producers, sizes) -> None:
    spans.publish([event(number) for number in range(1, producers + 1)])
    publish = sorted(spans.taken("publish"), key=lambda span: -len(span.links))
    assert [len(span.links) for span in publish] == sizes
    linked = {link.context.trace_id for span in publish for link in span.links}
    assert linked == set(range(1, producers + 1))


def test_the_limit_is_that_of_the_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SPAN_LINK_COUNT_LIMIT", "10")
    spans = Spans()
    spans.publish([event(number) for number in range(1, 26)])
    publish = spans.taken("publish")
    assert sorted(len(span.links) for span in publish) == [5, 10, 10]
    assert sum(span.dropped_links for span in publish) == 0


def test_the_producers_decide_even_where_the_relays_own_spans_are_off() -> None:
    spans = Spans(ParentBased(ALWAYS_OFF))
    spans.publish([event(1), event(2, sampled=False)])
    (wait,) = spans.exporter.get_finished_spans()
    assert (wait.name, wait.parent.trace_id, wait.links) == ("outbox wait", 1, ())


def test_the_state_of_other_vendors_goes_along(spans: Spans) -> None:
    spans.publish([event(1, tracestate="vendor=opaque"), event(2, tracestate="not one")])
    first, second = spans.taken("outbox wait")
    assert first.context.trace_state.to_header() == "vendor=opaque"
    assert second.context.trace_state.to_header() == ""


def test_a_clock_that_is_behind_makes_no_span_end_before_it_begins(spans: Spans) -> None:
    late = event(1)._replace(created_at=datetime.now(UTC) + timedelta(seconds=60))
    spans.publish([late])
    (wait,) = spans.taken("outbox wait")
    assert wait.end_time == wait.start_time


def test_while_a_backlog_waits_few_are_traced_and_the_batch_says_so() -> None:
    spans = Spans()
    page = [event(number) for number in range(1, 1_501)]
    assert traced(spans, page) == (1_000, True)
    assert traced(spans, page) == (0, True)
    spans.now += 0.2
    assert traced(spans, page) == (0.2 * tracing.BEHIND, True)
    assert traced(spans, [event(1, sampled=False)] * 1_500) == (0, False)


def test_a_relay_that_keeps_up_traces_all() -> None:
    spans = Spans()
    page = [event(number) for number in range(1, 101)]
    for _ in range(100):  # 2,000 events/s
        spans.now += 0.05
        assert traced(spans, page) == (100, False)


def test_what_can_be_saved_up_is_bounded() -> None:
    spans = Spans()
    spans.now += 3_600
    assert traced(spans, [event(number) for number in range(1, 1_501)]) == (1_000, True)


def traced(spans, events):
    """Publish; how many events are traced, and whether it is said that it was cut short."""
    spans.exporter.clear()
    spans.publish(events)
    (batch,) = [span for span in spans.taken("publish") if span.parent is None]
    links = sum(len(span.links) for span in spans.taken("publish"))
    assert links == len(spans.taken("outbox wait"))
    return links, batch.attributes.get("relay.traces_cut_short", False)


def test_headers_are_only_read(spans: Spans) -> None:
    before = event(1, tracestate="a=1", baggage="b=2")
    headers = dict(before.headers)
    spans.publish([before])
    assert before.headers == headers
