"""What a term requires of the schema, and what it is told where that is not so."""

import logging
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest

from relay.errors import SchemaError
from relay.ports import Settlement
from relay.postgres import migrations
from relay.postgres.outbox import PostgresOutbox
from relay.postgres.reading import FEW
from relay.postgres.session import Session
from tests.postgres.databases import execute

pytestmark = pytest.mark.anyio

PARK = """
insert into relay.parked (id, event_id, created_at, subject, last_error, dead_at)
values ({}, gen_random_uuid(), now(), 'a.b', 'no', {});
"""
SUBSCRIBED = """
create subscription feed connection 'host=127.0.0.1 port=1' publication p with (connect = false);
set local allow_system_table_mods = on;
insert into pg_subscription_rel (srsubid, srrelid, srsubstate)
select oid, 'relay.outbox'::regclass, 'r' from pg_subscription;
"""

WRITE_7 = """
insert into relay.outbox (id, subject, payload) overriding system value values (7, 'a.b', '1')
"""
FILTERED = """
alter table relay.parked enable row level security;
create policy p on relay.parked to relay_relay using (id > 5)
"""

# What was done to the database, and what is said of it.
DAMAGE = [
    ("alter sequence relay.outbox_id_seq cache 100", "caches 100 ids a session.* cache 1"),
    ("alter sequence relay.outbox_id_seq cache 2", "caches 2 ids a session"),
    ("alter sequence relay.outbox_id_seq increment -1 maxvalue 9 restart 9", "goes by -1"),
    ("alter sequence relay.outbox_id_seq cycle", "in a circle"),
    (
        WRITE_7,
        r"is at 1, but an event has id 7: select setval\('relay.outbox_id_seq', 7\)",
    ),
    ("select relay.emit('a.b', '1'); alter sequence relay.outbox_id_seq restart 1", "has id 1"),
    (PARK.format(30, "null"), "is at 1, but an event has id 30"),
    (PARK.format(40, "now()") + PARK.format(30, "null"), r"has id 30: .*setval\(.*, 40\)"),
    (
        "alter table relay.outbox enable row level security",
        "row-level security hides rows of outbox",
    ),
    (
        FILTERED,
        "row-level security hides rows of parked",
    ),
    ("alter table relay.cursor enable row level security", "BYPASSRLS"),
    (SUBSCRIBED, 'a target of the subscription "feed"'),
    ("create table public.child () inherits (relay.outbox)", "is a partition, or has children"),
    ("alter table relay.outbox set unlogged", "outbox of schema .* is unlogged"),
    ("alter table relay.parked set unlogged", "parked of schema .* is unlogged"),
    (
        "drop trigger relay_notify on relay.outbox",
        "relay_notify of the outbox is gone: run .* migrate",
    ),
    ("drop trigger refuse_truncate on relay.outbox", "refuse_truncate of the outbox is gone"),
    ("delete from relay.cursor", "the cursor row of schema .* is gone"),
    ("delete from relay.report", "the report row of schema .* is gone"),
    ("drop table relay.settled", "settled of schema .* is gone"),
    (
        "alter function relay.emit(text, json, text, jsonb, text, interval) reset all",
        "was renamed, and emit",
    ),
]

RIGHTS = [
    ("select on relay.outbox", "SELECT on outbox"),
    ("delete on relay.outbox", "DELETE on outbox"),
    ("update (xid) on relay.outbox", r"UPDATE \(xid\) on outbox"),
    ("update (event_id) on relay.outbox", r"UPDATE \(event_id\) on outbox"),
    ("select on relay.cursor", "SELECT on cursor"),
    ("update on relay.cursor", "UPDATE on cursor"),
    ("insert on relay.parked", "INSERT on parked"),
    ("update on relay.parked", "UPDATE on parked"),
    ("delete on relay.parked", "DELETE on parked"),
    ("insert on relay.settled", "INSERT on settled"),
    ("delete on relay.settled", "DELETE on settled"),
    ("update on relay.report", "UPDATE on report"),
    ("insert on relay.stream", "INSERT on stream"),
    ("select on relay.fence", "SELECT on fence"),
    ("select on sequence relay.outbox_id_seq", "SELECT on the sequence relay.outbox_id_seq"),
    ("all on relay.migration", "permission denied for table migration"),
    ("usage on schema relay", "permission denied for schema relay"),
]


