"""The dashboards as wholes: rows laid out, variables, annotations."""

import json
from collections.abc import Sequence
from typing import Any, Final

from relay.dashboards.grafana import now, rows, sqlboard
from relay.dashboards.grafana.panels import DATASOURCE, POSTGRES, Panel
from relay.otel import instruments as i
from relay.otel.instruments import series

COLUMNS: Final = 24
SCHEMA: Final = 39
"""That of Grafana 11.0; later ones bring it up to date when they load it."""


def board() -> dict[str, Any]:
    """Return the dashboard of the relays' metrics as Grafana's JSON model."""
    made = now.panels(), rows.delivery(), rows.faults(), rows.postgres(), rows.jetstream()
    return _board(
        "relay-outbox",
        "Relay: Postgres outbox to NATS JetStream",
        [panel for row in made for panel in row],
        variables=[_source("Prometheus", "prometheus"), *_variables()],
        annotations=[_terms()],
    )


def sql_board() -> dict[str, Any]:
    """Return the dashboard of the outbox's own tables."""
    return _board(
        "relay-outbox-postgres",
        "Relay: the outbox, as Postgres sees it",
        sqlboard.panels(),
        variables=[_source("Postgres", POSTGRES["type"]), sqlboard.SCHEMA],
    )


def text(made: dict[str, Any]) -> str:
    """Return a dashboard's file."""
    return json.dumps(made, indent=2, ensure_ascii=False, sort_keys=True) + "\n"


def _board(
    uid: str,
    title: str,
    panels: Sequence[Panel],
    *,
    variables: list[dict[str, Any]],
    annotations: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    return {
        "uid": uid,
        "title": title,
        "description": "Are events arriving, how late, who leads, what is broken.",
        "tags": ["relay", "outbox", "nats", "postgres"],
        "schemaVersion": SCHEMA,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": variables},
        "annotations": {"list": list(annotations)},
        "links": [],
        "panels": laid_out(panels),
    }


def laid_out(panels: Sequence[Panel]) -> list[Panel]:
    """Number the panels and put them side by side, a new line where one has no room left."""
    x = y = deepest = 0
    placed = []
    for number, panel in enumerate(panels, start=1):
        if panel["type"] == "row":
            size = {"w": COLUMNS, "h": 1}
        else:
            size = {name: panel["gridPos"][name] for name in ("w", "h")}
        if x + size["w"] > COLUMNS or panel["type"] == "row":
            x, y = 0, y + deepest
            deepest = 0
        placed.append({**panel, "id": number, "gridPos": {**size, "x": x, "y": y}})
        x, deepest = x + size["w"], max(deepest, size["h"])
    return placed


def _source(label: str, plugin: str) -> dict[str, Any]:
    return {
        "type": "datasource",
        "name": "datasource",
        "label": label,
        "query": plugin,
        "current": {},
        "hide": 0,
        "refresh": 1,
        "regex": "",
        "options": [],
        "multi": False,
        "includeAll": False,
    }


def _variables() -> list[dict[str, Any]]:
    (leader,) = series(i.LEADER)
    return [
        _labels("job", "Outbox", f"label_values({leader}, job)"),
        {
            **_labels("instance", "Relay", f'label_values({leader}{{job=~"$job"}}, instance)'),
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
            "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        },
    ]


def _labels(name: str, label: str, query: str) -> dict[str, Any]:
    return {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": DATASOURCE,
        "query": {
            "qryType": 1,
            "query": query,
            "refId": "PrometheusVariableQueryEditor-VariableQuery",
        },
        "current": {},
        "hide": 0,
        "refresh": 2,
        "regex": "",
        "sort": 1,
        "options": [],
        "multi": False,
        "includeAll": False,
    }


def _terms() -> dict[str, Any]:
    """Mark where the term's number went up; its number is the mark's text.

    The relays of the variable ``instance`` do not matter here: a term is the outbox's. What a
    scrape misses is no new term: the number before is the highest of an hour.
    """
    (epoch,) = series(i.EPOCH)
    newest = f'max by (job) ({epoch}{{job=~"$job"}})'
    seen = f'{epoch}{{job=~"$job"}}[1h] offset $__interval'
    before = f"max by (job) (max_over_time({seen}))"
    return {
        "name": "New terms",
        "datasource": DATASOURCE,
        "enable": True,
        "hide": False,
        "iconColor": "purple",
        "expr": f'count_values by (job) ("term", {newest} unless {before} >= {newest})',
        "step": "15s",
        "titleFormat": "{{job}}: term {{term}} began",
        "textFormat": "another relay leads, or the same one again",
        "tagKeys": "job",
        "useValueForTime": False,
    }
