"""Every panel over a real run, asked of a real Prometheus as Grafana asks it."""

import math
from collections.abc import Iterator

import pytest

from relay.otel.instruments import INSTRUMENTS, labels, series
from tests.dashboards import shown
from tests.dashboards.rig import Run, run
from tests.dashboards.shown import RULES

pytestmark = [pytest.mark.timeout(180), pytest.mark.slow]

OF_EVERY_SERIES = {
    *("__name__", "job", "instance", "le"),
    *("otel_scope_name", "otel_scope_version", "otel_scope_schema_url"),
}


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with run(tmp_path_factory.mktemp("live")) as found:
        yield found


# One test over all queries, and one over all instruments: apart they would be spread over the
# workers of a run, and each of these has to live through the whole history first.


def test_every_query_returns_rows_with_the_labels_of_its_legend(live: Run) -> None:
    for asked in shown.queries():
        if asked.instant:
            result = live.prometheus.instant(asked.expr, live.ended)
            values = [float(row["value"][1]) for row in result]
        else:
            result = live.prometheus.over(asked.expr, live.began, live.ended)
            values = [float(value) for row in result for _, value in row["values"]]
        assert [value for value in values if not math.isnan(value)], f"no rows: {asked.title}"
        for row in result:
            assert set(asked.legend_labels) <= set(row["metric"]), asked.title


def test_what_is_measured_has_the_names_that_the_table_says(live: Run) -> None:
    for instrument in INSTRUMENTS:
        for name in series(instrument):
            found = live.prometheus.over(name, live.began, live.ended)
            assert found, f"{name} was never scraped"
            named = {label for row in found for label in row["metric"]} - OF_EVERY_SERIES
            assert named == set(labels(instrument)), name


def test_nothing_is_measured_that_is_not_in_the_table(live: Run) -> None:
    names = set(live.prometheus.label_values("__name__", '{job="relay"}'))
    of_prometheus = {"up", "target_info", "ALERTS", "ALERTS_FOR_STATE"}
    others = {name for name in names if not name.startswith("scrape_")} - of_prometheus
    assert others == set(shown.BY_SERIES)


def test_the_variables_offer_the_outbox_and_its_relays(live: Run) -> None:
    offered = {}
    for variable in shown.board()["templating"]["list"][1:]:
        asked = shown.put_in(variable["query"]["query"])
        selector, label = asked.removeprefix("label_values(").removesuffix(")").rsplit(", ", 1)
        offered[variable["name"]] = live.prometheus.label_values(label, selector)
    assert offered["job"] == ["relay"]
    assert len(offered["instance"]) == 2


def test_a_new_term_is_marked_once_with_its_number(live: Run) -> None:
    """Grafana makes one mark of values above 0 that follow each other."""
    (marks,) = shown.board()["annotations"]["list"]
    found = live.prometheus.over(shown.put_in(marks["expr"]), live.began + 2, live.ended)
    assert [row["metric"] for row in found] == [{"job": "relay", "term": "2"}]
    times = [time for time, _ in found[0]["values"]]
    assert len(times) <= 2
    assert times[-1] - times[0] <= 1


def test_the_first_row_tells_the_leader_and_what_fires(live: Run) -> None:
    by_title = {asked.title: asked for asked in shown.queries() if asked.instant}

    def now(title: str) -> list[dict[str, str]]:
        rows = live.prometheus.instant(by_title[f"{title} A"].expr, live.ended)
        return [row["metric"] for row in rows]

    (leader,) = now("Leader")
    assert leader["instance"].startswith("127.0.0.1:")
    assert {"alertname": "RelayDeadLetters"} in now("Firing alerts")
    assert {row["relay_side"] for row in now("Sides")} == {"postgres", "nats"}
    assert {row["relay_breaker"] for row in now("Breakers")} == {"lag", "bus"}


def test_every_alert_rule_could_be_evaluated_over_what_happened(live: Run) -> None:
    """Prometheus finds out only by the data that two series match where one should."""
    rules = live.prometheus.rules()
    assert {rule["name"]: rule.get("lastError") for rule in rules} == dict.fromkeys(RULES)
    assert {rule["health"] for rule in rules} == {"ok"}


def test_without_a_leader_the_first_row_says_nobody(live: Run) -> None:
    before_anything = live.began - 3600
    (asked,) = [each for each in shown.queries() if each.title == "Leader A"]
    (row,) = live.prometheus.instant(asked.expr, before_anything)
    assert (row["metric"], float(row["value"][1])) == ({"instance": "NOBODY"}, 0)
