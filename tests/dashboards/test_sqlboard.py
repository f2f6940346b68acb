"""The dashboard on Postgres: each panel's SQL, run by a login that may do no more than monitor."""

import datetime as dt
import re
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from relay import dashboards
from relay.postgres.sqlfiles import LEASE_CLASS
from tests.dashboards import model, shown
from tests.system.harness import emit

PANELS = {
    panel["title"]: panel
    for panel in shown.board(dashboards.SQL_DASHBOARD)["panels"]
    if panel["type"] != "row"
}
MACROS = {
    r"\$__timeGroupAlias\((.*?), *\$__interval\)": (
        r'floor(extract(epoch from \1)/60)*60 AS "time"'
    ),
    r"\$__timeFilter\((.*?)\)": r"\1 BETWEEN '{since}' AND '{until}'",
    r"\$schema": "relay",
}
"""What Grafana's plugin puts in for each macro, for an interval of a minute."""

TABLES = {
    "Subjects that wait": ["subject", "waiting", "oldest"],
    "Oldest waiting events": ["id", "created_at", "subject", "key", "event_id"],
    "Tables": ["name", "rows", "dead_rows", "bytes", "vacuumed"],
    "Last repair": [
        *("repair_stream", "repair_began_at", "repair_ended_at", "repair_events"),
        *("gone_from", "gone_to"),
    ],
}


@pytest.fixture
def owner(outbox_dsn: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(outbox_dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def monitor(outbox_dsn: str) -> Iterator[psycopg.Connection[dict[str, Any]]]:
    with psycopg.connect(outbox_dsn, autocommit=True, row_factory=dict_row) as connection:
        connection.execute("set role relay_monitor")
        yield connection


def rows(monitor: psycopg.Connection[dict[str, Any]], title: str) -> list[dict[str, Any]]:
    """The panel's answer, as Grafana gets it."""
    (target,) = PANELS[title]["targets"]
    sql = target["rawSql"]
    for macro, meaning in MACROS.items():
        sql = re.sub(macro, meaning, sql)
    assert "$" not in sql
    now, hour = dt.datetime.now(dt.UTC), dt.timedelta(hours=1)
    sql = sql.replace("{since}", str(now - hour)).replace("{until}", str(now + hour))
    return monitor.execute(sql.encode()).fetchall()


def value(monitor: psycopg.Connection[dict[str, Any]], title: str) -> Any:
    """A stat panel's one value."""
    (row,) = rows(monitor, title)
    (only,) = row.values()
    return only


def test_grafana_s_own_model_knows_every_key_and_takes_every_value() -> None:
    assert model.faults(shown.board(dashboards.SQL_DASHBOARD)) == []


@pytest.mark.parametrize("panel", PANELS.values(), ids=PANELS)
def test_every_panel_says_what_it_shows_and_asks_postgres(panel: dict[str, Any]) -> None:
    assert len(panel["description"]) > 60
    source = {"type": "grafana-postgresql-datasource", "uid": "${datasource}"}
    assert panel["datasource"] == source
    assert [target["datasource"] for target in panel["targets"]] == [source]
    assert panel["fieldConfig"]["defaults"].get("unit", "short") in model.UNITS


def test_an_empty_outbox_without_a_relay_answers_every_panel(
    monitor: psycopg.Connection[dict[str, Any]],
) -> None:
    answers = {title: rows(monitor, title) for title in PANELS}
    stats = {title for title, panel in PANELS.items() if panel["type"] == "stat"}
    assert {title: len(answers[title]) for title in stats} == dict.fromkeys(stats, 1)
    assert value(monitor, "Leader") == "NOBODY"
    assert [value(monitor, title) for title in ("Lag", "Backlog", "Dead", "Parked")] == [0] * 4
    for title, columns in TABLES.items():
        assert all(list(row) == columns for row in answers[title])
    assert {"outbox", "parked"} <= {row["name"] for row in answers["Tables"]}


def test_every_panel_shows_what_is_in_the_outbox(
    owner: psycopg.Connection, monitor: psycopg.Connection[dict[str, Any]]
) -> None:
    for subject in ("orders.placed", "orders.placed", "orders.paid"):
        emit(owner, subject, "order-7")
    owner.execute("select pg_advisory_lock(%s, 'relay.outbox'::regclass::oid::int)", (LEASE_CLASS,))
    owner.execute(
        "update relay.cursor set epoch = 3, holder = 'host:4711:x',"
        " term_began_at = clock_timestamp() - interval '100 s'"
    )
    owner.execute(
        "update relay.report set epoch = 3, reported_at = clock_timestamp(), delivered = 500,"
        " lag_breaker = 'closed', bus_breaker = 'open'"
    )
    assert value(monitor, "Leader") == "host:4711:x"
    assert value(monitor, "Delivered") == pytest.approx(5, rel=0.2)
    assert value(monitor, "Term since") == pytest.approx(100, rel=0.2)
    assert value(monitor, "Backlog") == 3
    assert 0 < value(monitor, "Lag") < 60
    assert value(monitor, "Bus breaker") == "open"
    for breaker in ("Lag breaker", "Bus breaker"):
        (mapping,) = PANELS[breaker]["fieldConfig"]["defaults"]["mappings"]
        assert value(monitor, breaker) in mapping["options"]

    now = dt.datetime.now(dt.UTC).timestamp()
    waiting = rows(monitor, "Waiting events by when they were written")
    assert {row["metric"] for row in waiting} == {"orders.placed", "orders.paid"}
    assert sum(row["waiting"] for row in waiting) == 3
    assert all(abs(float(row["time"]) - now) < 600 for row in waiting)
    by_subject = [(row["subject"], row["waiting"]) for row in rows(monitor, "Subjects that wait")]
    assert by_subject == [("orders.placed", 2), ("orders.paid", 1)]
    oldest = rows(monitor, "Oldest waiting events")
    assert [list(row) for row in oldest] == [TABLES["Oldest waiting events"]] * 3
    assert [row["id"] for row in oldest] == sorted(row["id"] for row in oldest)


def test_a_dead_event_and_a_repair_are_shown(
    owner: psycopg.Connection, monitor: psycopg.Connection[dict[str, Any]]
) -> None:
    ids = owner.execute(
        "insert into relay.outbox (subject, payload) values ('a', '1'), ('a', '2') returning id"
    ).fetchall()
    owner.execute(
        "insert into relay.parked (id, event_id, subject, created_at, last_error, dead_at)"
        " select o.id, o.event_id, o.subject, o.created_at, '', case when o.id = %s then now() end"
        "   from relay.outbox as o",
        ids[0],
    )
    assert (value(monitor, "Dead"), value(monitor, "Parked")) == (1, 1)
    owner.execute(
        "insert into relay.repair (stream, seq, after_id, up_to_id, base, last_id)"
        " values ('ORDERS', 1, 0, 2, pg_current_snapshot(), 2)"
    )
    (repair,) = rows(monitor, "Last repair")
    assert list(repair) == TABLES["Last repair"]
    assert repair["repair_stream"] == "ORDERS"


def test_the_login_may_read_no_payload(monitor: psycopg.Connection[dict[str, Any]]) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        monitor.execute("select * from relay.outbox")
