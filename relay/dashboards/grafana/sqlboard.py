"""The second dashboard, for those who scrape nothing: Postgres itself is the data source.

Its login needs the role ``<schema>_monitor`` and no more. Each query reads one row of the view
``status``, at most 10,000 events of the view ``pending``, or what Postgres shows to everybody. A
dashboard without a store has no past: what happened when is in the other one.
"""

from typing import Final

from relay.dashboards.grafana.panels import (
    ANY_IS_BAD,
    ANY_IS_ODD,
    BAD,
    GOOD,
    NEUTRAL,
    WARN,
    Meaning,
    Panel,
    Sql,
    lines,
    row,
    stat,
    table,
)
from relay.postgres.sqlfiles import LEASE_CLASS

BREAKERS: Final = (
    Meaning("closed", "closed", GOOD),
    Meaning("half-open", "half-open", WARN),
    Meaning("open", "OPEN", BAD),
)
NOBODY: Final = "NOBODY"
SCHEMA: Final = {
    "type": "textbox",
    "name": "schema",
    "label": "Schema",
    "query": "relay",
    "current": {"selected": True, "text": "relay", "value": "relay"},
    "options": [{"selected": True, "text": "relay", "value": "relay"}],
    "hide": 0,
}
"""``RELAY_SCHEMA``, without quotes."""

_LEASE: Final = f"""from pg_locks as l
 where l.locktype = 'advisory'
   and l.database = (select d.oid from pg_database as d where d.datname = current_database())
   and l.classid = {LEASE_CLASS}
   and l.objid = '$schema.outbox'::regclass
   and l.objsubid = 2
   and l.mode = 'ExclusiveLock'
   and l.granted"""
_WAITING: Final = "from (select p.* from $schema.pending as p limit 10000) as p"


def panels() -> list[Panel]:
    """Return the rows and their panels."""
    return [row("Now"), *_now(), row("What waits"), *_waiting(), row("Postgres"), *_postgres()]


def _status(column: str) -> Sql:
    return Sql(f"select {column} from $schema.status as s")


def _now() -> list[Panel]:
    return [
        stat(
            "Lag",
            "Age of the oldest event that is not delivered. Red: people notice. See the leader and"
            " the breakers, then `python -m relay doctor`.",
            _status("s.lag_seconds"),
            unit="s",
            steps=((None, GOOD), (5, WARN), (60, BAD)),
        ),
        stat(
            "Backlog",
            "Committed events not settled yet; 10,000 means that many or more. Growing while events"
            " are delivered: the producers are faster.",
            _status("s.backlog"),
            steps=((None, GOOD), (1_000, WARN), (10_000, BAD)),
        ),
        stat(
            "Delivered",
            "Events per second that JetStream acknowledged, on average in this term: to see more,"
            " have the relay's metrics scraped.",
            _status(
                "s.delivered / nullif(extract(epoch from s.reported_at - s.term_began_at), 0)"
                "::float8 as delivered"
            ),
            unit="eps",
            steps=NEUTRAL,
            nothing="no word yet",
        ),
        stat(
            "Dead",
            "Events that were refused too often. They are kept: `python -m relay dead list`, mend"
            " the cause, then `dead retry` or `dead drop`.",
            _status("s.dead"),
            steps=ANY_IS_BAD,
        ),
        stat(
            "Parked",
            "Events that wait in relay.parked to be tried again, and the later events of their"
            " keys. `python -m relay dead list --parked` has the reasons.",
            _status("s.parked - s.dead as parked"),
            steps=ANY_IS_ODD,
        ),
        stat(
            "Held for",
            "How long the oldest event has waited for an outage of its stream to end: full,"
            " offline, or not permitted. The relay's log names the stream.",
            _status("s.held_lag_seconds"),
            unit="s",
            steps=ANY_IS_ODD,
        ),
        stat(
            "Leader",
            "Which relay holds the lease: its host and process. NOBODY: no relay runs, or none"
            " reaches Postgres; events wait, producers do not.",
            Sql(
                f"select case when exists (select {_LEASE})\n"
                f"            then s.holder else '{NOBODY}' end as leader\n"
                "  from $schema.status as s"
            ),
            meanings=(Meaning(NOBODY, NOBODY, BAD),),
            fields="/.*/",
            width=8,
        ),
        stat(
            "Term since",
            "When this leader took over. Young again and again: leaders lose their session, see"
            " `term ended` in their logs.",
            _status("extract(epoch from clock_timestamp() - s.term_began_at)::float8 as since"),
            unit="s",
            steps=NEUTRAL,
        ),
        stat(
            "Settled",
            "How long ago the cursor moved last. Long is fine while nothing waits; with a backlog"
            " the relay is stuck: `python -m relay doctor`.",
            _status("extract(epoch from clock_timestamp() - s.settled_at)::float8 as settled"),
            unit="s",
            steps=NEUTRAL,
            nothing="never",
        ),
        *(
            stat(
                f"{side} breaker",
                f"{means} It closes by itself once events flow.",
                _status(f"s.{side.lower()}_breaker"),
                meanings=BREAKERS,
                fields="/.*/",
                nothing="no word yet",
            )
            for side, means in (
                ("Lag", "Open: the oldest event is older than RELAY_CIRCUIT_BREAKER_LAG."),
                ("Bus", "Open: NATS is away from the leader, three times in a row."),
            )
        ),
    ]


