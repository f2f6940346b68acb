"""The first row: do events arrive, how late, who leads, what is broken."""

from relay.dashboards.grafana import promql
from relay.dashboards.grafana.panels import (
    ANY_IS_BAD,
    ANY_IS_ODD,
    BAD,
    GOOD,
    NEUTRAL,
    PLAIN,
    WARN,
    Meaning,
    Panel,
    Query,
    row,
    stat,
)
from relay.otel import instruments as i

BREAKERS = (Meaning(0, "closed", GOOD), Meaning(1, "half-open", WARN), Meaning(2, "OPEN", BAD))
SIDES = (Meaning(0, "there", GOOD), Meaning(1, "AWAY", BAD))
ROLES = (Meaning(0, "stands by", PLAIN), Meaning(1, "leads", GOOD))

_LEADERS = f"max by (instance) ({promql.gauge(i.LEADER)} == 1)"
_NOBODY = 'label_replace(vector(0), "instance", "NOBODY", "", "")'
_FIRING = 'ALERTS{alertname=~"Relay.+", alertstate="firing", job=~"$job|"}'


def panels() -> list[Panel]:
    """Return the row and its panels."""
    return [row("Now"), *_delivery(), *_leadership(), *_troubles()]


def _delivery() -> list[Panel]:
    return [
        stat(
            "Stored",
            "Events that JetStream acknowledged, per second. 0 is fine while nothing waits; with a"
            " backlog beside it the relay is stuck: see what is away, then"
            " `python -m relay status`.",
            Query(promql.per_second(i.SENT_MESSAGES, where=(promql.WENT_WELL,))),
            unit="eps",
            steps=NEUTRAL,
        ),
        stat(
            "Lag",
            "Age of the oldest event that is not delivered. Red: people notice. Look at the sides"
            " and breakers here, then at the row Delivery.",
            Query(promql.highest(i.LAG)),
            unit="s",
            steps=((None, GOOD), (5, WARN), (60, BAD)),
        ),
        stat(
            "Backlog",
            "Committed events not settled yet, an estimate above 10,000. Growing while events are"
            " stored: the producers are faster. Growing while none is: see Lag.",
            Query(promql.highest(i.BACKLOG)),
            steps=((None, GOOD), (10_000, WARN), (100_000, BAD)),
        ),
        stat(
            "Delivery p99",
            "99 of 100 events were acknowledged within this time of their being written. High with"
            " a low lag: JetStream or Postgres is slow, see their rows.",
            Query(promql.quantile(0.99, i.DELIVERY_DURATION)),
            unit="s",
            steps=((None, GOOD), (0.1, WARN), (1, BAD)),
            nothing="idle",
        ),
    ]


def _leadership() -> list[Panel]:
    return [
        stat(
            "Leader",
            "Who leads. NOBODY: no relay runs, or none reaches Postgres; events wait, producers do"
            " not. Two: only for a moment while one hands over; the epoch lets one of them settle.",
            Query(f"{_LEADERS} or on () {_NOBODY}", "{{instance}}"),
            steps=((None, BAD), (1, GOOD)),
            show="name",
            width=5,
        ),
        stat(
            "Relays",
            "Relays that report, the leader among them. 1: nobody stands by, start another one."
            " 0: none runs, or none is scraped.",
            Query(f"count({promql.gauge(i.LEADER)}) or vector(0)"),
            steps=((None, BAD), (1, WARN), (2, GOOD)),
            width=3,
        ),
    ]


def _troubles() -> list[Panel]:
    return [
        stat(
            "Sides",
            "Whether Postgres and NATS answer. AWAY: the relay waits and tries again by itself,"
            " nothing is lost; mend that side, or its network, address or login: the relay's log"
            " has the reason.",
            Query(promql.highest(i.OUTAGE, "relay_side"), "{{relay_side}}"),
            steps=ANY_IS_BAD,
            meanings=SIDES,
            show="value_and_name",
        ),
        stat(
            "Breakers",
            "lag OPEN: the oldest event is older than RELAY_CIRCUIT_BREAKER_LAG. bus OPEN: NATS"
            " failed three times in a row; single tries go through, at most 30 s apart.",
            Query(promql.highest(i.BREAKER_STATE, "relay_breaker"), "{{relay_breaker}}"),
            steps=((None, GOOD), (1, WARN), (2, BAD)),
            meanings=BREAKERS,
            show="value_and_name",
        ),
        stat(
            "Dead",
            "Events that were refused too often. They are kept: `python -m relay dead list`, mend"
            " the cause, then `dead retry` or `dead drop`.",
            Query(promql.highest(i.DEAD)),
            steps=ANY_IS_BAD,
            width=3,
        ),
        stat(
            "Parked",
            "Events that wait in relay.parked to be tried again, and the later events of their"
            " keys. `python -m relay dead list --parked` has the reasons.",
            Query(f"{promql.highest(i.PARKED)} - {promql.highest(i.DEAD)}"),
            steps=ANY_IS_ODD,
            width=3,
        ),
        stat(
            "Held streams",
            "Streams, or parts of one, that take nothing: full, offline, or not permitted. Their"
            " events wait, the others flow. The relay's log names them.",
            Query(promql.highest(i.HOLD)),
            steps=ANY_IS_ODD,
            width=3,
        ),
        stat(
            "Firing alerts",
            "The alerts of prometheus-alerts.yaml that fire, if this Prometheus evaluates them."
            " Each carries its runbook: what it means, what to look at, what to do.",
            Query(f"max by (alertname) ({_FIRING})", "{{alertname}}"),
            steps=ANY_IS_BAD,
            show="name",
            nothing="none",
            width=7,
        ),
    ]
