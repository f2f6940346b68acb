"""Migrating: from nothing, forward under load, by psql, by many at once, after a rename."""

import re
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import anyio
import psycopg
import pytest
from psycopg import sql

from relay import devstack
from relay.cli.migrate import run_migrate
from relay.errors import SchemaError, StoreOutage
from relay.postgres import migrations, patience
from relay.postgres.outbox import PostgresOutbox
from relay.postgres.sqlfiles import BELL_CLASS, names
from tests.postgres.databases import (
    TENANT,
    Program,
    a_later_release,
    dumped,
    execute,
    forget_files,
    rings,
)

pytestmark = pytest.mark.anyio

NUMBERED = [name.removeprefix("migrations/") for name in names("migrations")]
APPLIED = ["applied functions and views", *(f"applied {name}" for name in NUMBERED)]
ODD = 'Odd "Näme" %s {} \\'


@pytest.fixture
def later_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    with a_later_release(monkeypatch, tmp_path / "sql") as release:
        yield release


def applied(done: Sequence[str]) -> list[str]:
    """What was applied; the roles are there or not, whatever ran before in the cluster."""
    return [line for line in done if line.startswith("applied ")]


async def test_an_empty_database_gets_everything_in_order_and_once(database: str) -> None:
    assert applied(await migrations.migrate(database, "relay")) == APPLIED
    assert await migrations.migrate(database, "relay") == []
    await migrations.check(database, "relay")