@pytest.fixture
async def damaged(outbox_dsn: str) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """A session of the relay's role in a transaction that is rolled back."""
    async with await psycopg.AsyncConnection.connect(outbox_dsn) as connection:
        yield connection
        await connection.rollback()


async def act_as_relay(connection: psycopg.AsyncConnection[Any]) -> None:
    await connection.execute("set local role relay_relay")
    await connection.execute("set local search_path = pg_catalog, pg_temp")
    await connection.execute("set local row_security = off")


async def test_the_relay_s_role_is_enough_for_a_term_of_a_schema_that_is_as_required(
    damaged: psycopg.AsyncConnection[Any], caplog: pytest.LogCaptureFixture
) -> None:
    await damaged.execute("select relay.emit('a.b', '1')")
    await act_as_relay(damaged)
    await migrations.verify(damaged, "relay")
    assert caplog.records == []


@pytest.mark.parametrize(("damage", "reason"), DAMAGE)
async def test_what_the_promises_do_not_stand_on_is_refused_with_the_remedy(
    damaged: psycopg.AsyncConnection[Any], damage: str, reason: str
) -> None:
    """R-LOSS, R-ORDER: before the first event is read."""
    await damaged.execute(damage)
    await act_as_relay(damaged)
    with pytest.raises(SchemaError, match=reason):
        await migrations.verify(damaged, "relay")


@pytest.mark.parametrize(("right", "reason"), RIGHTS)
async def test_each_right_that_a_term_needs_is_asked_for_and_named(
    damaged: psycopg.AsyncConnection[Any], right: str, reason: str
) -> None:
    await damaged.execute(f"revoke {right} from relay_relay")
    await act_as_relay(damaged)
    with pytest.raises(SchemaError, match=reason):
        await migrations.verify(damaged, "relay")


async def test_all_that_is_missing_is_named_at_once(
    damaged: psycopg.AsyncConnection[Any],
) -> None:
    await damaged.execute("revoke delete on relay.outbox, relay.parked from relay_relay")
    await damaged.execute("alter table relay.parked enable row level security")
    await act_as_relay(damaged)
    with pytest.raises(SchemaError) as refusal:
        await migrations.verify(damaged, "relay")
    message = str(refusal.value)
    assert (
        "relay_relay lacks DELETE on outbox, DELETE on parked: grant DELETE on relay.outbox to"
        " relay_relay; grant DELETE on relay.parked to relay_relay" in message
    )
    assert "row-level security hides rows of parked" in message


@pytest.mark.parametrize(
    "harmless",
    [
        "alter table relay.outbox disable trigger relay_notify",
        "alter sequence relay.outbox_id_seq restart 1000",
        "alter sequence relay.outbox_id_seq increment 10",
        "create table public.other (like relay.outbox)",
        "select relay.emit('a.b', '1'); select setval('relay.outbox_id_seq', 1)",
        "alter table relay.decision enable row level security",
    ],
)
async def test_what_does_no_harm_is_no_fault(
    damaged: psycopg.AsyncConnection[Any], harmless: str, caplog: pytest.LogCaptureFixture
) -> None:
    await damaged.execute(harmless)
    await act_as_relay(damaged)
    await migrations.verify(damaged, "relay")
    assert caplog.records == []


async def test_a_sequence_behind_dead_events_is_a_warning(
    damaged: psycopg.AsyncConnection[Any], caplog: pytest.LogCaptureFixture
) -> None:
    await damaged.execute(PARK.format(5, "now()"))
    await act_as_relay(damaged)
    await migrations.verify(damaged, "relay")
    ((_, level, message),) = caplog.record_tuples
    assert level == logging.WARNING
    assert "the sequence relay.outbox_id_seq is at 1, but a dead event has id 5" in message


