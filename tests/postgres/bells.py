"""What the tests of the bell share: a running bell, how it is armed, and who rings.

The poll is far away, so a lost wake-up is an event that comes a minute late.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import anyio
import psycopg
import pytest

from relay import devstack
from relay.postgres.bell import PostgresBell
from relay.postgres.outbox import PostgresOutbox
from relay.postgres.sqlfiles import BELL_CLASS

INSERT = "insert into relay.outbox (subject, payload) values ('a.b', '{}') returning event_id::text"
LATE = 10.0
POLL = 60.0
TRIAL_MAY_TAKE = 2.0
"""Seconds: on a busy machine a trial commit often takes longer than ``trial.TOO_LONG``, and then
the bell can't ring until a quicker one."""

BELL = (BELL_CLASS, "relay.outbox")


@asynccontextmanager
async def bell_running(
    outbox: PostgresOutbox, too_long: float = TRIAL_MAY_TAKE
) -> AsyncIterator[PostgresBell]:
    """Run a bell for which a trial commit of more than ``too_long`` s took too long."""
    bell = PostgresBell(outbox)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("relay.postgres.trial.TOO_LONG", too_long)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(bell.run)
            yield bell
            tasks.cancel_scope.cancel()
        await outbox.close()


async def until(ask: Callable[[], Awaitable[object]], within: float = LATE) -> None:
    with anyio.fail_after(within):
        while not await ask():
            await anyio.sleep(0.005)


async def armed(bell: PostgresBell, within: float = LATE) -> int:
    n: int | None = None

    async def ask() -> bool:
        nonlocal n
        n = await bell.arm()
        return n is not None

    await until(ask, within)
    assert n is not None
    return n


async def migrated(dsn: str) -> None:
    from relay.postgres import migrations

    await migrations.migrate(dsn, "relay")


async def silent(connection: psycopg.AsyncConnection) -> bool:
    """The very test that the trigger makes."""
    asked = await connection.execute(
        "select pg_try_advisory_lock_shared(%s, %s::regclass::oid::int4)"
        " and pg_advisory_unlock_shared(%s, %s::regclass::oid::int4)",
        BELL * 2,
    )
    return await asked.fetchone() == (True,)


@contextmanager
def waiting_server(installation: devstack.Installation) -> Iterator[devstack.Postgres]:
    """Run a server that takes prepared transactions, and can wait for a standby."""
    settings = {"max_prepared_transactions": "20", "fsync": "off", "wal_level": "replica"}
    with devstack.postgres(installation, settings=settings) as server:
        yield server
