"""An outbox that is dumped and restored, emptied by hand, or has rules tighter than its rows."""

from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from psycopg import errors

from relay.postgres import migrations
from relay.postgres.sqlfiles import BELL_CLASS
from tests.postgres.databases import Program, execute, psql

pytestmark = pytest.mark.anyio

PARK = """
insert into relay.parked (id, event_id, created_at, subject, key, last_error, dead_at)
select id, event_id, created_at, subject, key, 'no', {} from relay.outbox where id = 1
"""
TIGHTEN = """
do $$
declare
  body text := (select prosrc from pg_proc where proname = 'publishable');
begin
  execute format(
    'create or replace function relay.publishable(outbox oid, created_at timestamptz,
       idempotency_key text, subject text, key text, payload json, payload_bytes bytea,
       headers jsonb, ttl interval default null) returns bool language plpgsql stable as %L',
    replace(body, chr(10) || 'begin', ' begin if {} then raise check_violation; end if;'));
end $$
"""
COUNT = "select count(*) from relay.outbox"
DATA = ("outbox", "cursor", "settled", "report", "stream", "parked", "decision", "migration")


async def verified(dsn: str) -> None:
    await migrations.check(dsn, "relay")
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await migrations.verify(connection, "relay")


@pytest.mark.parametrize("form", ["plain", "custom"])
async def test_a_dumped_and_restored_outbox_is_up_to_date_and_its_bell_rings(
    outbox_dsn: str, fresh: Callable[[], str], program: Program, tmp_path: Path, form: str
) -> None:
    execute(outbox_dsn, "select relay.emit('a.b', '1'); " + PARK.format("now()"))
    restored, dump = fresh(), str(tmp_path / "dump")
    execute(restored, "create table oids_differ ()")
    program("pg_dump", f"--format={form}", f"--dbname={outbox_dsn}", f"--file={dump}")
    if form == "plain":
        psql(program, restored, "-f", dump)
    else:
        program("pg_restore", "--exit-on-error", f"--dbname={restored}", dump)

    await verified(restored)
    bell = f"select pg_advisory_lock({BELL_CLASS}, 'relay.outbox'::regclass::oid::int4)"
    with psycopg.connect(restored, autocommit=True) as relay:
        relay.execute('listen "relay.outbox"')
        relay.execute(bell)
        execute(restored, "select relay.emit('a.b', '2')")
        assert len(list(relay.notifies(timeout=20, stop_after=1))) == 1


async def test_data_alone_goes_into_a_migrated_schema_that_was_emptied_first(
    outbox_dsn: str, fresh: Callable[[], str], program: Program, tmp_path: Path
) -> None:
    """The recipe of sql/README.md; without its first step the same rows are there twice."""
    execute(outbox_dsn, "select relay.emit('a.b', '1') from generate_series(1, 3)")
    execute(outbox_dsn, PARK.format("now()"))
    execute(outbox_dsn, "update relay.cursor set system_identifier = 17, epoch = 5")
    dump = str(tmp_path / "dump")
    program("pg_dump", "--format=custom", f"--dbname={outbox_dsn}", f"--file={dump}")
    restored = fresh()
    await migrations.migrate(restored, "relay")
    with pytest.raises(AssertionError, match="duplicate key"):
        program("pg_restore", "--data-only", "--single-transaction", f"--dbname={restored}", dump)

    execute(restored, "truncate relay.cursor, relay.report, relay.migration")
    program("pg_restore", "--data-only", "--single-transaction", f"--dbname={restored}", dump)
    await verified(restored)
    for table in DATA:
        rows = f"select to_jsonb(t) from relay.{table} as t order by 1"
        assert execute(restored, rows) == execute(outbox_dsn, rows), table
    execute(restored, "select relay.emit('a.b', '1')")
    assert execute(restored, "select max(id) from relay.outbox") == [(4,)]


@pytest.mark.parametrize("form", ["plain", "custom"])
@pytest.mark.parametrize(
    "rule", ["subject like ''old.%''", "key is null", "created_at < now() + interval ''1 h''"]
)
def test_rows_of_before_the_rules_were_tightened_can_be_restored(
    *,
    outbox_dsn: str,
    fresh: Callable[[], str],
    program: Program,
    tmp_path: Path,
    form: str,
    rule: str,
) -> None:
    """R-FATE: what the rules would refuse now is one event's fate, and no dump's."""
    execute(outbox_dsn, "select relay.emit('old.b', '1') from generate_series(1, 3)")
    execute(outbox_dsn, TIGHTEN.replace("{}", rule))
    with pytest.raises(errors.CheckViolation):
        execute(outbox_dsn, "select relay.emit('old.b', '1')")
    restored, dump = fresh(), str(tmp_path / "dump")
    program("pg_dump", f"--format={form}", f"--dbname={outbox_dsn}", f"--file={dump}")
    if form == "plain":
        psql(program, restored, "-f", dump)
    else:
        program("pg_restore", "--exit-on-error", f"--dbname={restored}", dump)
    assert execute(restored, COUNT) == [(3,)]
    with pytest.raises(errors.CheckViolation):
        execute(restored, "select relay.emit('old.b', '1')")
    assert execute(
        restored, "select convalidated from pg_constraint where conname = 'outbox_publishable'"
    ) == [(False,)]


@pytest.mark.parametrize("dead_at", ["null", "now()"])
@pytest.mark.parametrize(
    "truncate",
    [
        "truncate relay.outbox",
        "truncate relay.outbox restart identity",
        "truncate relay.outbox, relay.decision cascade",
    ],
)
def test_the_outbox_is_not_truncated_while_parked_events_refer_to_it(
    outbox_dsn: str, truncate: str, dead_at: str
) -> None:
    """R-LOSS: the next event of that id would be taken for the parked one."""
    execute(outbox_dsn, "select relay.emit('a.b', '1') from generate_series(1, 3)")
    execute(outbox_dsn, PARK.format(dead_at))
    with pytest.raises(errors.RestrictViolation, match=r"refer to rows of relay\.outbox"):
        execute(outbox_dsn, truncate)
    assert execute(outbox_dsn, COUNT) == [(3,)]
    execute(outbox_dsn, "delete from relay.parked")
    execute(outbox_dsn, truncate)
    assert execute(outbox_dsn, COUNT) == [(0,)]


def test_another_event_of_a_parked_one_s_id_is_another_event(outbox_dsn: str) -> None:
    """R-LOSS: the parked are known by their event_id."""
    execute(outbox_dsn, "select relay.emit('a.b', '1', key => 'k')")
    execute(outbox_dsn, PARK.format("now()"))
    execute(outbox_dsn, "delete from relay.outbox; alter sequence relay.outbox_id_seq restart 1")
    execute(outbox_dsn, "select relay.emit('a.b', '2', key => 'k')")
    execute(outbox_dsn, PARK.format("null"))
    assert execute(
        outbox_dsn,
        "select count(*), count(distinct event_id), count(distinct id) from relay.parked",
    ) == [(2, 2, 1)]
