"""Facts in, points out: what each fact does to the metrics."""

import threading
from datetime import UTC, datetime
from unittest.mock import Mock

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider

from relay.core.backoff import State
from relay.core.outcome import Fault
from relay.core.storage import OutboxStorage, StreamStorage
from relay.facts import (
    Asked,
    BacklogSeen,
    BreakerChanged,
    HoldBegan,
    HoldEnded,
    HousekeepingFailed,
    Looked,
    OutageBegan,
    OutageEnded,
    PageDelivered,
    Parked,
    Repaired,
    Retried,
    Sent,
    StandingBy,
    StreamLost,
    TermBegan,
    TermEnded,
    Unparked,
    Woken,
)
from relay.otel.instruments import INSTRUMENTS
from relay.otel.metrics import MANY, MetricsSink
from relay.ports import Backlog, Wake
from relay.state import RelayState

NATS = {"messaging.system": "nats", "messaging.operation.name": "publish"}
AT_ONCE = {"relay.lost", "relay.repaired", "relay.unrepaired"}
"""The counters that are there from the beginning."""

ORDERS = NATS | {"messaging.destination.name": "ORDERS"}


class Told:
    """A sink with a reader behind it."""

    def __init__(self) -> None:
        self.reader = InMemoryMetricReader()
        provider = MeterProvider([self.reader], shutdown_on_exit=False)
        self.state = RelayState()
        self.figures = MetricsSink(provider.get_meter("relay"), self.state)

    def __call__(self, *facts) -> "Told":
        for fact in facts:
            self.state.record(fact)
            self.figures.record(fact)
        return self

    def __getitem__(self, name: str):
        """Return value, or count and sum, by the attributes' values."""
        assert name in {each.name for each in INSTRUMENTS}
        return self.points().get(name, {})

    def points(self):
        data = self.reader.get_metrics_data()
        if data is None:
            return {}
        (resource,) = data.resource_metrics
        (scope,) = resource.scope_metrics
        return {
            metric.name: {
                tuple(sorted(point.attributes.items())): (
                    point.value if hasattr(point, "value") else (point.count, point.sum)
                )
                for point in metric.data.data_points
            }
            for metric in scope.metrics
        }


def about(**pairs):
    return tuple(sorted((name.replace("_", "."), value) for name, value in pairs.items()))


def key(attributes):
    return tuple(sorted(attributes.items()))


@pytest.fixture
def told() -> Told:
    return Told()


def test_a_batch_is_counted_once_by_stream_and_outcome(told: Told) -> None:
    counts = {("ORDERS", ""): 40, ("ORDERS", "refused"): 2}
    phases = {"seen": 0.2, "sent": 0.05, "acknowledged": 0.25}
    told(Sent(42, counts, 0.25, [("ORDERS", 0.5), ("ORDERS", 1.5)], phases))
    assert told["messaging.client.sent.messages"] == {
        key(ORDERS): 40,
        key(ORDERS | {"error.type": "refused"}): 2,
    }
    assert told["messaging.client.operation.duration"] == {key(ORDERS): (1, 0.25)}
    assert told["relay.batch.size"] == {(): (1, 42)}
    waits = {key({"messaging.destination.name": "ORDERS"}): (2, 2.0)}
    assert told["relay.delivery.duration"] == waits
    assert told["relay.delivery.phase.duration"] == {
        about(relay_phase=phase): (1, seconds) for phase, seconds in phases.items()
    }


def test_a_batch_that_came_to_nothing_names_its_error(told: Told) -> None:
    told(Sent(3, {("ORDERS", "outage"): 3}, 1.0, []))
    failed = key(ORDERS | {"error.type": "outage"})
    assert told["messaging.client.operation.duration"] == {failed: (1, 1.0)}


def test_a_batch_of_several_or_unknown_streams_names_none_for_the_call(told: Told) -> None:
    told(Sent(2, {("A", ""): 1, ("B", ""): 1}, 1.0, []), Sent(1, {("", ""): 1}, 1.0, [("", 1.0)]))
    assert told["messaging.client.operation.duration"] == {key(NATS): (2, 2.0)}
    assert told["relay.delivery.duration"] == {(): (1, 1.0)}