def _waiting() -> list[Panel]:
    return [
        lines(
            "Waiting events by when they were written",
            "When what waits now was inserted, by subject. One old peak: a hold or a long"
            " transaction. All since a moment: the relay, or NATS, stopped then.",
            Sql(
                "select $__timeGroupAlias(p.created_at, $__interval), p.subject as metric,"
                f" count(*) as waiting\n  {_WAITING}\n where $__timeFilter(p.created_at)"
                "\n group by 1, 2\n order by 1",
                format="time_series",
            ),
            unit="short",
            stacked=True,
            width=12,
        ),
        table(
            "Subjects that wait",
            "Which subjects the waiting events have, of at most 10,000 events. One subject alone:"
            " look at its stream. All: look at the relay and NATS.",
            Sql(
                "select p.subject, count(*) as waiting, min(p.created_at) as oldest\n"
                f"  {_WAITING}\n group by p.subject\n order by waiting desc, p.subject\n limit 20"
            ),
            width=12,
        ),
        table(
            "Oldest waiting events",
            "`python -m relay where ID` says of each of these how far it is, and what holds it"
            " back. Parked and dead events are not among them.",
            Sql(
                "select p.id, p.created_at, p.subject, p.key, p.event_id\n"
                f"  {_WAITING}\n order by p.id\n limit 50"
            ),
            width=24,
        ),
    ]


def _postgres() -> list[Panel]:
    return [
        table(
            "Tables",
            "What vacuum sees of the outbox's tables. Dead rows that only grow: a transaction is"
            " open for long, or autovacuum is off. Rows of outbox: RELAY_RETENTION's worth.",
            Sql(
                "select t.relname as name, t.n_live_tup as rows, t.n_dead_tup as dead_rows,"
                " pg_total_relation_size(t.relid) as bytes,"
                " greatest(t.last_autovacuum, t.last_vacuum) as vacuumed\n"
                "  from pg_stat_user_tables as t\n where t.schemaname = '$schema'\n"
                " order by bytes desc, name"
            ),
            width=12,
        ),
        table(
            "Last repair",
            "What was published again, for a stream had lost what it acknowledged. gone_from and"
            " gone_to: ids that the outbox no longer has; see the runbook of RelayEventsLost.",
            Sql(
                "select s.repair_stream, s.repair_began_at, s.repair_ended_at, s.repair_events,"
                " s.gone_from, s.gone_to\n  from $schema.status as s\n"
                " where s.repair_stream is not null"
            ),
            width=12,
        ),
    ]
