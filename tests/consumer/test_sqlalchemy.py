"""The same inbox over SQLAlchemy, on both of its asynchronous drivers."""

import gc
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict

from relay.consumer import Message
from tests.consumer.rig import World, until

sqlalchemy = pytest.importorskip("sqlalchemy")

from sqlalchemy.ext.asyncio import (  # noqa: E402 - behind the look for it
    AsyncConnection,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)

from relay.consumer.sqlalchemy import SqlalchemyDatabase  # noqa: E402

# R-ONCE R-ORDER
pytestmark = [
    pytest.mark.anyio,
    # SQLAlchemy forgets a connection that the server has ended, without closing it.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
INSERT = "insert into effect (id, key, number, by) values (:id, :key, :number, :by)"


@pytest.fixture(params=["psycopg", "asyncpg"])
async def engine(request: pytest.FixtureRequest, there: World) -> AsyncIterator[Any]:
    pytest.importorskip(request.param)
    given = conninfo_to_dict(there.dsn)
    url = sqlalchemy.URL.create(
        f"postgresql+{request.param}",
        given["user"],
        given["password"],
        given["host"],
        int(given["port"]),
        given["dbname"],
    )
    made = create_async_engine(url, pool_size=8)
    yield made
    await made.dispose()
    gc.collect()  # here, and not in somebody else's test


async def apply(connection: Any, message: Message) -> None:
    number = json.loads(message.payload)["number"]
    values = {"id": message.id, "key": message.key, "number": number}
    values["by"] = type(connection).__name__
    await connection.execute(sqlalchemy.text(INSERT), values)
    if number == 7:
        raise ValueError("no")
    if number == 8:
        with suppress(sqlalchemy.exc.DBAPIError):
            await connection.execute(sqlalchemy.text("select 1/0"))


@pytest.mark.parametrize("kind", [AsyncConnection, AsyncSession])
async def test_effects_are_made_once_in_order_and_poison_is_parked(
    there: World, engine: Any, kind: type
) -> None:
    source = engine if kind is AsyncConnection else async_sessionmaker(engine)
    await there.publish_all(range(40), lambda number: f"k{number % 10}")
    database = SqlalchemyDatabase(source)
    async with there.running(apply, database=database, max_attempts=2) as consumer:
        await until(lambda: consumer.counts.handled == 32)
        dead = "select sequence from relay.inbox_parked where dead_at is not null order by 1"
        await until(lambda: there.ask(dead) == [(8,), (9,)])
        await there.acknowledged()
        await engine.dispose()  # its connections are lost; others are to be had
        await there.publish(100, "k1")
        await until(lambda: there.numbers("k1") == [1, 11, 21, 31, 100])
    assert there.ask("select count(*) from relay.inbox_parked") == [(8,)]
    assert there.ask("select distinct by from effect") == [(kind.__name__,)]
    for key in (0, 1, 2, 3, 4, 5, 6, 9):
        assert there.numbers(f"k{key}")[:4] == list(range(key, 40, 10))
    assert there.numbers("k7") == there.numbers("k8") == []


@pytest.mark.slow
async def test_lost_connections_cost_no_attempt(there: World, engine: Any) -> None:
    await there.publish_all(range(300), lambda number: f"k{number % 4}")
    async with there.running(apply_all, database=SqlalchemyDatabase(engine), batch=5) as consumer:
        for least in (20, 100):
            await until(lambda least=least: consumer.counts.handled > least)
            there.ask(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where datname = current_database() and pid <> pg_backend_pid()"
            )
        await until(lambda: len(there.numbers()) == 300)
    assert consumer.counts.refused == 0
    for key in range(4):
        assert there.numbers(f"k{key}") == list(range(key, 300, 4))


async def apply_all(connection: Any, message: Message) -> None:
    number = json.loads(message.payload)["number"]
    values = {"id": message.id, "key": message.key, "number": number, "by": ""}
    await connection.execute(sqlalchemy.text(INSERT), values)
