"""What a ring costs those who ring, and when the bell goes off for it."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import cast

import anyio
import psycopg
import pytest

from relay import devstack
from relay.ports import Wake
from relay.postgres.bell import PostgresBell
from relay.postgres.outbox import PostgresOutbox
from relay.postgres.pool import Pool
from relay.postgres.trial import TOO_LONG, Trial
from tests.postgres.bells import (
    INSERT,
    LATE,
    POLL,
    armed,
    bell_running,
    migrated,
    silent,
    until,
    waiting_server,
)

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def prepared_server(postgres_server: devstack.Postgres) -> Iterator[devstack.Postgres]:
    with waiting_server(postgres_server.installation) as server:
        yield server


async def test_a_reader_refused_while_a_trial_lasts_is_woken_behind_it(
    bell: PostgresBell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However that trial ends: nobody rings who was not armed, so the sleep would be the poll's."""
    # R-FIRST
    await armed(bell)
    bell.disarm()
    trial, once = bell._trial, bell._trial.once
    refused: list[int | None] = []

    async def lasts_nearly_too_long(*, whole: bool = True) -> None:
        await once(whole=whole)
        trial._began = time.monotonic() - 3
        refused.append(await bell.arm())
        trial._began = None

    monkeypatch.setattr(trial, "once", lasts_nearly_too_long)
    with anyio.fail_after(LATE):
        assert await bell.wait(POLL) is Wake.START
    assert refused == [None]
    await armed(bell)


async def test_a_ring_is_timed_while_the_bell_is_armed(outbox_dsn: str) -> None:
    # R-FIRST
    outbox = PostgresOutbox(outbox_dsn, "relay", page_bytes=1 << 20)
    async with bell_running(outbox, TOO_LONG) as bell:
        assert bell.ring_seconds is None
        await armed(bell)
        assert bell.ring_seconds is not None
        assert 0 < bell.ring_seconds < 0.05


class Answers:
    """A pool, its session and its cursor in one: by the server's clock a commit took 4 ms."""

    description = True

    @asynccontextmanager
    async def session(self) -> AsyncIterator["Answers"]:
        yield self

    @property
    def connection(self) -> "Answers":
        return self

    async def execute(self, *_: object, prepare: bool) -> "Answers":
        assert not prepare
        return self

    async def results(self) -> AsyncIterator["Answers"]:
        for self.value in ("", 1000.0, 1000.004):
            yield self

    async def fetchone(self) -> tuple[object]:
        return (self.value,)


async def test_a_ring_costs_what_the_server_s_clock_says_and_not_what_this_process_adds() -> None:
    """Else the bell goes off because the relay is busy, and its reads come late for it."""
    trial = Trial(cast("Pool", Answers()), "a channel", "ours", now=lambda: 0.0)
    await trial.once()
    assert trial.seconds == pytest.approx(0.004)


async def test_rings_are_timed_again_while_the_bell_is_off_for_what_they_cost(
    bell: PostgresBell,
) -> None:
    """Else a disk that was slow for five seconds would keep the bell off for good."""
    await armed(bell)
    bell._trial._took.extend([0.04] * 5)
    bell.disarm()
    assert bell.ring_seconds == 0.04
    with anyio.fail_after(LATE):
        while (bell.ring_seconds or 1) > 0.03:
            await anyio.sleep(0.05)


@pytest.mark.slow
async def test_a_commit_that_holds_up_every_ring_turns_the_bell_off(
    prepared_server: devstack.Postgres,
) -> None:
    # R-FIRST
    dsn = prepared_server.create_database("stalled")
    await migrated(dsn)
    connect = psycopg.AsyncConnection.connect
    async with (
        bell_running(PostgresOutbox(dsn, "relay", page_bytes=1 << 20), TOO_LONG) as bell,
        await connect(dsn) as stalled,
        await connect(dsn, autocommit=True) as writer,
    ):
        await armed(bell)
        async with stalling(stalled, dsn):
            with anyio.fail_after(LATE):
                while bell.ring_seconds is not None:
                    await anyio.sleep(0.01)
            assert await bell.arm() is None
            await until(lambda: silent(writer))
            await writer.execute("set synchronous_commit = local")
            with anyio.fail_after(2):
                await writer.execute(INSERT)  # writers are silent, so this one is not held up
        await armed(bell, 60.0)
    prepared_server.drop_database("stalled")


