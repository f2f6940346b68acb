"""Migrating: from nothing, step by step, by psql, by many at once, and everything it refuses."""

import re
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import anyio
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from relay import devstack
from relay.commands.migrate import run_migrate
from relay.errors import SchemaError, StoreOutage
from relay.postgres import migrations
from relay.postgres.locks import BELL_CLASS, LEASE_CLASS, MIGRATION_CLASS
from relay.postgres.sqlfiles import folder, load, names, text

pytestmark = pytest.mark.anyio

EVERYTHING = [
    "functions",
    "0001_migration",
    "0002_outbox",
    "0003_cursor",
    "0004_parked",
    "0005_views",
    "0006_parking",
    "0007_doorbell",
    "0008_poison",
]
SILENT = "pg_current_xact_id()"
ODD = 'Odd "Näme" %s {} \\'


@pytest.fixture
def program(postgres_server: devstack.Postgres) -> Callable[..., str]:
    """Runs a client program of the server's own installation and returns what it printed."""
    (found,) = (i for i in devstack.find_postgres() if i.major == postgres_server.major)

    def run(name: str, *arguments: str) -> str:
        command = [str(found.bin_dir / name), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture
def fresh(postgres_server: devstack.Postgres) -> Iterator[Callable[[], str]]:
    """Makes further empty databases."""
    made: list[str] = []

    def make() -> str:
        made.append(f"further_{uuid.uuid4().hex[:12]}")
        return postgres_server.create_database(made[-1])

    yield make
    for name in made:
        postgres_server.drop_database(name)


def execute(dsn: str, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


def dumped(program: Callable[..., str], dsn: str) -> str:
    """Everything pg_dump knows, but for the moments and its own random keys."""
    dump = program("pg_dump", "--no-comments", f"--dbname={dsn}")
    dump = re.sub(r"^\\(un)?restrict .*$", "", dump, flags=re.MULTILINE)
    return re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+\+00", "<moment>", dump)


def psql(program: Callable[..., str], dsn: str, *arguments: str) -> None:
    program("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", f"--dbname={dsn}", *arguments)


KNOWN = migrations.known


async def test_an_empty_database_gets_everything_in_order_and_once(database: str) -> None:
    assert await migrations.migrate(database, "relay") == EVERYTHING
    assert await migrations.migrate(database, "relay") == []
    await migrations.check(database, "relay")


@pytest.mark.parametrize("version", range(1, len(EVERYTHING)))
async def test_a_fresh_install_equals_a_stepwise_one(
    version: int, database: str, fresh: Callable[[], str], program: Callable[..., str]
) -> None:
    await migrations.migrate(database, "relay")
    stepwise = fresh()
    leave_at(version, stepwise)
    assert await migrations.migrate(stepwise, "relay") == EVERYTHING[version + 1 :]
    dump = dumped(program, database)
    assert "relay.ring_asleep(" in dump
    assert "CREATE TRIGGER" not in dump
    assert dumped(program, stepwise) == dump


def leave_at(version: int, dsn: str) -> None:
    """Make the schema as a release would have left it that knew no later migration."""
    execute(dsn, "create schema relay")
    steps = migrations.known()[: version + 1]
    with psycopg.connect(dsn) as connection:
        for step in steps:
            for file in step.files:
                connection.execute(load(file, "relay"))
        for step in steps:
            connection.execute(
                "insert into relay.migration (version, name, checksum) values (%s, %s, %s)",
                (step.version, step.name, step.checksum),
            )


async def test_the_printed_script_runs_in_psql_and_makes_the_same(
    database: str, fresh: Callable[[], str], program: Callable[..., str], tmp_path: Path
) -> None:
    printed: list[str] = []
    await run_migrate(
        "host=127.0.0.1 port=1",  # printing needs no database
        "relay",
        notify=True,
        check=False,
        print_sql=True,
        echo=printed.append,
    )
    file = tmp_path / "all.sql"
    file.write_text("\n".join(printed), encoding="utf-8")
    by_psql = fresh()
    psql(program, by_psql, "-f", str(file))
    await migrations.check(by_psql, "relay")

    await migrations.migrate(database, "relay")
    assert dumped(program, by_psql) == dumped(program, database)


@pytest.mark.parametrize("schema", ["relay", ODD])
async def test_psql_runs_each_file_as_it_lies_in_the_checkout(
    schema: str, database: str, fresh: Callable[[], str], program: Callable[..., str]
) -> None:
    by_psql = fresh()
    execute(by_psql, sql.SQL("create schema {}").format(sql.Identifier(schema)).as_string())
    for name in [*names("functions"), *names("migrations"), "roles"]:
        psql(program, by_psql, "-1", "-v", f"schema={schema}", "-f", str(folder() / f"{name}.sql"))

    await migrations.migrate(database, schema)
    ledger = sql.SQL("truncate {}.migration").format(sql.Identifier(schema)).as_string()
    execute(database, ledger)
    assert dumped(program, by_psql) == dumped(program, database)


async def test_a_dumped_and_restored_outbox_is_up_to_date_and_its_doorbell_rings(
    outbox_dsn: str, fresh: Callable[[], str], program: Callable[..., str], tmp_path: Path
) -> None:
    execute(outbox_dsn, "select relay.emit('a.b', '1')")
    dump = tmp_path / "dump.sql"
    program("pg_dump", f"--dbname={outbox_dsn}", f"--file={dump}")
    restored = fresh()
    execute(restored, "create table oids_differ ()")
    psql(program, restored, "-f", str(dump))

    await migrations.check(restored, "relay")
    bell = f"select pg_advisory_lock({BELL_CLASS}, 'relay.outbox'::regclass::oid::int4)"
    with psycopg.connect(restored, autocommit=True) as relay:
        relay.execute('listen "relay.outbox"')
        relay.execute(bell)
        execute(restored, "select relay.emit('a.b', '2')")
        assert len(list(relay.notifies(timeout=20, stop_after=1))) == 1


async def test_eight_processes_at_once_apply_each_step_once(database: str) -> None:
    program = (
        "import asyncio, sys\n"
        "from relay.postgres.migrations import migrate\n"
        "print(*asyncio.run(migrate(sys.argv[1], 'relay')), sep='\\n')\n"
    )
    said: list[str] = []

    async def process() -> None:
        done = await anyio.run_process([sys.executable, "-c", program, database])
        said.extend(done.stdout.decode().split())

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(process)
    assert said == EVERYTHING
    await migrations.check(database, "relay")


async def test_two_databases_of_one_cluster_make_their_common_roles_at_once(
    database: str, fresh: Callable[[], str]
) -> None:
    schema = f"s{uuid.uuid4().hex[:8]}"
    said: list[str] = []

    async def one(dsn: str) -> None:
        assert await migrations.migrate(dsn, schema, say=said.append) == EVERYTHING

    async with anyio.create_task_group() as tasks:
        for dsn in (database, fresh(), fresh()):
            tasks.start_soon(one, dsn)
    assert said == []


async def test_two_outboxes_of_one_database_do_not_meet(database: str) -> None:
    for schema in ("relay", ODD):
        assert await migrations.migrate(database, schema) == EVERYTHING
        await migrations.check(database, schema)
    odd = sql.Identifier(ODD)
    with psycopg.connect(database) as connection:
        connection.execute(sql.SQL("select {}.emit('a.b', '[1]')").format(odd))
        rows = connection.execute(sql.SQL("select backlog from {}.status").format(odd)).fetchall()
        assert rows == [(1,)]
        assert connection.execute("select backlog from relay.status").fetchall() == [(0,)]


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
    execute(outbox_dsn, "update relay.migration set checksum = 'abc' where version = 2")
    await assert_refused(outbox_dsn, "0002_outbox", "abc", "never edited")


async def test_a_newer_schema_is_refused(outbox_dsn: str) -> None:
    execute(outbox_dsn, "insert into relay.migration values (99, '0099_later', 'x')")
    await assert_refused(outbox_dsn, "newer", "0099_later", "0008", "install")


async def test_check_and_verify_name_what_is_missing_and_change_nothing(database: str) -> None:
    for attempt in (migrations.check, verified):
        with pytest.raises(SchemaError, match="python -m relay migrate"):
            await attempt(database, "relay")
    assert execute(database, "select to_regnamespace('relay') is null") == [(True,)]


async def verified(dsn: str, schema: str) -> None:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await migrations.verify(connection, schema)


async def test_a_migration_not_yet_applied_is_named(
    outbox_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = migrations.Step(9, "0009_later", ["migrations/0005_views"], "x")
    monkeypatch.setattr(migrations, "known", lambda: [*KNOWN(), later])
    for attempt in (migrations.check, verified):
        with pytest.raises(SchemaError, match=r'schema "relay" lacks 0009_later: run .* migrate'):
            await attempt(outbox_dsn, "relay")


async def test_changed_functions_are_replaced_and_the_doorbell_stays_off(outbox_dsn: str) -> None:
    await migrations.migrate(outbox_dsn, "relay", notify=False)
    execute(outbox_dsn, "update relay.migration set checksum = 'older' where version = 0")
    execute(outbox_dsn, "drop function relay.emit(text, text, text, jsonb, text)")

    await verified(outbox_dsn, "relay")  # an older relay works on with newer functions
    with pytest.raises(SchemaError, match='schema "relay" lacks functions'):
        await migrations.check(outbox_dsn, "relay")
    assert await migrations.migrate(outbox_dsn, "relay", notify=False) == ["functions"]
    assert doorbell(outbox_dsn) == SILENT
    execute(outbox_dsn, "select relay.emit('a.b', '{}')")


def doorbell(dsn: str) -> object:
    """What writes a transaction's id: with the bell, or without."""
    return execute(
        dsn,
        "select pg_get_expr(adbin, adrelid) from pg_attrdef join pg_attribute "
        "on attrelid = adrelid and attnum = adnum "
        "where adrelid = 'relay.outbox'::regclass and attname = 'xid'",
    )[0][0]


async def test_notify_switches_the_doorbell(outbox_dsn: str) -> None:
    rings = doorbell(outbox_dsn)
    assert rings != SILENT
    assert await migrations.migrate(outbox_dsn, "relay", notify=False) == []
    assert doorbell(outbox_dsn) == SILENT
    assert await migrations.migrate(outbox_dsn, "relay", notify=True) == []
    assert doorbell(outbox_dsn) == rings


async def test_with_nothing_to_do_it_does_not_wait_for_open_transactions(outbox_dsn: str) -> None:
    with psycopg.connect(outbox_dsn) as producer:
        producer.execute("select relay.emit('a.b', '{}')")
        with anyio.fail_after(20):
            assert await migrations.migrate(outbox_dsn, "relay") == []


async def test_it_gives_up_behind_a_long_transaction_and_lets_producers_pass(
    outbox_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations, "PATIENCE", 1.0)
    monkeypatch.setattr(migrations, "LOCK_TIMEOUT_MS", 500)
    with psycopg.connect(outbox_dsn) as producer:
        producer.execute("select relay.emit('a.b', '{}')")
        with pytest.raises(StoreOutage, match="stayed locked for 1 s"):
            await migrations.migrate(outbox_dsn, "relay", notify=False)
        execute(outbox_dsn, "select relay.emit('a.b', '{}')")
    assert doorbell(outbox_dsn) != SILENT
    await migrations.migrate(outbox_dsn, "relay", notify=False)
    assert doorbell(outbox_dsn) == SILENT


async def test_an_unreachable_server_is_an_outage_that_keeps_the_password(database: str) -> None:
    dsn = make_conninfo(database, port=1, password="canary-of-a-password")
    for attempt in (migrations.migrate, migrations.check):
        with pytest.raises(StoreOutage) as outage:
            await attempt(dsn, "relay")
        assert "canary" not in str(outage.value)


@pytest.fixture
def login(postgres_server: devstack.Postgres, database: str) -> Iterator[Callable[..., str]]:
    """Makes a login without any right and returns its connection string."""
    made: list[str] = []

    def make(attributes: str = "") -> str:
        made.append(f"login_{uuid.uuid4().hex[:8]}")
        execute(database, f"create role {made[-1]} login {attributes}")
        return make_conninfo(database, user=made[-1])

    yield make
    for name in made:
        execute(database, f"drop owned by {name} cascade; drop role {name}")


def grant_create(database: str, dsn: str) -> str:
    """Let a login create schemas here; return its name."""
    settings = conninfo_to_dict(dsn)
    execute(database, f"grant create on database {settings['dbname']} to {settings['user']}")
    return str(settings["user"])


async def test_a_login_without_rights_is_told_so(database: str, login: Callable[..., str]) -> None:
    with pytest.raises(SchemaError, match=r"permission denied.*may create it in this database"):
        await migrations.migrate(login(), "relay")


async def test_a_login_that_may_not_make_roles_migrates_without_them(
    database: str, login: Callable[..., str]
) -> None:
    dsn, schema = login(), f"s{uuid.uuid4().hex[:8]}"
    grant_create(database, dsn)
    said: list[str] = []
    assert await migrations.migrate(dsn, schema, say=said.append) == EVERYTHING
    (line,) = said
    assert f'the roles of schema "{schema}" were left out' in line
    assert "sql/roles.sql" in line
    assert execute(dsn, f"select {schema}.emit('a.b', '{{}}') is not null") == [(True,)]
    assert execute(dsn, f"select 1 from pg_roles where rolname = '{schema}_relay'") == []


async def test_roles_added_by_a_person_leave_the_login_able_to_migrate(
    database: str, login: Callable[..., str], program: Callable[..., str]
) -> None:
    dsn, schema = login(), f"s{uuid.uuid4().hex[:8]}"
    grant_create(database, dsn)
    left_out: list[str] = []
    await migrations.migrate(dsn, schema, say=left_out.append)
    assert left_out
    psql(program, database, "-v", f"schema={schema}", "-f", str(folder() / "roles.sql"))

    execute(database, f"update {schema}.migration set checksum = 'older' where version = 0")
    said: list[str] = []
    assert await migrations.migrate(dsn, schema, notify=False, say=said.append) == ["functions"]
    assert said == []


@pytest.mark.parametrize("attributes", ["createrole", "superuser"])
async def test_who_may_make_roles_makes_them_and_can_migrate_again(
    attributes: str, database: str, login: Callable[..., str]
) -> None:
    dsn, schema = login(attributes), f"s{uuid.uuid4().hex[:8]}"
    grant_create(database, dsn)
    said: list[str] = []
    assert await migrations.migrate(dsn, schema, say=said.append) == EVERYTHING
    execute(database, f"update {schema}.migration set checksum = 'older' where version = 0")
    assert await migrations.migrate(dsn, schema, notify=False, say=said.append) == ["functions"]
    assert said == []
    owners = execute(
        database,
        f"""
        select distinct pg_get_userbyid(o.owner) from (
          select relowner from pg_class where relnamespace = '{schema}'::regnamespace
          union all
          select proowner from pg_proc where pronamespace = '{schema}'::regnamespace
          union all
          select nspowner from pg_namespace where nspname = '{schema}'
        ) as o (owner)
        """,
    )
    assert owners == [(f"{schema}_owner",)]


async def test_a_database_in_another_encoding_is_refused_and_stays_as_it_was(
    postgres_server: devstack.Postgres, database: str
) -> None:
    name = f"latin_{uuid.uuid4().hex[:8]}"
    execute(
        database,
        f"create database {name} template template0 encoding 'LATIN1' "
        "locale_provider libc locale 'C'",
    )
    dsn = make_conninfo(database, dbname=name)
    with pytest.raises(SchemaError, match="needs a database in UTF8, this one is in LATIN1"):
        await migrations.migrate(dsn, "relay")
    assert execute(dsn, "select to_regnamespace('relay') is null") == [(True,)]
    postgres_server.drop_database(name)


async def test_the_command_says_what_it_did(database: str) -> None:
    said: list[str] = []

    async def run(*, check: bool) -> Sequence[str]:
        said.clear()
        await run_migrate(
            database, "relay", notify=True, check=check, print_sql=False, echo=said.append
        )
        return said

    assert await run(check=False) == [f"applied {name}" for name in EVERYTHING]
    assert await run(check=False) == ['schema "relay" was up to date']
    assert await run(check=True) == ['schema "relay" is up to date']


def test_migrations_are_numbered_without_gaps() -> None:
    assert [step.version for step in KNOWN()] == [*range(len(EVERYTHING))]


@pytest.mark.parametrize(
    "name", [*names("migrations"), *names("functions"), *names("queries"), "roles"]
)
def test_every_sql_file_begins_with_what_it_is_for_and_leaves_bodies_to_psql(name: str) -> None:
    content = text(name)
    head = content.partition("\n\n")[0]
    assert content.startswith("-- ")
    assert "-- takes " in head
    assert "locks " in head
    # psql does not put variables into dollar-quoted bodies, so neither may we rely on it.
    for body in re.findall(r"\$(\w*)\$(.*?)\$\1\$", content, flags=re.DOTALL):
        assert ":'schema'" not in body[1]
        assert ':"schema"' not in body[1]


def test_load_puts_in_the_schema_and_nothing_else() -> None:
    loaded = load("queries/campaign", 'a"b').as_string()
    again = loaded.replace('"a""b"', ':"schema"').replace("'a\"b'", ":'schema'")
    assert again == text("queries/campaign")


def test_the_three_locks_differ() -> None:
    assert len({BELL_CLASS, LEASE_CLASS, MIGRATION_CLASS}) == 3
