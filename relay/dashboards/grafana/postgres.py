"""The Postgres side: what the relay asks, and what the outbox weighs."""

from relay.dashboards.grafana import promql
from relay.dashboards.grafana.panels import BAD, GOOD, WARN, Panel, Query, lines, row
from relay.otel import instruments as i

_OPERATION = "db_operation_name"


def panels() -> list[Panel]:
    """Return the row and its panels."""
    return [row("Postgres"), *_statements(), *_outbox()]


def _statements() -> list[Panel]:
    return [
        lines(
            "Statements p99",
            "Time of what the relay asks of Postgres. settle slow: the disk, or a lock on the"
            " cursor row. read slow: a cold cache, or a plan that lost the index: analyze the"
            " outbox.",
            Query(promql.quantile(0.99, i.DATABASE_DURATION, _OPERATION), f"{{{{{_OPERATION}}}}}"),
            unit="s",
        ),
        lines(
            "Statements per second",
            "Reads that found nothing are left out, so this follows the load.",
            Query(promql.per_second(i.DATABASE_DURATION, _OPERATION), f"{{{{{_OPERATION}}}}}"),
            unit="ops",
            stacked=True,
        ),
        lines(
            "Statements that failed",
            "By what was asked and how it ended. A few at an outage belong to it. tend, look or"
            " report again and again: housekeeping fails, and the outbox grows; see the log.",
            Query(
                promql.per_second(
                    i.DATABASE_DURATION, _OPERATION, "error_type", where=(promql.FAILED,)
                ),
                f"{{{{{_OPERATION}}}}} {{{{error_type}}}}",
            ),
            unit="ops",
            stacked=True,
        ),
    ]


def _outbox() -> list[Panel]:
    return [
        lines(
            "Outbox size",
            "The outbox table with its indexes: about RELAY_RETENTION's worth of events. Grows on:"
            " pruning fails, or a backlog waits, or vacuum is held back.",
            Query(promql.highest(i.OUTBOX_SIZE), "outbox"),
            unit="bytes",
            width=6,
        ),
        lines(
            "Dead rows",
            "Rows that pruning deleted and vacuum has not removed. Delivery does not slow down by"
            " them, the table grows.",
            Query(promql.highest(i.DEAD_ROWS), "dead rows"),
            unit="short",
            width=6,
        ),
        lines(
            "Oldest transaction",
            "The oldest transaction of this database holds back vacuum. Find it:"
            " `select pid, state, xact_start, query from pg_stat_activity order by xact_start`."
            " No value: grant the relay's role pg_read_all_stats.",
            Query(promql.highest(i.OLDEST_TRANSACTION), "oldest transaction"),
            unit="s",
            steps=((None, GOOD), (900, WARN), (1800, BAD)),
            width=6,
        ),
        lines(
            "Sessions",
            "The leader's open Postgres sessions, by duty. There is no pool: this many connections"
            " it takes, and no more.",
            Query(promql.highest(i.SESSIONS, "relay_duty"), "{{relay_duty}}"),
            unit="short",
            stacked=True,
            width=6,
        ),
    ]