async def test_ids_at_both_ends_are_ids(outbox_dsn: str) -> None:
    """An owner gave them, and the sequence is used up: what is there is delivered. R-FATE"""
    ends = 1 - (1 << 63), (1 << 63) - 1
    write = "insert into relay.outbox (id, subject, payload) overriding system value values {}"
    many = (
        "insert into relay.outbox (subject, payload) select 'a.b', '{}' from generate_series(0, %s)"
    )
    with psycopg.connect(outbox_dsn, autocommit=True) as owner:
        owner.execute(write.format("(%s, 'a.b', '{}'), (%s, 'a.b', '{}')"), ends)
        owner.execute(many, (FEW,))
        owner.execute("select setval('relay.outbox_id_seq', %s)", (ends[1],))
    outbox = PostgresOutbox(outbox_dsn, "relay", page_bytes=8 << 20)
    store = await outbox.campaign("tester")
    assert store is not None
    assert (await store.look(None)).undelivered == ends[1]
    found = []
    while (page := await store.read(2000)).position is not None:
        found += [event.id for event in page.events]
        await store.settle(Settlement(page.position))
    assert found == [ends[0], *range(1, FEW + 2), ends[1]]
    await store.close()
    await outbox.close()


async def test_verifying_takes_three_round_trips_and_changes_nothing(
    outbox_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    rows = Session.rows

    async def counted(self: Session, query: Any, *args: Any, **more: Any) -> Any:
        asked.append(query)
        return await rows(self, query, *args, **more)

    monkeypatch.setattr(Session, "rows", counted)
    async with await psycopg.AsyncConnection.connect(outbox_dsn) as connection:
        await connection.execute("set transaction read only")
        await migrations.verify(connection, "relay")
    assert len(asked) == 3


async def assert_refused(dsn: str, *said: str) -> None:
    """Each of migrate, check and verify refuses with these words."""
    for attempt in (migrations.migrate, migrations.check):
        with pytest.raises(SchemaError) as refusal:
            await attempt(dsn, "relay")
        assert all(part in str(refusal.value) for part in said), str(refusal.value)
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        with pytest.raises(SchemaError) as refusal:
            await migrations.verify(connection, "relay")
    assert all(part in str(refusal.value) for part in said), str(refusal.value)


async def test_a_changed_checksum_is_refused(outbox_dsn: str) -> None:
    execute(outbox_dsn, "update relay.migration set checksum = 'abc' where version = 1")
    await assert_refused(outbox_dsn, "0001_outbox", "abc", "never edited")


async def test_a_newer_schema_is_refused(outbox_dsn: str) -> None:
    execute(outbox_dsn, "insert into relay.migration values (99, '0099_later', 'x')")
    await assert_refused(outbox_dsn, "newer", "0099_later", "known here is 000", "install")


async def test_a_schema_of_before_the_first_release_is_refused_with_the_remedy(
    database: str,
) -> None:
    execute(
        database,
        """
        create schema relay;
        create table relay.migration (
          version int primary key, name text not null, checksum text not null,
          applied_at timestamptz not null default clock_timestamp()
        );
        insert into relay.migration
        select version, name, 'x'
          from unnest(array['functions', '0001_migration', '0002_outbox', '0003_cursor',
                            '0004_parked', '0005_views', '0006_parking', '0007_doorbell',
                            '0008_poison']) with ordinality as t (name, place),
               lateral (select place::int - 1) as v (version)
        """,
    )
    await assert_refused(database, "before the first release", "alter schema", "migrate again")
    execute(database, "alter schema relay rename to relay_old")
    await migrations.migrate(database, "relay")
    await migrations.check(database, "relay")


async def test_check_and_verify_name_what_is_missing_and_change_nothing(database: str) -> None:
    with pytest.raises(SchemaError, match="python -m relay migrate"):
        await migrations.check(database, "relay")
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        with pytest.raises(SchemaError, match="python -m relay migrate"):
            await migrations.verify(connection, "relay")
    assert execute(database, "select to_regnamespace('relay') is null") == [(True,)]