def test_the_store_is_timed_by_operation(told: Told) -> None:
    told(Asked("read", 0.1), Asked("read", 0.2), Asked("settle", 1.0, "StoreOutage"))
    postgres = {"db.system.name": "postgresql"}
    assert told["db.client.operation.duration"] == {
        key(postgres | {"db.operation.name": "read"}): (2, pytest.approx(0.3)),
        key(postgres | {"db.operation.name": "settle", "error.type": "StoreOutage"}): (1, 1.0),
    }


def test_counters_count(told: Told) -> None:
    now = datetime.now(UTC)
    told(
        PageDelivered(10, 3, 2, 0.1, now),
        PageDelivered(10, 0, 0, 0.1, now),
        Unparked(5, 1, 1),
        Retried(7, "why", 1, 0.1),
        Parked(1, "e", "s", None, "too large", 10054, 1, None, dead=True),
        Parked(1, "e", "s", None, "ours", 0, 1, 1.0, dead=False),
        Parked(2, "e", "s", None, "its id", 0, 1, None, dead=True, fault=Fault.COLLISION),
        Woken(Wake.BELL),
        Woken(Wake.BELL),
        Woken(Wake.POLL),
    )
    assert told["relay.duplicates"] == {(): 4}
    assert told["relay.duplicates.unverified"] == {(): 3}
    assert told["relay.retries"] == {(): 7}
    assert told["relay.refusals"] == {about(relay_code="10054"): 1, about(relay_code="0"): 2}
    assert told["relay.collisions"] == {(): 1}
    assert told["relay.wakes"] == {about(relay_cause="bell"): 2, about(relay_cause="poll"): 1}


def test_a_standby_shows_that_it_does_not_lead_and_nothing_of_what_leaders_look_at(
    told: Told,
) -> None:
    told(StandingBy("me"))
    assert told["relay.leader"] == {(): 0}
    assert {name for name, points in told.points().items() if points} == {
        "relay.leader",
        "relay.breaker.state",
        "relay.outage",
        "relay.hold",
        *AT_ONCE,
    }


def test_what_was_lost_has_a_zero_before_the_first(told: Told) -> None:
    assert all(told[name] == {(): 0} for name in AT_ONCE)
    told(StreamLost("S", True, 9, 100, 140, 101, 120), Repaired(20), StreamLost("S"))
    found = [told[name] for name in ("relay.lost", "relay.repaired", "relay.unrepaired")]
    assert found == [{(): 20}, {(): 20}, {(): 1}]


def test_a_leader_shows_what_it_saw_until_its_term_ends(told: Told) -> None:
    told(
        TermBegan("me", 7),
        BacklogSeen(Backlog(12, 3.5, 4, 1, held=2, held_lag=1.5)),
        Looked(OutboxStorage(8192, 30, 1.5, {"term": 1, "reader": 1})),
        Looked([StreamStorage("ORDERS", 100, 4096)]),
        HoldBegan("stream ORDERS", "why"),
    )
    seen = {
        "relay.leader": {(): 1},
        "relay.epoch": {(): 7},
        "relay.backlog": {(): 12},
        "relay.lag": {(): 3.5},
        "relay.held": {(): 2},
        "relay.held.lag": {(): 1.5},
        "relay.parked": {(): 4},
        "relay.dead": {(): 1},
        "relay.hold": {(): 1},
        "relay.outbox.size": {(): 8192},
        "relay.outbox.dead_rows": {(): 30},
        "relay.postgres.oldest_transaction": {(): 1.5},
        "relay.postgres.sessions": {about(relay_duty="term"): 1, about(relay_duty="reader"): 1},
        "relay.stream.messages": {about(messaging_destination_name="ORDERS"): 100},
        "relay.stream.size": {about(messaging_destination_name="ORDERS"): 4096},
    }
    for name, points in seen.items():
        assert told[name] == points
    told(TermEnded(7, ""), Looked(OutboxStorage(1, 1, 1.0, {})))  # a look that came too late
    left = {name: told[name] for name in seen if told[name]}
    assert left == {"relay.leader": {(): 0}, "relay.epoch": {(): 7}, "relay.hold": {(): 0}}


