"""The pool: a session that is lent is alive, and its server takes writes; that is asked seldom."""

from collections.abc import AsyncIterator

import psycopg
import pytest

from relay.postgres import pool as pools
from relay.postgres.outbox import PostgresOutbox
from relay.postgres.pool import Pool

pytestmark = pytest.mark.anyio

PID = b"select pg_backend_pid()"


@pytest.fixture
async def pool(outbox_dsn: str) -> AsyncIterator[Pool]:
    outbox = PostgresOutbox(outbox_dsn, "relay", page_bytes=1024)
    yield outbox.pool
    await outbox.close()


async def pid_of(pool: Pool, statement: bytes = b"") -> int:
    """Lend a session, which runs ``statement``; its process."""
    async with pool.session() as session:
        if statement:
            await session.connection.execute(statement)
        row = await (await session.connection.execute(PID)).fetchone()
        assert row is not None
        return int(row[0])


async def test_a_session_that_died_in_the_pool_is_not_lent(
    pool: Pool, admin: psycopg.Connection
) -> None:
    first = await pid_of(pool)
    admin.execute("select pg_terminate_backend(%s, 5000)", (first,))
    assert await pid_of(pool) != first


async def test_a_server_is_not_asked_each_time_whether_it_takes_writes(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a leader at rest asks twice a second would be a ninth of all that it asks."""
    asked: list[str] = []
    real = pools._asked

    async def counted(connection: pools.Connection, question: str) -> object:
        asked.append(question)
        return await real(connection, question)

    monkeypatch.setattr(pools, "_asked", counted)
    assert len({await pid_of(pool) for _ in range(20)}) == 1
    assert asked.count(pools._READ_ONLY) == 1


async def test_a_session_whose_server_takes_no_writes_any_more_is_not_lent(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await pid_of(pool, b"set default_transaction_read_only = on")
    monkeypatch.setattr(pools, "CHECK_EVERY", 0.0)
    assert await pid_of(pool) != first
