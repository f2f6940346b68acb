"""The Collector's configuration. No Collector is to be had for the tests: its form is checked."""

import re
from typing import Any

import pytest
import yaml

from relay import dashboards
from relay.otel.instruments import INSTRUMENTS, Kind
from tests.dashboards.shown import RULES

TEXT = dashboards.shipped()[dashboards.COLLECTOR].decode()
CONFIG: dict[str, Any] = yaml.safe_load(TEXT)
PIPELINES: dict[str, dict[str, list[str]]] = CONFIG["service"]["pipelines"]
KINDS = ("receivers", "processors", "exporters")


@pytest.mark.parametrize("kind", KINDS)
def test_every_component_of_a_pipeline_is_configured_and_every_configured_one_is_used(
    kind: str,
) -> None:
    used = {name for pipeline in PIPELINES.values() for name in pipeline[kind]}
    assert used == set(CONFIG[kind])


def test_metrics_go_to_prometheus_and_traces_go_on() -> None:
    assert set(CONFIG) == {*KINDS, "service"}
    assert PIPELINES["metrics"]["exporters"] == ["prometheus"]
    assert PIPELINES["traces"]["exporters"] == ["otlp_http"]
    assert set(PIPELINES) == {"metrics", "traces"}
    assert set(CONFIG["receivers"]["otlp"]["protocols"]) == {"grpc", "http"}


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_the_memory_limiter_comes_first_and_the_batch_last(pipeline: str) -> None:
    assert PIPELINES[pipeline]["processors"] == ["memory_limiter", "batch"]
    limiter = CONFIG["processors"]["memory_limiter"]
    assert limiter["check_interval"] == "1s"
    assert limiter["spike_limit_mib"] < limiter["limit_mib"]


def test_it_listens_on_loopback_on_ports_that_differ() -> None:
    protocols = CONFIG["receivers"]["otlp"]["protocols"]
    endpoints = [each["endpoint"] for each in protocols.values()]
    endpoints.append(CONFIG["exporters"]["prometheus"]["endpoint"])
    assert sorted(endpoints) == ["127.0.0.1:4317", "127.0.0.1:4318", "127.0.0.1:8889"]


def test_traces_go_where_the_environment_says() -> None:
    assert CONFIG["exporters"]["otlp_http"]["endpoint"] == "${env:TRACES_OTLP_ENDPOINT}"
    assert re.findall(r"\$\{(?!env:)", TEXT) == []


def test_its_names_are_those_of_the_relay_s_own_metrics() -> None:
    """By this strategy it appends what `series` does: _total, and the unit's word.

    It would also append _ratio to a gauge in `1`, and _per_ to a rate: no unit is one of those.
    """
    exporter = CONFIG["exporters"]["prometheus"]
    assert exporter["translation_strategy"] == "UnderscoreEscapingWithSuffixes"
    assert not {"namespace", "add_metric_suffixes"} & set(exporter)
    for each in INSTRUMENTS:
        assert each.unit in {"s", "By"} or re.fullmatch(r"\{\w+\}", each.unit), each.name
        ending = {"s": "seconds", "By": "bytes"}.get(each.unit, "total")
        assert not each.name.endswith(("total", ending)), each.name
        assert each.kind is not Kind.COUNTER or each.unit not in {"s", "By"}, each.name


def test_a_relay_that_ended_is_forgotten_before_two_leaders_ring() -> None:
    expires = CONFIG["exporters"]["prometheus"]["metric_expiration"]
    assert (expires, RULES["RelayTwoLead"]["for"]) == ("2m", "3m")


def test_prometheus_scrapes_it_and_keeps_the_relays_own_labels() -> None:
    scraping = yaml.safe_load(dashboards.shipped()[dashboards.SCRAPING])
    jobs = {each["job_name"]: each for each in scraping["scrape_configs"]}
    collector = jobs["otel-collector"]
    assert collector["honor_labels"] is True
    (group,) = collector["static_configs"]
    assert group["targets"] == [CONFIG["exporters"]["prometheus"]["endpoint"]]
    assert scraping["rule_files"] == [dashboards.ALERTS]
