"""The pool: what one who waits for a session gets when the pool is closed or begun anew."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
import pytest
from psycopg import sql

from relay.errors import RelayError, StoreOutage
from relay.postgres.connecting import open_connection
from relay.postgres.pool import MOST, Pool

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]


@pytest.fixture
async def pool(outbox_dsn: str) -> AsyncIterator[Pool]:
    pool = Pool(lambda kind: open_connection(outbox_dsn, "pool", {}, kind))
    yield pool
    await pool.close()


async def asks(pool: Pool, answers: list[object]) -> None:
    try:
        async with pool.session() as session:
            row = await session.row(sql.SQL("select 1").format())
            answers.append(row and row[0])
    except RelayError as error:
        answers.append(error)


@asynccontextmanager
async def one_waits(pool: Pool) -> AsyncIterator[list[object]]:
    """All sessions are lent, and a task waits for one; yields the list that gets its answer."""
    answers: list[object] = []
    async with AsyncExitStack() as lent, anyio.create_task_group() as group:
        for _ in range(MOST):
            await lent.enter_async_context(pool.session())
        group.start_soon(asks, pool, answers)
        assert pool._pool is not None
        while not pool._pool.get_stats().get("requests_waiting"):
            await anyio.sleep(0.01)
        yield answers


async def test_one_who_waits_for_a_session_gets_it_of_the_pool_that_is_begun_anew(
    pool: Pool,
) -> None:
    async with one_waits(pool) as answers:
        pool.begin_anew()
        while not answers:
            await anyio.sleep(0.01)
    assert answers == [1]


async def test_a_pool_that_is_closed_opens_for_nobody_until_it_is_begun_anew(pool: Pool) -> None:
    async with one_waits(pool) as answers:
        await pool.close()
    await asks(pool, answers)
    assert [type(answer) for answer in answers] == [StoreOutage, StoreOutage]
    assert pool._pool is None
    pool.begin_anew()
    await asks(pool, answers)
    assert answers[2:] == [1]
