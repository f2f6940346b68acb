"""Panels as Grafana's JSON wants them: plain dicts, with only what differs from its defaults.

Units are Grafana's ids: ``s``, ``bytes``, ``eps`` (events/s), ``short`` (a count).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

Panel = dict[str, Any]
Steps = Sequence[tuple[float | None, str]]
"""Thresholds: from which value on, and the colour; the first from None."""

DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
POSTGRES: Final = {"type": "grafana-postgresql-datasource", "uid": "${datasource}"}

GOOD, WARN, BAD, PLAIN = "green", "orange", "red", "blue"
CALM: Final[Steps] = ((None, GOOD),)
NEUTRAL: Final[Steps] = ((None, PLAIN),)
ANY_IS_BAD: Final[Steps] = ((None, GOOD), (1, BAD))
ANY_IS_ODD: Final[Steps] = ((None, GOOD), (1, WARN))


@dataclass(frozen=True, slots=True)
class Query:
    """One question to Prometheus, and how its answers are called: ``{{label}}``."""

    expr: str
    legend: str = ""

    source = DATASOURCE

    def target(self, *, instant: bool) -> dict[str, Any]:
        """Return it as Prometheus' plugin wants it."""
        return {
            "editorMode": "code",
            "expr": self.expr,
            "format": "time_series",
            "instant": instant,
            "legendFormat": self.legend or "__auto",
            "range": not instant,
        }


@dataclass(frozen=True, slots=True)
class Sql:
    """One question to Postgres."""

    text: str
    format: Literal["table", "time_series"] = "table"

    source = POSTGRES

    def target(self, *, instant: bool) -> dict[str, Any]:  # noqa: ARG002 - a row is of now
        """Return it as Postgres' plugin wants it."""
        return {
            "editorMode": "code",
            "format": self.format,
            "rawQuery": True,
            "rawSql": self.text,
        }


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a value says in words."""

    value: int | str
    text: str
    colour: str


def stat(
    title: str,
    description: str,
    *queries: Query | Sql,
    unit: str = "short",
    steps: Steps = CALM,
    meanings: Sequence[Meaning] = (),
    show: Literal["value", "name", "value_and_name"] = "value",
    fields: str = "",
    nothing: str = "unknown",
    width: int = 4,
) -> Panel:
    """Show what is so now, in large letters on the colour of its threshold.

    Args:
        title: of the panel.
        description: what it says, and what to do.
        queries: asked for this moment only.
        unit: Grafana's id.
        steps: thresholds.
        meanings: words for values.
        show: the value, the legend, or both.
        fields: which columns, as a pattern; numbers unless given.
        nothing: what to show if there is no answer.
        width: of 24 columns.
    """
    options = {
        "colorMode": "background",
        "graphMode": "none",
        "justifyMode": "auto",
        "orientation": "auto",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": fields, "values": False},
        "textMode": show,
        "wideLayout": True,
    }
    panel = _panel(
        "stat", title, description, queries, options, width=width, height=4, instant=True
    )
    panel["fieldConfig"]["defaults"] |= {
        "unit": unit,
        "noValue": nothing,
        "color": {"mode": "thresholds"},
        "thresholds": _thresholds(steps),
        "mappings": _mappings(meanings),
    }
    return panel


def lines(
    title: str,
    description: str,
    *queries: Query | Sql,
    unit: str,
    steps: Steps = (),
    stacked: bool = False,
    width: int = 8,
) -> Panel:
    """Draw values over time; thresholds, if there are any, as dashed lines."""
    options = {
        "legend": {
            "calcs": ["lastNotNull", "max"],
            "displayMode": "table",
            "placement": "bottom",
            "showLegend": True,
        },
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    panel = _panel("timeseries", title, description, queries, options, width=width, height=8)
    custom: dict[str, Any] = {
        "drawStyle": "line",
        "lineInterpolation": "linear",
        "lineWidth": 1,
        "fillOpacity": 30 if stacked else 5,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"group": "A", "mode": "normal" if stacked else "none"},
        "thresholdsStyle": {"mode": "dashed" if steps else "off"},
    }
    panel["fieldConfig"]["defaults"] |= {
        "unit": unit,
        "min": 0,
        "color": {"mode": "palette-classic"},
        "custom": custom,
        "thresholds": _thresholds(steps or CALM),
    }
    return panel


def states(
    title: str, description: str, *queries: Query, meanings: Sequence[Meaning], width: int = 8
) -> Panel:
    """Draw states over time, a band each."""
    options = {
        "alignValue": "left",
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": False},
        "mergeValues": True,
        "rowHeight": 0.9,
        "showValue": "auto",
        "tooltip": {"mode": "single", "sort": "none"},
    }
    panel = _panel("state-timeline", title, description, queries, options, width=width, height=6)
    panel["fieldConfig"]["defaults"] |= {
        "color": {"mode": "thresholds"},
        "custom": {"fillOpacity": 70, "lineWidth": 0},
        "mappings": _mappings(meanings),
        "thresholds": _thresholds(NEUTRAL),
    }
    return panel


def heat(title: str, description: str, query: Query, *, unit: str, width: int = 12) -> Panel:
    """Draw a histogram's buckets over time."""
    options = {
        "calculate": False,
        "cellGap": 1,
        "cellValues": {"unit": "short"},
        "color": {
            "exponent": 0.5,
            "fill": "dark-orange",
            "mode": "scheme",
            "reverse": False,
            "scale": "exponential",
            "scheme": "Oranges",
            "steps": 64,
        },
        "exemplars": {"color": "rgba(255,0,255,0.7)"},
        "filterValues": {"le": 1e-9},
        "legend": {"show": True},
        "rowsFrame": {"layout": "auto"},
        "showValue": "never",
        "tooltip": {"mode": "single", "showColorScale": True, "yHistogram": True},
        "yAxis": {"axisPlacement": "left", "reverse": False, "unit": unit},
    }
    panel = _panel("heatmap", title, description, [query], options, width=width, height=8)
    panel["targets"][0]["format"] = "heatmap"
    return panel


def table(title: str, description: str, query: Sql, *, width: int) -> Panel:
    """Show rows as they are."""
    options = {"cellHeight": "sm", "showHeader": True}
    return _panel("table", title, description, [query], options, width=width, height=8)


def row(title: str) -> Panel:
    """Begin a row of panels."""
    return {"type": "row", "title": title, "collapsed": False, "panels": []}


def _panel(
    kind: str,
    title: str,
    description: str,
    queries: Sequence[Query | Sql],
    options: dict[str, Any],
    *,
    width: int,
    height: int,
    instant: bool = False,
) -> Panel:
    return {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": queries[0].source,
        "gridPos": {"w": width, "h": height, "x": 0, "y": 0},
        "targets": [
            {
                **query.target(instant=instant),
                "datasource": query.source,
                "refId": chr(ord("A") + number),
            }
            for number, query in enumerate(queries)
        ],
        "fieldConfig": {"defaults": {}, "overrides": []},
        "options": options,
    }


def _thresholds(steps: Steps) -> dict[str, Any]:
    return {
        "mode": "absolute",
        "steps": [{"color": colour, "value": above} for above, colour in steps],
    }


def _mappings(meanings: Sequence[Meaning]) -> list[dict[str, Any]]:
    options = {
        str(each.value): {"color": each.colour, "index": number, "text": each.text}
        for number, each in enumerate(meanings)
    }
    return [{"type": "value", "options": options}] if options else []
