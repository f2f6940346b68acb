"""asyncpg: its codecs, its prepared statements, its COPY."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import pytest

from relay.producer import Event, NoTransaction
from tests.producer.adapters import url_of

asyncpg = pytest.importorskip("asyncpg")

Work = Callable[[Any], Awaitable[None]]


def connected(dsn: str, work: Work, **settings: Any) -> None:
    async def run() -> None:
        connection = await asyncpg.connect(url_of(dsn), **settings)
        try:
            await work(connection)
        finally:
            await connection.close()

    asyncio.run(run())


def rows(dsn: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn) as connection:
        return connection.execute(
            "select payload::text, payload_bytes, headers from relay.outbox order by id"
        ).fetchall()


def test_codecs_for_json_do_not_dump_twice(one_dsn: str) -> None:
    from relay.producer.asyncpg import emit, emit_many

    async def work(connection: Any) -> None:
        for name in ("json", "jsonb"):
            await connection.set_type_codec(
                name, schema="pg_catalog", encoder=json.dumps, decoder=json.loads
            )
        async with connection.transaction():
            await emit(connection, "a.b", {"n": 1}, headers={"a": "b"})
            await emit_many(connection, [Event("a.b", {"n": 1}, headers={"a": "b"})])

    connected(one_dsn, work)
    assert rows(one_dsn) == [('{"n":1}', None, {"a": "b"})] * 2


@pytest.mark.parametrize("many", [False, True])
def test_an_event_by_itself_is_refused(one_dsn: str, many: bool) -> None:
    """R-PHANTOM: asyncpg commits each statement outside of a transaction."""
    from relay.producer.asyncpg import emit, emit_many

    async def work(connection: Any) -> None:
        with pytest.raises(NoTransaction, match=r"async with connection\.transaction"):
            await (emit_many(connection, [Event("a.b", 1)]) if many else emit(connection, "a.b", 1))

    connected(one_dsn, work)
    assert rows(one_dsn) == []


def test_a_pool_is_refused(one_dsn: str) -> None:
    from relay.producer.asyncpg import emit

    async def run() -> None:
        async with asyncpg.create_pool(url_of(one_dsn), min_size=1, max_size=1) as pool:
            with pytest.raises(TypeError, match="Pool is given, wanted is an asyncpg connection"):
                await emit(pool, "a.b", 1)

    asyncio.run(run())


def test_copy_and_executemany_of_plain_rows(one_dsn: str) -> None:
    async def work(connection: Any) -> None:
        await connection.execute("set role relay_producer")
        await connection.copy_records_to_table(
            "outbox",
            schema_name="relay",
            columns=["subject", "key", "payload", "headers"],
            records=[("a.b", "k", '{"n": 1}', '{"a": "b"}'), ("a.b", None, "2", None)],
        )
        insert = "insert into relay.outbox (subject, payload_bytes) values ($1, $2)"
        await connection.executemany(insert, [("a.b", b"\x00"), ("a.b", b"1")])

    connected(one_dsn, work)
    assert rows(one_dsn) == [
        ('{"n": 1}', None, {"a": "b"}),
        ("2", None, None),
        (None, b"\x00", None),
        (None, b"1", None),
    ]


def test_a_statement_that_was_prepared_before_a_migration_goes_on(one_dsn: str) -> None:
    from relay.producer.asyncpg import emit

    async def work(connection: Any) -> None:
        async with connection.transaction():
            await emit(connection, "a.b", 1)
        with psycopg.connect(one_dsn, autocommit=True) as other:
            emit_text = "'relay.emit(text, text, text, jsonb, text, interval)'::regprocedure"
            (text,) = other.execute(f"select pg_get_functiondef({emit_text})").fetchone() or ("",)
            other.execute(text)
        async with connection.transaction():
            await emit(connection, "a.b", 2)

    connected(one_dsn, work)
    assert [row[0] for row in rows(one_dsn)] == ["1", "2"]
