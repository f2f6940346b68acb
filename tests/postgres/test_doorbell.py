"""The doorbell over real Postgres: no wake-up is lost, and an awake relay is hardly ever rung.

The poll is set to 60 s, so a lost wake-up is an event that comes a minute late: each producer waits
for its last event before it goes on, and fails after ten seconds.
"""

import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import anyio
import psycopg
import pytest

from relay import Relay, Settings
from relay.core.pacing import LINGER
from relay.memory import MemoryBus
from relay.ports import Wake
from relay.postgres.bell import SELF_TEST_DEADLINE, PostgresBell
from relay.postgres.locks import BELL_CLASS
from relay.postgres.store import PostgresOutbox
from tests.postgres.deaf_proxy import deaf_proxy

pytestmark = pytest.mark.anyio

COMMITS = 10_000
INSERT = "insert into relay.outbox (subject, payload) values ('a.b', '{}') returning event_id::text"
LATE = 10.0


class Arrivals(MemoryBus):
    """A bus that knows at once whether an event has come."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: dict[str, anyio.Event] = {}
        self.come: set[str] = set()

    async def publish(self, events):  # type: ignore[no-untyped-def]
        outcomes = await super().publish(events)
        for event in events:
            self.come.add(event.event_id)
            if event.event_id in self.waiting:
                self.waiting[event.event_id].set()
        return outcomes

    async def until(self, event_id: str) -> None:
        arrived = self.waiting.setdefault(event_id, anyio.Event())
        if event_id not in self.come:
            with anyio.fail_after(LATE):
                await arrived.wait()
        del self.waiting[event_id]


@asynccontextmanager
async def relay_running(dsn: str, **settings: str) -> AsyncIterator[tuple[Relay, Arrivals]]:
    bus = Arrivals()
    relay = Relay(Settings(postgres_dsn=dsn, poll_interval="60s", **settings), bus=bus)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(relay.run)
        yield relay, bus
        relay.stop()


async def burst(connection: psycopg.AsyncConnection, bus: Arrivals, commits: int) -> None:
    for _ in range(commits):
        row = await (await connection.execute(INSERT)).fetchone()
    assert row is not None
    await bus.until(row[0])


async def test_no_wake_up_is_lost_in_ten_thousand_commits(outbox_dsn: str) -> None:
    """Rounds of bursts and silence; in most, a transaction that wrote silently stays open.

    In the silence the relay queues behind that one. Then either it commits, which nobody but the
    lock can announce, or others commit first, who must ring.
    """
    chance = random.Random(20)
    async with AsyncExitStack() as connections:
        relay, bus = await connections.enter_async_context(relay_running(outbox_dsn))
        connect = psycopg.AsyncConnection.connect
        silent = await connections.enter_async_context(await connect(outbox_dsn))
        writers = [
            await connections.enter_async_context(await connect(outbox_dsn, autocommit=True))
            for _ in range(4)
        ]
        committed, row = 0, None
        while committed < COMMITS:
            commits = chance.choice([1, 1, 2, 5, 25])
            async with anyio.create_task_group() as producers:
                for writer in writers:
                    producers.start_soon(burst, writer, bus, commits)
                if row is None and chance.random() < 0.8:
                    row = await (await silent.execute(INSERT)).fetchone()
            await anyio.sleep(chance.uniform(0, 3 * LINGER))
            committed += 4 * commits
            if row is not None and chance.random() < 0.6:
                await silent.commit()
                await bus.until(row[0])
                row = None
                committed += 1
        wakes = relay.metrics()["wakes"]
        assert wakes["bell"] > 20, "the relay hardly ever slept, so hardly anything was tried"
        assert wakes["grant"] > 5, "hardly any silent transaction was waited for"


async def test_an_awake_relay_is_rung_less_than_twenty_times_in_a_thousand_commits(
    outbox_dsn: str,
) -> None:
    async with (
        relay_running(outbox_dsn) as (relay, bus),
        await psycopg.AsyncConnection.connect(outbox_dsn, autocommit=True) as listener,
    ):
        await until(lambda: relay.metrics()["leading"])
        await listener.execute('listen "relay.outbox"')
        async with anyio.create_task_group() as producers:
            for seed in range(4):
                producers.start_soon(keep_it_awake, outbox_dsn, bus, 1000, random.Random(seed))
        rung = [notice async for notice in listener.notifies(timeout=0.2)]
        assert len(rung) < 4 * 20


async def keep_it_awake(dsn: str, bus: Arrivals, commits: int, chance: random.Random) -> None:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        for _ in range(commits):
            row = await (await connection.execute(INSERT)).fetchone()
            await anyio.sleep(chance.uniform(0, 0.002))
        assert row is not None
        await bus.until(row[0])


async def test_a_silent_transaction_is_announced_by_the_grant_of_the_lock(outbox_dsn: str) -> None:
    outbox = PostgresOutbox(outbox_dsn, "relay", page_bytes=1 << 20)
    bell = PostgresBell(outbox.connect, "relay", poll_interval=60)
    async with (
        anyio.create_task_group() as tasks,
        await psycopg.AsyncConnection.connect(outbox_dsn) as silent,
        await psycopg.AsyncConnection.connect(outbox_dsn, autocommit=True) as writer,
    ):
        tasks.start_soon(bell.run)
        await until_true(bell.arm)
        bell.disarm()
        await until_true(partial(writers_are_silent, writer))
        await silent.execute(INSERT)  # the relay is awake: nobody is rung
        await until_true(bell.arm)
        await writer.execute(INSERT)  # somebody queues for the lock: this one rings
        with anyio.fail_after(LATE):
            assert await bell.wait(60) is Wake.BELL
        bell.disarm()
        await until_true(bell.arm)
        async with anyio.create_task_group() as ending:
            ending.start_soon(silent.commit)
            with anyio.fail_after(LATE):
                assert await bell.wait(60) is Wake.GRANT
        tasks.cancel_scope.cancel()


async def test_a_killed_doorbell_session_is_made_anew_and_rings_again(outbox_dsn: str) -> None:
    outbox = PostgresOutbox(outbox_dsn, "relay", page_bytes=1 << 20)
    bell = PostgresBell(outbox.connect, "relay", poll_interval=60)
    async with (
        anyio.create_task_group() as tasks,
        await psycopg.AsyncConnection.connect(outbox_dsn, autocommit=True) as admin,
    ):
        tasks.start_soon(bell.run)
        for duty in ("doorbell listener", "doorbell lock"):
            await until_true(bell.arm)
            await admin.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where application_name = %s and datname = current_database()",
                (f"relay {duty}",),
            )
            with anyio.fail_after(LATE):
                assert await bell.wait(60) is Wake.START
            bell.disarm()
            await until_true(bell.arm)
            await admin.execute(INSERT)
            with anyio.fail_after(LATE):
                assert await bell.wait(60) is Wake.BELL
            bell.disarm()
        tasks.cancel_scope.cancel()


async def test_events_keep_flowing_by_the_poll_behind_a_pooler_and_it_is_said_once(
    outbox_dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    bus = Arrivals()
    async with deaf_proxy(outbox_dsn) as through_the_pooler:
        relay = Relay(Settings(postgres_dsn=through_the_pooler, poll_interval="10ms"), bus=bus)
        async with (
            anyio.create_task_group() as tasks,
            await psycopg.AsyncConnection.connect(outbox_dsn, autocommit=True) as writer,
        ):
            tasks.start_soon(relay.run)
            await until(lambda: "out of order" in caplog.text)
            for _ in range(3):
                row = await (await writer.execute(INSERT)).fetchone()
                assert row is not None
                await bus.until(row[0])
            await anyio.sleep(SELF_TEST_DEADLINE + 1)  # it tries again, and is silent about it
            relay.stop()
    complaints = [record for record in caplog.records if "out of order" in record.getMessage()]
    assert len(complaints) == 1
    assert "pooler" in complaints[0].__dict__["error"]


async def test_the_lock_of_the_trigger_is_the_one_that_the_relay_takes(outbox_dsn: str) -> None:
    async with await psycopg.AsyncConnection.connect(outbox_dsn) as writer:
        await writer.execute(INSERT)
        held = await writer.execute(
            "select classid::bigint, objid = 'relay.outbox'::regclass, mode from pg_locks"
            " where locktype = 'advisory' and pid = pg_backend_pid()"
        )
        assert await held.fetchall() == [(BELL_CLASS, True, "ShareLock")]


async def writers_are_silent(connection: psycopg.AsyncConnection) -> bool:
    """The very test that the trigger makes."""
    asked = await connection.execute(
        "select pg_try_advisory_xact_lock_shared(%s, 'relay.outbox'::regclass::oid::int4)",
        (BELL_CLASS,),
    )
    return await asked.fetchone() == (True,)


async def until(fact: Callable[[], bool]) -> None:
    with anyio.fail_after(LATE):
        while not fact():
            await anyio.sleep(0.005)


async def until_true(ask) -> None:  # type: ignore[no-untyped-def]
    with anyio.fail_after(LATE):
        while not await ask():
            await anyio.sleep(0.005)
