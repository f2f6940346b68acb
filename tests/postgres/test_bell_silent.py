"""No commit of a writer that was silent comes late, however it commits.

The loop here is the least that a reader has to do: arm, read until nobody can be silent any more,
wait. The poll is far away, so a lost wake-up is an event that comes a minute late.
"""

import random
import time
from collections.abc import Callable, Iterator

import anyio
import anyio.lowlevel
import psycopg
import pytest

from relay import devstack
from relay.ports import Settlement
from relay.postgres.bell import PostgresBell
from relay.postgres.outbox import PostgresOutbox
from tests.postgres.bells import (
    INSERT,
    POLL,
    armed,
    bell_running,
    migrated,
    silent,
    until,
    waiting_server,
)

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

MISSED = 5.0
"""Seconds: a commit that the bell misses comes with the poll, a minute late. How late the others
are, on a machine that does nothing else, is a figure of ``bench.lone_commits``."""


class Arrivals:
    """What the reader has read, and when."""

    def __init__(self) -> None:
        self.at: dict[str, float] = {}
        self.sleeps = 0
        self.unarmed = 0
        self.most_sessions = 0


@pytest.fixture(scope="module")
def prepared_server(postgres_server: devstack.Postgres) -> Iterator[devstack.Postgres]:
    with waiting_server(postgres_server.installation) as server:
        yield server


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that stands still for seconds puts the bell out of order, and that is not asked."""
    for name in (
        "bell.SELF_TEST_DEADLINE",
        "bell.HEARTBEAT_DEADLINE",
        "pool.CHECK_DEADLINE",
        "pool.WAIT",
    ):
        monkeypatch.setattr(f"relay.postgres.{name}", 30.0)


async def read_on(outbox: PostgresOutbox, bell: PostgresBell, arrivals: Arrivals) -> None:
    """Read and sleep as a relay does that keeps the bell on."""
    store = None
    while store is None:
        store = await outbox.campaign("reader")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(store.watch)
        try:
            while True:
                n = await bell.arm()
                pause = 0.001
                while True:
                    page = await store.read(2000)
                    now = time.monotonic()
                    arrivals.at.update({event.event_id: now for event in page.events})
                    if page.position is not None:
                        await store.settle(Settlement(page.position))
                    if page.full:
                        continue
                    if n is None or page.xmin >= n:
                        break
                    await anyio.sleep(pause)
                    pause = min(2 * pause, 0.1)
                arrivals.unarmed += n is None
                arrivals.sleeps += 1
                arrivals.most_sessions = max(
                    arrivals.most_sessions, sum(outbox.sessions().values())
                )
                await bell.wait(0.02 if n is None else POLL)
        finally:
            await store.close()


class Producers:
    """Writers that commit in every way, and when each of their events was committed."""

    def __init__(self, dsn: str, seed: int) -> None:
        self.dsn = dsn
        self.chance = random.Random(seed)
        self.committed: dict[str, float] = {}

    async def write(self, until: float, dawdle: float) -> None:
        connect = psycopg.AsyncConnection.connect
        async with await connect(self.dsn) as connection:
            while time.monotonic() < until:
                how = self.chance.choice(["plain", "savepoint", "copy", "prepared"])
                ids = await self.insert(connection, how)
                await anyio.sleep(self.chance.uniform(0, dawdle))
                if how == "prepared":
                    await connection.tpc_prepare()
                    await anyio.sleep(self.chance.uniform(0, dawdle))
                    await connection.tpc_commit()
                else:
                    await connection.commit()
                now = time.monotonic()
                self.committed.update(dict.fromkeys(ids, now))
                await anyio.sleep(self.chance.uniform(0, 0.05))

    async def insert(self, connection: psycopg.AsyncConnection, how: str) -> list[str]:
        if how == "prepared":
            await connection.tpc_begin(f"t{self.chance.random()}")
        if how == "savepoint":
            await connection.execute(INSERT)
            await connection.execute("savepoint s")
            await connection.execute(INSERT)
            await connection.execute("rollback to s")
        if how == "copy":
            cursor = connection.cursor()
            async with cursor.copy("copy relay.outbox (subject, payload) from stdin") as copy:
                await copy.write("a.copied\t{}\n")
            found = await connection.execute(
                "select event_id::text from relay.outbox where xid = pg_current_xact_id()"
            )
        else:
            found = await connection.execute(INSERT)
        return [event_id for (event_id,) in await found.fetchall()]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
async def test_no_commit_comes_late_beside_silent_writers_that_dawdle(
    prepared_server: devstack.Postgres, seed: int
) -> None:
    """A trigger that notifies can't be in a prepared transaction: those fail, and are asked again.

    So prepared ones are written while the relay is awake, as two-phase commit needs.
    """
    # R-FIRST
    name = f"lone_{seed}"
    dsn = prepared_server.create_database(name)
    await migrated(dsn)
    outbox = PostgresOutbox(dsn, "relay", page_bytes=1 << 20)
    producers, arrivals = Producers(dsn, seed), Arrivals()
    producers.chance.choice = _without_prepared(producers.chance)  # type: ignore[method-assign]
    began = prepared_server.log_path.stat().st_size
    async with bell_running(outbox) as bell:
        await armed(bell)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read_on, outbox, bell, arrivals)
            end = time.monotonic() + 15
            async with anyio.create_task_group() as writing:
                for _ in range(5):
                    writing.start_soon(producers.write, end, 0.3)
                writing.start_soon(producers.write, end, 3.0)
                for _ in range(2):
                    writing.start_soon(producers.write, end, 0.0)
            await until(lambda: _true(producers.committed.keys() <= arrivals.at.keys()))
            tasks.cancel_scope.cancel()
    late = [
        arrivals.at[event_id] - committed for event_id, committed in producers.committed.items()
    ]
    assert max(late) < MISSED
    assert len(late) > 200
    assert arrivals.sleeps > 50
    assert arrivals.most_sessions <= 6
    said = prepared_server.log_path.read_bytes()[began:].decode()
    assert "ERROR" not in said
    prepared_server.drop_database(name)


def _without_prepared(chance: random.Random) -> Callable[..., str]:
    return lambda _: ("plain", "savepoint", "copy")[chance.randrange(3)]


async def _true(fact: bool) -> bool:
    return fact


async def test_prepared_transactions_come_with_the_read_that_sees_them(
    prepared_server: devstack.Postgres,
) -> None:
    """Written before the relay slept, committed afterwards: only the snapshot's xmin tells."""
    # R-FIRST
    dsn = prepared_server.create_database("prepared")
    await migrated(dsn)
    outbox = PostgresOutbox(dsn, "relay", page_bytes=1 << 20)
    connect = psycopg.AsyncConnection.connect
    arrivals = Arrivals()
    async with (
        bell_running(outbox) as bell,
        await connect(dsn) as writer,
        await connect(dsn, autocommit=True) as look,
    ):
        for _ in range(5):
            await writer.tpc_begin(f"x{time.monotonic()}")
            (event_id,) = await (await writer.execute(INSERT)).fetchone() or ("",)
            await writer.tpc_prepare()
            async with anyio.create_task_group() as tasks:
                await armed(bell)
                tasks.start_soon(read_on, outbox, bell, arrivals)
                await anyio.sleep(0.2)
                assert arrivals.unarmed == 0, bell._complaint
                assert arrivals.sleeps == 0  # it must not sleep beside a silent transaction
                await writer.tpc_commit()
                committed = time.monotonic()
                await until(lambda: _true(bool(arrivals.at)))
                assert arrivals.at.pop(event_id) - committed < MISSED
                await until(lambda: _true(arrivals.sleeps > 0))
                tasks.cancel_scope.cancel()
            bell.disarm()
            await until(lambda: silent(look))
            arrivals.sleeps = 0
    prepared_server.drop_database("prepared")
