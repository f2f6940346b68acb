"""Histories of two relays, a minute a step: a healthy one, and one for every fault that rings.

What an alert has to say is written by hand here; what people do then, its runbook, is taken from
the rules. `promtool test rules` judges.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

MINUTES = 150
A = 'job="orders", instance="a"'
B = 'job="orders", instance="b"'
NONE = None
SENT = "messaging_client_sent_messages_total"
BUCKET = "relay_delivery_duration_seconds_bucket"
BUS = 'relay_breaker="bus"'
LAG = 'relay_breaker="lag"'
OF_BUS = (("job", "orders"), ("relay_breaker", "bus"))
OF_LAG = (("job", "orders"), ("relay_breaker", "lag"))


def level(*changes: tuple[int, float | None]) -> str:
    """A gauge that changes at these minutes; None: it is there no more."""
    samples, value = [], None
    at = dict(changes)
    for minute in range(MINUTES + 1):
        gone = minute in at and at[minute] is None and minute > 0
        value = at.get(minute, value)
        samples.append("stale" if gone else "_" if value is None else f"{value:g}")
    return " ".join(samples)


def climb(start: int, end: int, first: float, each_minute: float) -> str:
    """A gauge that is 0 but between two minutes, where it climbs."""
    between = ((m, first + each_minute * (m - start)) for m in range(start, end))
    return level((0, 0), *between, (end, 0))


def count(*changes: tuple[int, float]) -> str:
    """A counter that goes up by so many each minute, from these minutes on."""
    samples, total, rate = [], 0.0, 0.0
    at = dict(changes)
    for minute in range(MINUTES + 1):
        samples.append(f"{total:g}")
        rate = at.get(minute, rate)
        total += rate
    return " ".join(samples)


HEALTHY: Mapping[str, str] = {
    f"relay_leader{{{A}}}": level((0, 1)),
    f"relay_leader{{{B}}}": level((0, 0)),
    f"relay_epoch{{{A}}}": level((0, 7)),
    f"relay_lag_seconds{{{A}}}": level((0, 0.01)),
    f"relay_backlog{{{A}}}": level((0, 5)),
    f"messaging_client_sent_messages_total{{{A}}}": count((0, 6000)),
    f'messaging_client_sent_messages_total{{{A}, error_type="refused"}}': count((0, 0)),
    f'relay_delivery_duration_seconds_bucket{{{A}, le="0.005"}}': count((0, 5900)),
    f'relay_delivery_duration_seconds_bucket{{{A}, le="1"}}': count((0, 6000)),
    f'relay_delivery_duration_seconds_bucket{{{A}, le="2.5"}}': count((0, 6000)),
    f'relay_delivery_duration_seconds_bucket{{{A}, le="+Inf"}}': count((0, 6000)),
    f'relay_breaker_state{{{A}, relay_breaker="lag"}}': level((0, 0)),
    f'relay_breaker_state{{{A}, relay_breaker="bus"}}': level((0, 0)),
    f'relay_outage{{{A}, relay_side="postgres"}}': level((0, 0)),
    f'relay_outage{{{A}, relay_side="nats"}}': level((0, 0)),
    f'relay_outage{{{B}, relay_side="postgres"}}': level((0, 0)),
    f"relay_hold{{{A}}}": level((0, 0)),
    f"relay_parked{{{A}}}": level((0, 0)),
    f"relay_dead{{{A}}}": level((0, 0)),
    f"relay_retries_total{{{A}}}": count((0, 1)),
    f"relay_duplicates_total{{{A}}}": count((0, 1)),
    f'db_client_operation_duration_seconds_count{{{A}, db_operation_name="prune"}}': count((0, 2)),
    f"relay_postgres_oldest_transaction_seconds{{{A}}}": level((0, 20)),
}
"""A hundred events a second, in milliseconds, a retry and a duplicate a minute."""


@dataclass(frozen=True)
class Ringing:
    """An alert that fires, and what it says."""

    alert: str
    severity: str
    summary: str
    description: str
    labels: tuple[tuple[str, str], ...] = (("job", "orders"),)


@dataclass(frozen=True)
class History:
    """What happened to the healthy relays, and which alerts ring at which minutes; no other may.

    Attributes:
        quiet: minutes at which nothing rings: before, too early, and once it is over.
        at: the minute at which all of `rings` ring.
        faults: series that differ from the healthy ones; None: there is none.
    """

    name: str
    quiet: Sequence[int]
    at: int | None
    rings: Sequence[Ringing]
    faults: Mapping[str, str | None]

    @property
    def series(self) -> dict[str, str]:
        mixed = {**HEALTHY, **self.faults}
        return {name: values for name, values in mixed.items() if values is not None}
