"""The alert rules: each fires in time, says what it has to, stops, and rings for nothing else."""

import re
import subprocess
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from relay import dashboards, factlog
from relay.core.backoff import State
from relay.settings import Settings
from tests.dashboards import shown
from tests.dashboards.broken import OF_THE_REST
from tests.dashboards.faults import OF_DELIVERY
from tests.dashboards.histories import History, Ringing
from tests.dashboards.shown import RULES
from tests.dashboards.tools import tool

HISTORIES = [*OF_DELIVERY, *OF_THE_REST]


def promtool(folder: Path, *args: str) -> str:
    """Run promtool on the shipped files."""
    for name, content in dashboards.shipped().items():
        (folder / name).write_bytes(content)
    done = subprocess.run(
        [tool("promtool"), *args],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_takes_the_rules_and_the_scraping(tmp_path: Path) -> None:
    assert f"{len(RULES)} rules found" in promtool(tmp_path, "check", "rules", dashboards.ALERTS)
    promtool(tmp_path, "check", "config", dashboards.SCRAPING)


@pytest.mark.parametrize("history", HISTORIES, ids=lambda history: history.name)
def test_alerts_ring_when_they_have_to_and_at_no_other_time(
    history: History, tmp_path: Path
) -> None:
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(rules_test(history)))
    assert "SUCCESS" in promtool(tmp_path, "test", "rules", "test.yaml")


def test_a_term_is_marked_when_it_begins_and_not_when_a_scrape_was_missed(tmp_path: Path) -> None:
    epoch = 'relay_epoch{job="relay", instance="a"}'
    (marks,) = shown.board()["annotations"]["list"]
    mark = {"labels": '{job="relay", term="8"}', "value": 1}
    asked = [
        {"expr": shown.put_in(marks["expr"]), "eval_time": f"{at}s", "exp_samples": samples}
        for at, samples in [(1, []), (3, []), (4, []), (5, [mark]), (6, []), (7, [])]
    ]
    history = {"series": epoch, "values": "7 7 stale 7 7 8 8 8"}
    test = {"interval": "1s", "input_series": [history], "promql_expr_test": asked}
    (tmp_path / "test.yaml").write_text(
        yaml.safe_dump({"evaluation_interval": "1s", "tests": [test]})
    )
    assert "SUCCESS" in promtool(tmp_path, "test", "rules", "test.yaml")


def rules_test(history: History) -> dict[str, Any]:
    """The history as `promtool test rules` wants it: every alert is asked for at every minute."""
    asked = []
    for minute in sorted({*history.quiet, *([history.at] if history.at is not None else [])}):
        ringing = {each.alert: each for each in history.rings if minute == history.at}
        asked += [
            {
                "eval_time": f"{minute}m",
                "alertname": alert,
                "exp_alerts": [expected(ringing[alert])] if alert in ringing else [],
            }
            for alert in RULES
        ]
    series = [{"series": name, "values": values} for name, values in history.series.items()]
    test = {"interval": "1m", "input_series": series, "alert_rule_test": asked}
    return {"rule_files": [dashboards.ALERTS], "evaluation_interval": "1m", "tests": [test]}


def expected(ringing: Ringing) -> dict[str, Any]:
    said = {"summary": ringing.summary, "description": ringing.description}
    return {
        "exp_labels": {"severity": ringing.severity, **dict(ringing.labels)},
        "exp_annotations": {**RULES[ringing.alert]["annotations"], **said},
    }


def test_every_alert_has_a_history_in_which_it_rings_and_stops() -> None:
    for alert in RULES:
        rung = [each for each in HISTORIES if alert in {ring.alert for ring in each.rings}]
        assert rung, f"{alert} rings in no history"
        for each in rung:
            assert each.at is not None
            assert min(each.quiet) < each.at < max(each.quiet), each.name


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_every_alert_names_what_the_relay_measures(rule: dict[str, Any]) -> None:
    assert promql_parser.parse(rule["expr"])
    assert shown.strangers(rule["expr"]) == set()


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_every_alert_says_how_bad_it_is_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["alert"].startswith("Relay"), "the dashboard finds them by this"
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert rule["for"]
    said = rule["annotations"]
    assert set(said) == {"summary", "description", "runbook", "runbook_url"}
    assert len(said["summary"]) < 120
    parts = [line.split()[0] for line in said["runbook"].splitlines()]
    assert [part for part in parts if part in {"Means:", "Look", "Do:"}] == [
        "Means:",
        "Look",
        "Do:",
    ]
    assert "{{" not in said["runbook"], "a runbook is the same for every alert of its rule"


def test_every_log_line_that_a_text_quotes_is_written() -> None:
    written = [line for _, line in factlog._LINES.values()]
    written += [f"{breaker} breaker is {state}" for breaker in ("lag", "bus") for state in State]
    quoted = {
        quote
        for text in [*(rule["annotations"]["runbook"] for rule in RULES.values()), *described()]
        for quote in re.findall(r'"([a-z][a-z ]+)"', " ".join(text.split()))
    }
    assert len(quoted) > 5
    assert {quote for quote in quoted if not any(quote in line for line in written)} == set()


def described() -> list[str]:
    return [panel["description"] for panel in shown.panels()]


def test_every_setting_and_command_that_a_text_names_exists() -> None:
    variables = {variable for variable, *_ in Settings.table()}
    everything = dashboards.shipped()[dashboards.ALERTS].decode()
    everything += dashboards.shipped()[dashboards.DASHBOARD].decode()
    assert set(re.findall(r"\bRELAY_[A-Z_]+", everything)) <= variables
    commands = set(re.findall(r"python -m relay (\w+)", everything))
    assert commands == {"status", "dead", "reconcile"}
