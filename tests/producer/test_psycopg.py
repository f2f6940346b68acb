"""psycopg: whatever the application has set on its connection stays, and does not matter."""

import asyncio
from typing import Any

import psycopg
import pytest
from psycopg import pq, rows
from psycopg_pool import ConnectionPool

from relay.producer import Event, NoTransaction
from relay.producer.psycopg import aemit, emit, emit_many

COUNT = "select count(*) from relay.outbox"


def written(dsn: str) -> int:
    with psycopg.connect(dsn, autocommit=True) as connection:
        (count,) = connection.execute(COUNT).fetchone() or (0,)
        return int(count)


@pytest.mark.parametrize(
    "settings",
    [
        {"row_factory": rows.dict_row},
        {"row_factory": rows.scalar_row},
        {"cursor_factory": psycopg.ClientCursor},
        {"cursor_factory": psycopg.RawCursor},
        {"prepare_threshold": 0},
        {"prepare_threshold": None},
    ],
    ids=["dict_row", "scalar_row", "ClientCursor", "RawCursor", "prepares", "prepares nothing"],
)
def test_a_connection_may_be_set_up_as_it_likes(one_dsn: str, settings: dict[str, Any]) -> None:
    with psycopg.connect(one_dsn, **settings) as connection:
        for _ in range(3):
            made = emit(connection, "a.b", {"n": "%s"}, key="%", headers={"a": "$1"})
            assert len(emit_many(connection, [Event("a.b", 1), Event("a.b", b"%")])) == 2
        factory = settings.get("row_factory", rows.tuple_row)
        assert connection.row_factory is factory
    assert written(one_dsn) == 9
    assert made.version == 4


def test_a_pool_s_connection_goes_back_whole(one_dsn: str) -> None:
    with ConnectionPool(one_dsn, min_size=1, max_size=1, open=True) as pool:
        for _ in range(3):
            with pool.connection() as connection:
                emit(connection, "a.b", 1)
        with pytest.raises(TypeError, match=r"ConnectionPool is given, wanted is a psycopg\.Conn"):
            emit(pool, "a.b", 1)  # type: ignore[arg-type]
    assert written(one_dsn) == 3


def test_within_a_pipeline(one_dsn: str) -> None:
    with (
        psycopg.connect(one_dsn, autocommit=True) as connection,
        connection.pipeline(),
        connection.transaction(),
    ):
        connection.execute("create table orders (id int)")
        emit(connection, "a.b", 1)
        connection.execute("insert into orders values (1)")
        emit_many(connection, [Event("a.b", 1)])
    assert written(one_dsn) == 2


def test_within_a_savepoint_it_goes_with_the_savepoint(one_dsn: str) -> None:
    with psycopg.connect(one_dsn) as connection:
        emit(connection, "a.b", 1)
        with connection.transaction(force_rollback=True):
            emit(connection, "a.b", 2)
    assert written(one_dsn) == 1


@pytest.mark.parametrize("many", [False, True])
def test_an_event_by_itself_is_refused(one_dsn: str, many: bool) -> None:
    """R-PHANTOM: the change that it speaks of might be rolled back."""
    with psycopg.connect(one_dsn, autocommit=True) as connection:
        with pytest.raises(NoTransaction, match=r"with connection\.transaction"):
            emit_many(connection, [Event("a.b", 1)]) if many else emit(connection, "a.b", 1)
        connection.execute("begin")
        emit(connection, "a.b", 1)
        connection.execute("commit")
    assert written(one_dsn) == 1


def test_an_event_is_not_committed_by_emit(one_dsn: str) -> None:
    with psycopg.connect(one_dsn) as connection:
        emit(connection, "a.b", 1)
        emit_many(connection, [Event("a.b", 1)])
        assert connection.info.transaction_status is pq.TransactionStatus.INTRANS
        assert not connection.closed
        connection.rollback()
    assert written(one_dsn) == 0


def test_another_schema(one_dsn: str) -> None:
    with psycopg.connect(one_dsn) as connection:
        connection.execute("alter schema relay rename to bus")
        assert emit_many(connection, [Event("a.b", 1)], schema="bus")


def test_an_async_connection_is_refused_where_nobody_awaits(one_dsn: str) -> None:
    async def work() -> None:
        async with await psycopg.AsyncConnection.connect(one_dsn) as connection:
            with pytest.raises(TypeError, match="AsyncConnection is given"):
                emit(connection, "a.b", 1)  # type: ignore[arg-type]
            await connection.set_autocommit(True)
            with pytest.raises(NoTransaction):
                await aemit(connection, "a.b", 1)

    asyncio.run(work())
    assert written(one_dsn) == 0


def test_copy_and_executemany_of_plain_rows(one_dsn: str) -> None:
    with psycopg.connect(one_dsn) as connection, connection.cursor() as cursor:
        cursor.execute("set role relay_producer")
        copy = "copy relay.outbox (subject, key, payload, headers) from stdin"
        with cursor.copy(copy) as sink:
            for number in range(100):
                sink.write_row(("a.b", f"k{number}", '{"n": 1}', None))
        insert = "insert into relay.outbox (subject, payload_bytes) values (%s, %s) returning id"
        cursor.executemany(insert, [("a.b", b"1"), ("a.b", b"2")], returning=True)
        assert cursor.fetchone() is not None
    assert written(one_dsn) == 102
