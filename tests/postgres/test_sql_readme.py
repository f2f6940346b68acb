"""sql/README.md keeps its word: its statements run, in its order, as the logins it names."""

import json
import re
import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.types.json import Jsonb

from relay import devstack
from relay.postgres import migrations
from relay.postgres.sqlfiles import BELL_CLASS, folder, text
from tests.postgres.databases import execute, programs, psql

pytestmark = pytest.mark.anyio

README = (Path(str(folder())) / "README.md").read_text(encoding="utf-8")
LOGINS = ("relay_admin", "relay_service", "shop_service", "anna", "grafana")


def blocks(section: str, language: str = "sql") -> list[str]:
    """The code of one section, in its order."""
    (text,) = re.findall(rf"^## {section}$(.*?)(?=^## |\Z)", README, re.DOTALL | re.MULTILINE)
    return re.findall(rf"^```{language}$(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def lines_of(driver: str) -> list[str]:
    """The table's cells for one driver: JSON, bytes."""
    (cells,) = re.findall(rf"^\| {driver} \| `(.*)` \| `(.*)` \|$", README, re.MULTILINE)
    return list(cells)


@pytest.fixture
def names(database: str) -> Iterator[dict[str, str]]:
    """Names of this test's own, for roles belong to the cluster."""
    end = uuid.uuid4().hex[:6]
    database_name = str(conninfo_to_dict(database)["dbname"])
    yield (
        {login: f"{login}_{end}" for login in LOGINS}
        | {"shop": database_name}
        | {
            f"relay_{role}": f"s{end}_{role}"
            for role in ("producer", "relay", "operator", "monitor")
        }
        | {"schema": f"s{end}"}
    )
    for login in LOGINS:
        execute(database, f"drop owned by {login}_{end} cascade; drop role {login}_{end}")


def renamed(statements: str, names: dict[str, str]) -> str:
    return re.sub(r"\b\w+\b", lambda word: names.get(word[0], word[0]), statements)


async def test_the_grants_in_their_order_let_each_login_do_what_it_is_for(
    database: str, names: dict[str, str]
) -> None:
    admin, logins, page, stats = blocks("Setting up")
    execute(database, renamed(admin, names))
    dsn = {login: make_conninfo(database, user=names[login]) for login in LOGINS}
    schema = names["schema"]
    await migrations.migrate(dsn["relay_admin"], schema)
    for login in ("shop_service", "anna", "grafana"):
        execute(dsn["relay_admin"], f"create role {names[login]} login")
    execute(dsn["relay_admin"], renamed(logins, names))
    execute(dsn["relay_admin"], renamed(page, names))
    execute(database, renamed(stats, names))

    execute(dsn["shop_service"], f"select {schema}.emit('a.b', '1')")
    async with await psycopg.AsyncConnection.connect(dsn["relay_service"], autocommit=True) as it:
        await migrations.verify(it, schema)
    execute(dsn["relay_service"], f"select * from {schema}.retry_dead('{{}}', now(), 'page')")
    execute(dsn["anna"], f"select * from {schema}.drop_dead('{{}}', now(), 'anna')")
    assert execute(dsn["grafana"], f"select backlog from {schema}.status") == [(1,)]


@pytest.fixture
def producer(outbox_dsn: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(outbox_dsn, autocommit=True) as connection:
        connection.execute("set role relay_producer")
        yield connection


def content(dsn: str) -> list[tuple[object, ...]]:
    return execute(
        dsn, "select subject, key, payload, payload_bytes, headers from relay.outbox order by id"
    )


WRITTEN = [("orders.placed", "17", {"id": 17}, None, {"a": "b"})]
WRITTEN_BYTES = [("orders.placed", "17", None, b"\x00\xff", None)]


def test_psql_s_lines(outbox_dsn: str, postgres_server: devstack.Postgres) -> None:
    program = programs(postgres_server)
    for line, written in zip(lines_of("psql"), (WRITTEN, WRITTEN_BYTES), strict=True):
        psql(program, outbox_dsn, "-c", "set role relay_producer", "-c", line)
        assert content(outbox_dsn) == written
        execute(outbox_dsn, "truncate relay.outbox")


def test_psycopg_s_lines(outbox_dsn: str, producer: psycopg.Connection) -> None:
    for line, written in zip(lines_of("psycopg"), (WRITTEN, WRITTEN_BYTES), strict=True):
        eval(line, {"connection": producer, "Jsonb": Jsonb})
        assert content(outbox_dsn) == written
        execute(outbox_dsn, "truncate relay.outbox")


def test_psycopg2_s_lines(outbox_dsn: str) -> None:
    psycopg2 = pytest.importorskip("psycopg2")
    connection = psycopg2.connect(outbox_dsn)
    names = {"event": {"id": 17}, "headers": {"a": "b"}, "content": b"\x00\xff"}
    with connection, connection.cursor() as cursor:
        cursor.execute("set role relay_producer")
        for line in lines_of("psycopg2"):
            eval(line, {"cursor": cursor, "psycopg2": psycopg2, "json": json, **names})
    connection.close()
    assert content(outbox_dsn) == [*WRITTEN, ("orders.placed", None, None, b"\x00\xff", None)]


async def test_asyncpg_s_lines(outbox_dsn: str) -> None:
    asyncpg = pytest.importorskip("asyncpg")
    parts = conninfo_to_dict(outbox_dsn)
    parts["database"] = parts.pop("dbname")
    connection = await asyncpg.connect(**parts)
    await connection.execute("set role relay_producer")
    names = {"event": {"id": 17}, "headers": {"a": "b"}, "content": b"\x00\xff"}
    for line in lines_of("asyncpg"):
        call = line.removeprefix("await ")
        await eval(call, {"connection": connection, "json": json, **names})
    await connection.close()
    assert content(outbox_dsn) == [*WRITTEN, ("orders.placed", None, None, b"\x00\xff", None)]


def test_an_event_with_a_ttl_as_a_producer(outbox_dsn: str, producer: psycopg.Connection) -> None:
    (statement,) = blocks("Messages that expire")[:1]
    producer.execute(statement)
    assert execute(outbox_dsn, "select ttl from relay.outbox") == [(timedelta(minutes=10),)]


def test_plain_inserts_as_a_producer(outbox_dsn: str, producer: psycopg.Connection) -> None:
    (statements,) = blocks("Writing events")
    for _ in range(2):
        producer.execute(statements)
    assert execute(
        outbox_dsn, "select subject, count(*) from relay.outbox group by 1 order by 1"
    ) == [
        ("orders.paid", 1),
        ("orders.placed", 2),
    ]
    with pytest.raises(errors.InsufficientPrivilege):
        producer.execute(
            "insert into relay.outbox (subject, payload, idempotency_key) values ('a.b', '1', 'i') "
            "on conflict (idempotency_key) where idempotency_key is not null do nothing"
        )


@pytest.mark.parametrize("in_a_window", [False, True])
def test_in_another_cluster_what_is_delivered_goes_and_nothing_else(
    outbox_dsn: str, in_a_window: bool
) -> None:
    """R-LOSS, R-ONCE"""
    _, recipe = blocks("Dump and restore")
    with psycopg.connect(outbox_dsn, autocommit=True) as connection:
        emit = "select relay.emit('a.b', '1')"
        with psycopg.connect(outbox_dsn) as late:
            late.execute(emit)  # 1: under way when the cursor moved
            for _ in range(3):
                connection.execute(emit)  # 2, 3, 4: delivered, or parked
            connection.execute("update relay.cursor set base = pg_current_snapshot()")
            late.commit()
        for _ in range(3):
            connection.execute(emit)  # 5, 6, 7
        if in_a_window:
            connection.execute(
                "update relay.cursor set target = pg_current_snapshot(), last_id = 6"
            )
        connection.execute(
            "insert into relay.parked (id, event_id, created_at, subject, last_error)"
            " select id, event_id, created_at, subject, 'no' from relay.outbox where id = 3"
        )
        connection.execute(recipe)
        left = connection.execute("select id from relay.outbox order by id").fetchall()
    assert [id_ for (id_,) in left] == ([3, 7] if in_a_window else [1, 3, 5, 6, 7])


async def test_two_phase_commit_works_once_the_bell_is_switched_off(
    postgres_server: devstack.Postgres,
) -> None:
    (found,) = (each for each in devstack.find_postgres() if each.major == postgres_server.major)
    with devstack.postgres(found, settings={"max_prepared_transactions": "4"}) as server:
        dsn = server.create_database("two_phase")
        await migrations.migrate(dsn, "relay")
        bell = f"select pg_advisory_lock({BELL_CLASS}, 'relay.outbox'::regclass::oid::int4)"
        with psycopg.connect(dsn, autocommit=True) as asleep:
            asleep.execute(bell)
            prepare = "begin; select relay.emit('a.b', '1'); prepare transaction 'one'"
            with pytest.raises(errors.FeatureNotSupported, match="NOTIFY"):
                execute(dsn, prepare)
            await migrations.migrate(dsn, "relay", notify=False)
            await migrations.migrate(dsn, "relay")
            execute(dsn, prepare)
            execute(dsn, "commit prepared 'one'")
    # the server is gone with its databases


def test_the_readme_names_every_driver_s_two_lines() -> None:
    for driver in ("psql", "psycopg", "psycopg2", "asyncpg", "node-postgres", "pgx", "JDBC"):
        row = re.findall(
            rf"^\| {driver} \|.*relay\.emit\(.*relay\.emit_bytes\(", README, re.MULTILINE
        )
        assert len(row) == 1, driver


def test_the_columns_are_those_of_the_outbox_and_the_views(outbox_dsn: str) -> None:
    (text,) = re.findall(r"^## Columns$(.*?)(?=^## )", README, re.DOTALL | re.MULTILINE)
    outbox, pending, status = re.split(r"^`relay\.(?:pending|status)`,", text, flags=re.MULTILINE)
    named = {
        "outbox": re.findall(r"^\| `(\w+)` \| (\w+) \|", outbox, re.MULTILINE),
        "pending": re.findall(r"`(\w+)`", pending),
        "status": [
            name
            for cell in re.findall(r"^\| (`.*?`) \|", status, re.MULTILINE)
            for name in re.findall(r"`(\w+)`", cell)
        ],
    }
    columns = execute(
        outbox_dsn,
        "select table_name, column_name, replace(data_type, 'timestamp with time zone',"
        " 'timestamptz') from information_schema.columns"
        " where table_schema = 'relay' order by ordinal_position",
    )
    assert named["outbox"] == [(name, kind) for table, name, kind in columns if table == "outbox"]
    assert named["pending"] == [name for table, name, _ in columns if table == "pending"]
    assert sorted(named["status"]) == sorted(n for table, n, _ in columns if table == "status")


def test_the_rules_are_those_that_refuse() -> None:
    rules = re.findall(r"^\| `(outbox_\w+)` \|", README, re.MULTILINE)
    raised = re.findall(r"rule := '(\w+)'", text("functions/publishable"))
    assert sorted(rules) == sorted(set(raised))