async def test_a_trial_waits_for_a_standby_as_a_producer_that_rings_does(
    prepared_server: devstack.Postgres,
) -> None:
    # R-FIRST
    dsn = prepared_server.create_database("awaited")
    await migrated(dsn)
    connect = psycopg.AsyncConnection.connect
    async with (
        bell_running(PostgresOutbox(dsn, "relay", page_bytes=1 << 20)) as bell,
        await connect(dsn, autocommit=True) as writer,
    ):
        await armed(bell)
        await writer.execute("set synchronous_commit = local")
        async with no_standby(dsn):
            await writer.execute(INSERT)  # the only one who rings does not wait itself
            assert await bell.wait(POLL) is Wake.BELL
            with anyio.fail_after(LATE):
                assert await bell.wait(POLL) is Wake.START
            assert await bell.arm() is None
        with anyio.fail_after(60):
            assert await bell.wait(POLL) is Wake.START
        await armed(bell)
    prepared_server.drop_database("awaited")


@asynccontextmanager
async def no_standby(dsn: str) -> AsyncIterator[None]:
    """Have commits wait for a synchronous standby that is not there."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as admin:
        await admin.execute("alter system set synchronous_standby_names = 'nobody'")
        await admin.execute("select pg_reload_conf()")
        try:
            await until(lambda: _sync(admin))
            async with await psycopg.AsyncConnection.connect(dsn) as connection:
                waiting = await waiting_commit(connection, "", admin)
                await connection.cancel_safe()
                await waiting
            yield
        finally:
            await admin.execute("alter system reset synchronous_standby_names")
            await admin.execute("select pg_reload_conf()")


@asynccontextmanager
async def stalling(connection: psycopg.AsyncConnection, dsn: str) -> AsyncIterator[None]:
    """Let a commit with NOTIFY wait for a synchronous standby that is not there."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as admin:
        await admin.execute("alter system set synchronous_standby_names = 'nobody'")
        await admin.execute("select pg_reload_conf()")
        waiting = None
        try:
            await until(lambda: _sync(admin))
            waiting = await waiting_commit(connection, "notify anything", admin)
            yield
        finally:
            await admin.execute("alter system reset synchronous_standby_names")
            await admin.execute("select pg_reload_conf()")
            if waiting is not None:
                await waiting


async def waiting_commit(
    connection: psycopg.AsyncConnection, statement: str, admin: psycopg.AsyncConnection
) -> asyncio.Task[None]:
    """Commit ``statement``, and WAL, until a commit waits: the checkpointer decides that."""
    written = f"select pg_logical_emit_message(true, 'test', ''); {statement}".encode()
    pid = connection.info.backend_pid
    with anyio.fail_after(LATE):
        while True:
            await connection.execute(written)
            commit = asyncio.create_task(connection.commit())
            while not commit.done():
                if await _waits(admin, pid):
                    return commit
                await anyio.sleep(0.005)
            await commit


async def _sync(admin: psycopg.AsyncConnection) -> bool:
    row = await (await admin.execute("show synchronous_standby_names")).fetchone()
    return row == ("nobody",)


async def _waits(admin: psycopg.AsyncConnection, pid: int) -> bool:
    """Say whether the session ``pid`` waits for a standby."""
    row = await (
        await admin.execute("select wait_event from pg_stat_activity where pid = %s", (pid,))
    ).fetchone()
    return row == ("SyncRep",)
