"""The dashboard's file: as its code makes it, as Grafana reads it, with names that exist."""

import itertools
from typing import Any

import promql_parser
import pytest

from relay import dashboards
from relay.dashboards.grafana import board as code
from relay.otel.instruments import INSTRUMENTS, Instrument, series
from tests.dashboards import model, shown

OF_PROMETHEUS = {"step", "titleFormat", "textFormat", "tagKeys", "useValueForTime"}
"""Grafana's model leaves these to the data source's plugin."""
BOTH = pytest.mark.parametrize("name", [dashboards.DASHBOARD, dashboards.SQL_DASHBOARD])


def test_the_files_are_what_the_code_makes() -> None:
    made = {dashboards.DASHBOARD: code.board(), dashboards.SQL_DASHBOARD: code.sql_board()}
    for name, board in made.items():
        shipped = dashboards.shipped()[name].decode()
        assert shipped == code.text(board), "run python -m relay.dashboards.grafana"


def test_grafana_s_own_model_knows_every_key_and_takes_every_value() -> None:
    of_prometheus = {f"annotations.list[0].{key}" for key in OF_PROMETHEUS}
    assert set(model.faults(shown.board())) == of_prometheus


def test_the_comparison_with_the_model_finds_typing_errors() -> None:
    ours = shown.board()
    ours["panels"][1]["options"] |= {"colourMode": "none", "textMode": "nmae"}
    ours["panels"][2]["tragets"] = ours["panels"][2].pop("targets")
    ours["panels"][3]["fieldConfig"]["defaults"] |= {"colour": {}, "decimals": "2"}
    ours["panels"][4]["gridPos"] |= {"w": "8"}
    found = set(model.faults(ours)) - {f"annotations.list[0].{key}" for key in OF_PROMETHEUS}
    assert found == {
        "panels[1].options.colourMode",
        "panels.options.text_mode = 'nmae'",
        "panels[2].tragets",
        "panels[3].fieldConfig.defaults.colour",
        "panels.field_config.defaults.decimals = '2'",
        "panels.grid_pos.w = '8'",
    }


@BOTH
def test_no_panel_lies_on_another_and_none_is_outside(name: str) -> None:
    places = [(panel["id"], panel["gridPos"]) for panel in shown.board(name)["panels"]]
    assert len({number for number, _ in places}) == len(places)
    for number, place in places:
        assert place["x"] >= 0, number
        assert place["x"] + place["w"] <= 24, number
    for (one, a), (other, b) in itertools.combinations(places, 2):
        apart = (
            a["x"] + a["w"] <= b["x"]
            or b["x"] + b["w"] <= a["x"]
            or a["y"] + a["h"] <= b["y"]
            or b["y"] + b["h"] <= a["y"]
        )
        assert apart, f"panels {one} and {other} overlap"


@BOTH
def test_every_line_of_panels_is_full(name: str) -> None:
    panels = shown.board(name)["panels"]
    for y, line in itertools.groupby(panels, lambda panel: panel["gridPos"]["y"]):
        assert sum(panel["gridPos"]["w"] for panel in line) == 24, f"the line at {y} has a gap"


@pytest.mark.parametrize("panel", shown.panels(), ids=lambda panel: panel["title"])
def test_every_panel_says_what_it_shows_in_units_that_grafana_has(panel: dict[str, Any]) -> None:
    assert len(panel["description"]) > 60
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    unit = panel["fieldConfig"]["defaults"].get("unit") or panel["options"].get("yAxis", {}).get(
        "unit"
    )
    assert unit in model.UNITS or (unit is None and panel["type"] == "state-timeline")


def test_the_first_row_asks_for_this_moment_only() -> None:
    """The last value of a relay that is dead is no answer to what is so now."""
    board = shown.board()["panels"]
    titles = [panel["title"] for panel in board if panel["type"] == "row"]
    assert titles == ["Now", "Delivery", "Faults", "Postgres", "JetStream"]
    (second,) = [number for number, panel in enumerate(board) if panel["title"] == "Delivery"]
    first = board[1:second]
    assert {panel["type"] for panel in first} == {"stat"}
    assert all(target["instant"] for panel in first for target in panel["targets"])
    assert all(panel["fieldConfig"]["defaults"]["thresholds"]["steps"] for panel in first)


def test_the_variables_are_data_source_job_and_instance_and_every_query_heeds_them() -> None:
    variables = {each["name"]: each for each in shown.board()["templating"]["list"]}
    assert list(variables) == ["datasource", "job", "instance"]
    assert variables["instance"]["allValue"] == ".*"
    for panel in shown.panels():
        for target in panel["targets"]:
            heeds = 'job=~"$job' in target["expr"]
            assert heeds, panel["title"]
            assert 'instance=~"$instance"' in target["expr"] or "ALERTS" in target["expr"]


def expressions() -> list[tuple[str, str]]:
    asked = [(each.title, each.expr) for each in shown.queries()]
    marks = shown.board()["annotations"]["list"]
    asked += [(each["name"], shown.put_in(each["expr"])) for each in marks]
    return asked


@pytest.mark.parametrize(("title", "expr"), expressions(), ids=lambda text: text[:40])
def test_every_expression_parses_and_names_what_the_relay_measures(title: str, expr: str) -> None:
    assert promql_parser.parse(expr)
    assert shown.strangers(expr) == set()


def test_a_series_or_a_label_that_is_not_measured_is_found() -> None:
    assert shown.strangers("sum by (job) (rate(relay_lag_total[5m]))") == {"relay_lag_total"}
    found = shown.strangers('max by (side) (relay_outage{job="a", relay_side="nats", site="b"})')
    assert found == {"relay_outage{side}", "relay_outage{site}"}


def test_every_legend_is_made_of_labels_that_the_query_keeps() -> None:
    for asked in shown.queries():
        for label in asked.legend_labels:
            assert label in asked.expr, f"{asked.title} has no {label}"


@pytest.mark.parametrize("instrument", INSTRUMENTS, ids=lambda each: each.name)
def test_everything_that_is_measured_is_shown(instrument: Instrument) -> None:
    seen = {name for asked in shown.queries() for name, _ in shown.used(asked.expr)}
    assert seen & set(series(instrument))


def test_a_heat_map_shows_the_delivery_histogram() -> None:
    heat = {panel["title"]: panel for panel in shown.panels() if panel["type"] == "heatmap"}
    (target,) = heat["Delivery time"]["targets"]
    assert "relay_delivery_duration_seconds_bucket" in target["expr"]
    assert (target["format"], target["legendFormat"]) == ("heatmap", "{{le}}")