async def test_a_later_migration_goes_in_under_load_and_equals_a_fresh_install(
    outbox_dsn: str,
    later_release: Callable[[], None],
    fresh: Callable[[], str],
    program: Program,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """R-FIRST: no producer fails, though one of them holds the table for a while."""
    monkeypatch.setattr(migrations, "LOCK_TIMEOUT_MS", 200)
    over, wrote, failed = threading.Event(), [0] * 4, list[Exception]()

    def produce(number: int) -> None:
        try:
            with psycopg.connect(outbox_dsn, autocommit=True) as producer:
                while not over.is_set():
                    producer.execute("select relay.emit('a.b', '1', key => %s)", (str(number),))
                    wrote[number] += 1
        except psycopg.Error as error:
            failed.append(error)

    threads = [threading.Thread(target=produce, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    try:
        later_release()
        with psycopg.connect(outbox_dsn) as slow:
            slow.execute("select relay.emit('a.b', '1')")
            async with anyio.create_task_group() as tasks:
                done: list[str] = []

                async def migrate() -> None:
                    done.extend(await migrations.migrate(outbox_dsn, "relay"))

                tasks.start_soon(migrate)
                before = sum(wrote)
                while sum(wrote) < before + 50:
                    await anyio.sleep(0.01)
                slow.commit()
        before = sum(wrote)
        while sum(wrote) < before + 50:
            await anyio.sleep(0.01)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert failed == []
    assert done == [
        "applied functions and views",
        "applied 0099_tenant",
        "gave 1 of the schema's objects to relay_owner",
    ]
    assert execute(outbox_dsn, "select count(*) from relay.outbox") == [(sum(wrote) + 1,)]
    execute(outbox_dsn, "set role relay_monitor; select one from relay.pending limit 1")

    made_at_once = fresh()
    await migrations.migrate(made_at_once, "relay")
    execute(outbox_dsn, "truncate relay.outbox restart identity")
    for dsn in (outbox_dsn, made_at_once):
        execute(dsn, "create table rows as table relay.migration; truncate relay.migration")
        execute(
            dsn, "insert into relay.migration select * from rows order by version; drop table rows"
        )
    assert dumped(program, outbox_dsn) == dumped(program, made_at_once)


async def test_a_relay_of_before_stands_aside_for_a_later_migration(
    outbox_dsn: str, later_release: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    later_release()
    with pytest.raises(SchemaError, match=r'schema "relay" lacks .*0099_tenant: run .* migrate'):
        await migrations.check(outbox_dsn, "relay")
    await migrations.migrate(outbox_dsn, "relay")
    monkeypatch.undo()
    forget_files()
    with pytest.raises(SchemaError, match="newer than this relay: it has migration 0099_tenant"):
        await migrations.check(outbox_dsn, "relay")


async def test_a_standby_of_before_stands_aside_though_it_saw_the_schema_that_it_knows(
    outbox_dsn: str, later_release: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    leader, standby = (PostgresOutbox(outbox_dsn, "relay", page_bytes=1024) for _ in range(2))
    term = await leader.campaign("leader")
    assert term is not None
    assert await standby.campaign("standby") is None
    later_release()
    await migrations.migrate(outbox_dsn, "relay")
    monkeypatch.undo()
    forget_files()
    await term.close()
    for _ in range(2):
        with pytest.raises(SchemaError, match="newer than this relay: it has migration 0099"):
            await standby.campaign("standby")


async def test_a_view_that_others_stand_on_is_not_dropped(
    outbox_dsn: str, later_release: Callable[[], None]
) -> None:
    execute(outbox_dsn, "create view public.mine as select id from relay.pending")
    later_release()
    with pytest.raises(SchemaError, match=r"public.mine depends on view relay.pending"):
        await migrations.migrate(outbox_dsn, "relay")
    execute(outbox_dsn, "select * from public.mine")


async def test_eight_processes_at_once_apply_each_step_once(database: str) -> None:
    program = (
        "import asyncio, sys\n"
        "from relay.postgres.migrations import migrate\n"
        "print(*asyncio.run(migrate(sys.argv[1], 'relay')), sep='\\n')\n"
    )
    lines: list[str] = []

    async def process() -> None:
        done = await anyio.run_process([sys.executable, "-c", program, database])
        lines.extend(done.stdout.decode().splitlines())

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(process)
    assert applied(lines) == APPLIED
    await migrations.check(database, "relay")


async def test_two_databases_of_one_cluster_make_their_common_roles_at_once(
    database: str, fresh: Callable[[], str]
) -> None:
    schema = f"s{uuid.uuid4().hex[:8]}"
    said: list[str] = []

    async def one(dsn: str) -> None:
        assert applied(await migrations.migrate(dsn, schema, say=said.append)) == APPLIED

    async with anyio.create_task_group() as tasks:
        for dsn in (database, fresh(), fresh()):
            tasks.start_soon(one, dsn)
    assert said == []


async def test_two_outboxes_of_one_database_do_not_meet(database: str) -> None:
    for schema in ("relay", ODD):
        assert applied(await migrations.migrate(database, schema)) == APPLIED
        await migrations.check(database, schema)
    odd = sql.Identifier(ODD)
    with psycopg.connect(database) as connection:
        connection.execute(sql.SQL("select {}.emit('a.b', '[1]')").format(odd))
        rows = connection.execute(sql.SQL("select backlog from {}.status").format(odd)).fetchall()
        assert rows == [(1,)]
        assert connection.execute("select backlog from relay.status").fetchall() == [(0,)]


async def test_changed_functions_are_replaced_and_the_bell_stays_off(outbox_dsn: str) -> None:
    await migrations.migrate(outbox_dsn, "relay", notify=False)
    execute(outbox_dsn, "update relay.migration set checksum = 'older' where version = 0")
    execute(outbox_dsn, "drop function relay.emit(text, text, text, jsonb, text, interval)")

    async with await psycopg.AsyncConnection.connect(outbox_dsn, autocommit=True) as connection:
        await migrations.verify(connection, "relay")  # an older relay works with newer functions
    with pytest.raises(SchemaError, match='schema "relay" lacks functions and views'):
        await migrations.check(outbox_dsn, "relay")
    assert applied(await migrations.migrate(outbox_dsn, "relay")) == APPLIED[:1]
    assert rings(outbox_dsn) is False
    execute(outbox_dsn, "select relay.emit('a.b', '{}')")


async def test_an_application_s_function_that_stands_in_the_way_is_named(
    outbox_dsn: str, later_release: Callable[[], None], tmp_path: Path
) -> None:
    """A function with a body of SQL depends on what it calls."""
    body = "begin atomic select relay.emit('a.b', '1'::json); end"
    execute(outbox_dsn, f"create function public.mine() returns uuid language sql {body}")
    later_release()
    drops = [
        f'drop function :"schema".emit(text, {kind}, text, jsonb, text, interval);\n'
        for kind in ("jsonb", "text", "json")
    ]
    (tmp_path / "sql/migrations/0099_tenant.sql").write_text(TENANT + "".join(drops))
    with pytest.raises(SchemaError, match=r"public.mine\(\) depends on function relay\.emit"):
        await migrations.migrate(outbox_dsn, "relay")


async def test_notify_switches_the_bell_and_a_plain_migrate_leaves_it(outbox_dsn: str) -> None:
    assert rings(outbox_dsn) is True
    (off,) = await migrations.migrate(outbox_dsn, "relay", notify=False)
    assert off.startswith("switched the bell off")
    assert await migrations.migrate(outbox_dsn, "relay") == []
    assert await migrations.migrate(outbox_dsn, "relay", notify=False) == []
    assert rings(outbox_dsn) is False
    (on,) = await migrations.migrate(outbox_dsn, "relay", notify=True)
    assert on.startswith("switched the bell on")
    assert await migrations.migrate(outbox_dsn, "relay") == []
    assert rings(outbox_dsn) is True


async def test_with_nothing_to_do_it_does_not_wait_for_open_transactions(outbox_dsn: str) -> None:
    with psycopg.connect(outbox_dsn) as producer:
        producer.execute("select relay.emit('a.b', '{}')")
        with anyio.fail_after(20):
            assert await migrations.migrate(outbox_dsn, "relay") == []


async def test_it_gives_up_behind_a_long_transaction_and_lets_producers_pass(
    outbox_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "PATIENCE", 1.0)
    with psycopg.connect(outbox_dsn) as producer:
        producer.execute("select relay.emit('a.b', '{}')")
        with pytest.raises(StoreOutage, match="stayed locked for 1 s"):
            await migrations.migrate(outbox_dsn, "relay", notify=False)
        execute(outbox_dsn, "select relay.emit('a.b', '{}')")
    assert rings(outbox_dsn) is True
    await migrations.migrate(outbox_dsn, "relay", notify=False)
    assert rings(outbox_dsn) is False


async def test_a_renamed_schema_is_refused_until_it_is_migrated(
    postgres_server: devstack.Postgres, database: str
) -> None:
    old, new = (f"{name}{uuid.uuid4().hex[:6]}" for name in ("relay", "bus"))
    await migrations.migrate(database, old)
    execute(database, f"alter schema {old} rename to {new}")
    with pytest.raises(psycopg.errors.UndefinedTable):
        execute(database, f"select {new}.emit('a.b', '1')")
    with pytest.raises(SchemaError, match=r"lacks functions and views: run .* migrate"):
        await migrations.check(database, new)
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        with pytest.raises(
            SchemaError, match=r'"bus\w+" was renamed, and begin_replay, drop.* migrate'
        ):
            await migrations.verify(connection, new)

        assert applied(await migrations.migrate(database, new)) == APPLIED[:1]
        await migrations.check(database, new)
        await migrations.verify(connection, new)
    with psycopg.connect(database, autocommit=True) as relay:
        relay.execute(f'listen "{new}.outbox"')
        relay.execute(f"select pg_advisory_lock({BELL_CLASS}, '{new}.outbox'::regclass::oid::int4)")
        execute(database, f"set role {new}_producer; select {new}.emit('a.b', '1')")
        assert len(list(relay.notifies(timeout=20, stop_after=1))) == 1
    execute(database, f"select * from {new}.status, {new}.pending")

    execute(database, f"alter schema {new} rename to {old}")
    assert applied(await migrations.migrate(database, old)) == APPLIED[:1]
    execute(database, f"set role {old}_producer; select {old}.emit('a.b', '1')")


async def test_a_trigger_that_was_dropped_by_hand_is_put_back(outbox_dsn: str) -> None:
    for name in ("relay_notify", "refuse_truncate"):
        execute(outbox_dsn, f"drop trigger {name} on relay.outbox")
    await migrations.migrate(outbox_dsn, "relay")
    assert execute(
        outbox_dsn,
        "select tgname::text from pg_trigger where tgrelid = 'relay.outbox'::regclass order by 1",
    ) == [("refuse_truncate",), ("relay_notify",)]


async def test_the_command_says_what_it_did(database: str) -> None:
    schema = f"s{uuid.uuid4().hex[:8]}"
    said: list[str] = []

    async def run(*, check: bool = False, notify: bool | None = None) -> Sequence[str]:
        said.clear()
        await run_migrate(
            database, schema, notify=notify, check=check, print_sql=False, echo=said.append
        )
        return said

    made = ", ".join(
        f"{schema}_{role}" for role in ("owner", "producer", "relay", "operator", "monitor")
    )
    first = list(await run())
    *steps, roles, objects = first
    assert [*steps, roles] == [*APPLIED, f"made the roles {made}"]
    assert re.fullmatch(rf"gave \d+ of the schema's objects to {schema}_owner", objects)
    assert await run() == [f'schema "{schema}" was up to date']
    assert await run(check=True) == [f'schema "{schema}" is up to date']
    (line,) = await run(notify=False)
    assert line == "switched the bell off: writers do not notify, the relay polls"
    execute(database, f"alter table {schema}.parked owner to current_user")
    assert await run() == [f"gave 1 of the schema's objects to {schema}_owner"]


def test_migrations_are_numbered_without_gaps() -> None:
    known = migrations.all_steps("relay")
    assert [step.version for step in known] == [*range(len(known))]
