"""The dashboard as Grafana sees it, its variables put in; the alert rules; and what both use."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import promql_parser
import yaml

from relay import dashboards
from relay.otel.instruments import INSTRUMENTS, Instrument, labels, series

BY_SERIES: dict[str, Instrument] = {
    name: instrument for instrument in INSTRUMENTS for name in series(instrument)
}
(_GROUP,) = yaml.safe_load(dashboards.shipped()[dashboards.ALERTS])["groups"]
RULES: dict[str, dict[str, Any]] = {rule["alert"]: rule for rule in _GROUP["rules"]}
"""The alert rules by name."""

OF_PROMETHEUS = {"ALERTS": ("alertname", "alertstate", "job")}


def board(name: str = dashboards.DASHBOARD) -> dict[str, Any]:
    return json.loads(dashboards.shipped()[name])


def panels() -> list[dict[str, Any]]:
    """Every panel that asks something."""
    return [panel for panel in board()["panels"] if panel["type"] != "row"]


@dataclass(frozen=True)
class Asked:
    """One query of the dashboard, with the variables put in for the test's relays."""

    title: str
    expr: str
    legend: str
    instant: bool

    @property
    def legend_labels(self) -> list[str]:
        return re.findall(r"\{\{(\w+)\}\}", self.legend)


def queries() -> Iterator[Asked]:
    for panel in panels():
        for target in panel["targets"]:
            yield Asked(
                f"{panel['title']} {target['refId']}",
                put_in(target["expr"]),
                target["legendFormat"],
                target["instant"],
            )


def put_in(expr: str) -> str:
    """Put the variables in, as Grafana does: all relays of one job, scraped once a second.

    Grafana's rate interval is four scrapes at least.
    """
    values = {
        "$__rate_interval": "4s",
        "$__interval": "1s",
        "$job": "relay",
        "$instance": ".*",
    }
    for name, value in values.items():
        expr = expr.replace(name, value)
    assert "$" not in expr, expr
    return expr


def used(expr: str) -> Iterator[tuple[str, set[str]]]:
    """Every series that the expression selects, with every label that it uses of it."""
    tree = promql_parser.parse(expr)
    yield from _used(tree, set())


def _used(tree: Any, grouped: set[str]) -> Iterator[tuple[str, set[str]]]:
    """Walk down; what is grouped by above has to be there below."""
    if isinstance(tree, promql_parser.VectorSelector):
        matchers = {matcher.name for matcher in tree.matchers.matchers}
        yield str(tree.name), matchers | grouped
        return
    if isinstance(tree, promql_parser.AggregateExpr):
        grouped = set(tree.modifier.labels) if tree.modifier else set()
    for child in _children(tree):
        yield from _used(child, grouped)


def _children(tree: Any) -> list[Any]:
    match tree:
        case promql_parser.BinaryExpr():
            return [tree.lhs, tree.rhs]
        case promql_parser.Call():
            return list(tree.args)
        case promql_parser.MatrixSelector():
            return [tree.vector_selector]
        case promql_parser.NumberLiteral() | promql_parser.StringLiteral():
            return []
        case _:
            return [tree.expr]


def strangers(expr: str) -> set[str]:
    """What the expression uses that is not in the instruments' table: series, or their labels."""
    found = set()
    for name, its_labels in used(expr):
        if name in OF_PROMETHEUS:
            known = set(OF_PROMETHEUS[name])
        elif name in BY_SERIES:
            known = {"job", "instance", "le", *labels(BY_SERIES[name])}
        else:
            found.add(name)
            continue
        found |= {f"{name}{{{label}}}" for label in its_labels - known}
    return found
