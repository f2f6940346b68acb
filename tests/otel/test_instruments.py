"""The table against what OpenTelemetry and Prometheus make of it: names can't drift."""

import re
from unittest.mock import Mock

import pytest
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.semconv._incubating.metrics import db_metrics, messaging_metrics
from prometheus_client import CollectorRegistry

from relay.otel.instruments import INSTRUMENTS, Instrument, Kind, labels, series
from relay.otel.metrics import MetricsSink
from relay.state import RelayState

MAKE = {
    Kind.COUNTER: "create_counter",
    Kind.GAUGE: "create_observable_gauge",
    Kind.HISTOGRAM: "create_histogram",
}
ours = pytest.mark.parametrize("each", INSTRUMENTS, ids=lambda each: each.name)


def point_of_each(provider: MeterProvider) -> None:
    """Make every instrument of the table as it says, with one point that has all attributes."""
    meter = provider.get_meter("relay")
    for each in INSTRUMENTS:
        about = dict.fromkeys(each.attributes, "x")
        match each.kind:
            case Kind.COUNTER:
                meter.create_counter(each.name, each.unit, each.help).add(1, about)
            case Kind.HISTOGRAM:
                meter.create_histogram(each.name, each.unit, each.help).record(1, about)
            case Kind.GAUGE:
                points = [lambda _, about=about: [Observation(1, about)]]
                meter.create_observable_gauge(each.name, points, each.unit, each.help)


@pytest.fixture(scope="module")
def scraped() -> dict[str, set[str]]:
    """The labels of each series in Prometheus' format, but for those of every series."""
    registry = CollectorRegistry()
    provider = MeterProvider(
        [PrometheusMetricReader(registry=registry, scope_info_enabled=False)],
        shutdown_on_exit=False,
    )
    point_of_each(provider)
    return {
        sample.name: set(sample.labels) - {"le"}
        for family in registry.collect()
        for sample in family.samples
        if family.name != "target"
    }


@ours
def test_its_series_in_prometheus_are_those_of_the_exporter(
    each: Instrument, scraped: dict[str, set[str]]
) -> None:
    for name in series(each):
        assert scraped[name] == set(labels(each))


def test_prometheus_knows_no_other_series(scraped: dict[str, set[str]]) -> None:
    assert set(scraped) == {name for each in INSTRUMENTS for name in series(each)}


@ours
def test_it_is_described_as_the_conventions_want(each: Instrument) -> None:
    assert re.fullmatch(r"[a-z]+(\.[a-z_]+)+", each.name)
    assert each.unit in {"s", "By"} or re.fullmatch(r"\{[a-z]+\}", each.unit)
    assert each.help.endswith(".")
    assert bool(each.buckets) is (each.kind is Kind.HISTOGRAM)
    assert list(each.buckets) == sorted(set(each.buckets))
    assert not each.name.endswith(("_total", ".total", ".count"))


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        (messaging_metrics.MESSAGING_CLIENT_SENT_MESSAGES, "{message}"),
        (messaging_metrics.MESSAGING_CLIENT_OPERATION_DURATION, "s"),
        (db_metrics.DB_CLIENT_OPERATION_DURATION, "s"),
    ],
)
def test_where_the_conventions_have_a_name_it_is_theirs(name: str, unit: str) -> None:
    assert [each.unit for each in INSTRUMENTS if each.name == name] == [unit]
    theirs = [each.name for each in INSTRUMENTS if not each.name.startswith("relay.")]
    assert len(theirs) == 3


def test_the_sink_makes_every_instrument_and_no_other() -> None:
    meter = Mock()
    MetricsSink(meter, RelayState())
    made = {args[0]: method for method, args, _ in meter.method_calls if "create" in method}
    assert made == {each.name: MAKE[each.kind] for each in INSTRUMENTS}