def test_what_may_not_be_seen_has_no_point(told: Told) -> None:
    told(TermBegan("me", 1), Looked(OutboxStorage(1, 1, None, {})))
    assert told["relay.postgres.oldest_transaction"] == {}


def test_faults_begin_and_end(told: Told) -> None:
    lag, bus = about(relay_breaker="lag"), about(relay_breaker="bus")
    postgres, nats = about(relay_side="postgres"), about(relay_side="nats")
    told(
        BreakerChanged("bus", State.CLOSED, State.OPEN, ""),
        BreakerChanged("lag", State.CLOSED, State.OPEN, ""),
        BreakerChanged("bus", State.OPEN, State.HALF_OPEN, ""),
        OutageBegan("nats", ""),
        OutageBegan("postgres", ""),
        HoldBegan("stream A", ""),
        HoldBegan("stream B", ""),
        HoldEnded("stream A", 1.0),
    )
    assert told["relay.breaker.state"] == {lag: 2, bus: 1}
    assert told["relay.outage"] == {postgres: 1, nats: 1}
    assert told["relay.hold"] == {(): 1}
    told(OutageEnded("postgres", 1.0, 1), StandingBy("me"))
    assert told["relay.outage"] == {postgres: 0, nats: 0}


def test_looks_that_fail_for_long_are_an_outage(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    postgres, nats = about(relay_side="postgres"), about(relay_side="nats")
    told(TermBegan("me", 1), HousekeepingFailed("no session"))
    assert told["relay.outage"] == {postgres: 0, nats: 0}
    monkeypatch.setattr("relay.state.BLIND_AFTER", 0.0)
    assert told["relay.outage"] == {postgres: 1, nats: 0}


def test_a_relay_that_is_closed_shows_no_gauge(told: Told) -> None:
    told(TermBegan("me", 1))
    told.figures.close()
    assert {name for name, points in told.points().items() if points} == AT_ONCE


def test_much_is_written_though_nobody_collects() -> None:
    meter = Mock()
    sink = MetricsSink(meter, RelayState())
    record = meter.create_histogram.return_value.record
    for _ in range(MANY - 1):
        sink.record(Asked("read", 0.1))
    assert record.call_count == 0
    sink.record(Asked("read", 0.1))
    assert record.call_count == MANY


def test_a_counter_is_whole_however_often_somebody_collects_meanwhile(told: Told) -> None:
    wakes, stop = 20_000, threading.Event()

    def collect() -> None:
        while not stop.is_set():
            told.points()

    collector = threading.Thread(target=collect)
    collector.start()
    try:
        for _ in range(wakes):
            told.figures.record(Woken(Wake.BELL))
            told.figures.record(Asked("read", 1.0))
    finally:
        stop.set()
        collector.join()
    assert told["relay.wakes"] == {about(relay_cause="bell"): wakes}
    assert list(told["db.client.operation.duration"].values()) == [(wakes, wakes)]


def test_the_end_of_a_relay_loses_no_measurement() -> None:
    meter = Mock()
    sink = MetricsSink(meter, RelayState())
    sink.record(Retried(7, "why", 1, 0.1))
    sink.close()
    assert [call.args[0] for call in meter.create_counter.return_value.add.mock_calls] == [7]


def test_an_exemplar_names_the_span_in_which_its_value_was_measured(told: Told) -> None:
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("relay")
    with tracer.start_as_current_span("publish") as span:
        told(Sent(1, {("ORDERS", ""): 1}, 0.25, [("ORDERS", 0.5)]))
    (resource,) = told.reader.get_metrics_data().resource_metrics
    points = {
        metric.name: metric.data.data_points[0]
        for metric in resource.scope_metrics[0].metrics
        if metric.data.data_points
    }
    (exemplar,) = points["relay.delivery.duration"].exemplars
    assert (exemplar.value, exemplar.trace_id) == (0.5, span.get_span_context().trace_id)
