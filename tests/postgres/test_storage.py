"""Looking at what the outbox takes up, and at what keeps vacuum from tidying it."""

import uuid
from collections.abc import AsyncIterator, Iterator

import anyio
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from relay.core.storage import OutboxStorage
from relay.errors import SchemaError
from relay.postgres.outbox import PostgresOutbox

pytestmark = pytest.mark.anyio

INSERT = (
    "insert into relay.outbox (subject, payload_bytes)"
    " select 'a.b', 'x' from generate_series(1, 2000)"
)


def looking(dsn: str, schema: str = "relay") -> PostgresOutbox:
    return PostgresOutbox(dsn, schema, page_bytes=1024)


@pytest.fixture
async def storage(outbox_dsn: str) -> AsyncIterator[PostgresOutbox]:
    storage = looking(outbox_dsn)
    yield storage
    await storage.close()


async def test_size_and_dead_rows_are_those_of_the_outbox(
    outbox_dsn: str, storage: PostgresOutbox
) -> None:
    empty = await storage.storage()
    with psycopg.connect(outbox_dsn, autocommit=True) as connection:
        connection.execute(INSERT)
        connection.execute("delete from relay.outbox where id % 2 = 0")
        row = connection.execute("select pg_total_relation_size('relay.outbox')").fetchone()
    with anyio.fail_after(10):  # the session writes its statistics down when it ends
        while (full := await storage.storage()).dead_rows == 0:
            await anyio.sleep(0.02)
    assert row is not None
    assert empty.size_bytes < full.size_bytes == row[0]
    assert (empty.dead_rows, full.dead_rows) == (0, 1000)


async def test_the_oldest_transaction_is_one_of_this_database_that_holds_a_snapshot(
    outbox_dsn: str, storage: PostgresOutbox
) -> None:
    assert await age(storage) == 0.0
    with psycopg.connect(outbox_dsn) as idle, psycopg.connect(outbox_dsn) as reading:
        idle.execute("begin")  # no snapshot: it holds back nothing
        reading.execute("set transaction isolation level repeatable read")
        reading.execute("select pg_sleep(0.3)")
        held = await age(storage)
        assert held is not None
        assert held > 0.3
    assert await age(storage) == 0.0


async def age(storage: PostgresOutbox) -> float | None:
    return (await storage.storage()).oldest_transaction


@pytest.fixture
def login(outbox_dsn: str) -> Iterator[tuple[str, str]]:
    """A login in the relay's role, and how it connects."""
    name = f"looker_{uuid.uuid4().hex[:8]}"
    role = sql.Identifier(name)
    with psycopg.connect(outbox_dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("create role {} login in role relay_relay").format(role))
        yield name, make_conninfo(outbox_dsn, user=name)
        connection.execute(sql.SQL("drop role {}").format(role))


async def test_a_transaction_that_may_not_be_seen_leaves_the_age_out(
    outbox_dsn: str, login: tuple[str, str]
) -> None:
    name, dsn = login
    storage = looking(dsn)
    with psycopg.connect(outbox_dsn) as reading:
        reading.execute("set transaction isolation level repeatable read")
        reading.execute("select 1")
        seen = await storage.storage()
        assert (seen.oldest_transaction, seen.dead_rows) == (None, 0)
        with psycopg.connect(outbox_dsn, autocommit=True) as owner:
            owner.execute(sql.SQL("grant pg_read_all_stats to {}").format(sql.Identifier(name)))
        storage.pool.begin_anew()  # a new session has the new right
        held = await age(storage)
        assert held is not None
        assert held > 0.0
    await storage.close()


async def test_open_sessions_are_counted_by_duty(outbox_dsn: str) -> None:
    outbox = PostgresOutbox(outbox_dsn, "relay", page_bytes=1024)
    store = await outbox.campaign("tester")
    assert store is not None
    assert outbox.sessions() == {"term": 1, "reader": 1}
    assert (await outbox.storage()).sessions == {"term": 1, "reader": 1, "pool": 1}
    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(store.look, None)
            tasks.start_soon(outbox.storage)
    assert outbox.sessions() == {"term": 1, "reader": 1, "pool": 2}
    listener = await outbox.connect_listener()
    assert outbox.sessions() == {"term": 1, "reader": 1, "pool": 2, "listener": 1}
    listener.drop()
    await store.close()
    await outbox.close()
    assert outbox.sessions() == {}


async def test_a_look_that_failed_connects_anew(outbox_dsn: str, storage: PostgresOutbox) -> None:
    assert isinstance(await storage.storage(), OutboxStorage)
    storage.pool.begin_anew()
    assert isinstance(await storage.storage(), OutboxStorage)
    elsewhere = looking(outbox_dsn, "elsewhere")
    with pytest.raises(SchemaError):
        await elsewhere.storage()
    await elsewhere.close()


async def test_a_session_that_was_ended_meanwhile_is_not_handed_out(
    outbox_dsn: str, storage: PostgresOutbox
) -> None:
    await storage.storage()
    with psycopg.connect(outbox_dsn, autocommit=True) as connection:
        for _ in range(3):
            connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where application_name = 'relay pool' and datname = current_database()"
            )
            assert isinstance(await storage.storage(), OutboxStorage)
