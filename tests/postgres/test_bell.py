"""The bell over real Postgres: no commit is held up, nobody waits for anybody."""

import time

import anyio
import anyio.lowlevel
import psycopg
import pytest

from relay.ports import Wake
from relay.postgres.bell import PostgresBell
from relay.postgres.outbox import PostgresOutbox
from relay.postgres.session import Session
from relay.postgres.sqlfiles import BELL_CLASS, text
from tests.postgres.bells import (
    BELL,
    INSERT,
    LATE,
    POLL,
    armed,
    bell_running,
    silent,
    until,
)
from tests.postgres.deaf_proxy import deaf_proxy

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

HOLD = "(%s, %s::regclass::oid::int4)"


async def test_a_writer_rings_only_while_the_bell_is_armed(
    bell: PostgresBell, writer: psycopg.AsyncConnection, outbox_dsn: str
) -> None:
    # R-FIRST
    await armed(bell)
    await writer.execute(INSERT)
    with anyio.fail_after(LATE):
        assert await bell.wait(POLL) is Wake.BELL
    await writer.execute(INSERT)  # it stays armed
    with anyio.fail_after(LATE):
        assert await bell.wait(POLL) is Wake.BELL
    bell.disarm()
    await until(lambda: silent(writer))
    await writer.execute(INSERT)
    assert await bell.wait(0.3) is Wake.POLL
    bell.disarm()
    n = await armed(bell)
    assert await bell.arm() == n


async def test_an_arm_right_behind_a_disarm_keeps_the_lock(
    bell: PostgresBell, writer: psycopg.AsyncConnection
) -> None:
    for _ in range(50):
        n = await armed(bell)
        bell.disarm()
        assert await bell.arm() == n
        assert not await silent(writer)
    bell.disarm()
    await until(lambda: silent(writer))


async def test_a_killed_listener_is_made_anew_and_rings_again(
    bell: PostgresBell, writer: psycopg.AsyncConnection
) -> None:
    for _ in range(2):
        await armed(bell)
        await writer.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where application_name = 'relay listener' and datname = current_database()"
        )
        with anyio.fail_after(LATE):
            assert await bell.wait(POLL) is Wake.START
        await armed(bell)
        await writer.execute(INSERT)
        with anyio.fail_after(LATE):
            assert await bell.wait(POLL) is Wake.BELL
        bell.disarm()


@pytest.mark.parametrize("lock", ["pg_advisory_lock", "pg_advisory_lock_shared"])
async def test_somebody_else_s_lock_on_the_bell_is_named_once_and_costs_the_poll(
    bell: PostgresBell, outbox_dsn: str, caplog: pytest.LogCaptureFixture, lock: str
) -> None:
    # R-FIRST
    await armed(bell)
    bell.disarm()
    dsn = psycopg.conninfo.make_conninfo(outbox_dsn, application_name="some script")
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as other:
        await until(lambda: silent(other))
        await other.execute(f"select {lock}{HOLD}", BELL)
        with anyio.fail_after(LATE):
            while "somebody else" not in caplog.text:
                assert await bell.arm() is None
                await anyio.sleep(0.02)
        for _ in range(5):
            assert await bell.arm() is None
        said = [record for record in caplog.records if "somebody else" in record.getMessage()]
        assert len(said) == 1
        assert "'some script'" in said[0].__dict__["holder"]
    await armed(bell)


async def test_a_disabled_trigger_means_the_poll_and_is_noticed_while_armed(
    bell: PostgresBell, writer: psycopg.AsyncConnection
) -> None:
    await armed(bell)
    await writer.execute("alter table relay.outbox disable trigger relay_notify")
    with anyio.fail_after(LATE):
        assert await bell.wait(POLL) is Wake.START
    assert await bell.arm() is None
    assert bell.ring_seconds is None
    await until(lambda: silent(writer))
    await writer.execute("alter table relay.outbox enable trigger relay_notify")
    await armed(bell)


async def test_a_reader_that_arms_right_behind_a_release_waits_for_no_heartbeat(
    bell: PostgresBell, monkeypatch: pytest.MonkeyPatch
) -> None:
    # R-FIRST
    await armed(bell)
    monkeypatch.setattr("relay.postgres.bell.HEARTBEAT", POLL)
    for _ in range(20):
        await armed(bell)
        bell.disarm()
        while bell._held is not None:
            await anyio.lowlevel.checkpoint()
        while not bell._turn.statistics().tasks_waiting:
            await anyio.lowlevel.checkpoint()
        while bell._turn.statistics().tasks_waiting:  # the task that listens has its turn next
            await anyio.lowlevel.checkpoint()
        with anyio.fail_after(LATE):
            assert await bell.arm() is not None


async def test_a_ring_that_comes_with_an_answer_is_heard_at_once(
    bell: PostgresBell, writer: psycopg.AsyncConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    # R-FIRST
    await armed(bell)
    monkeypatch.setattr("relay.postgres.bell.HEARTBEAT", POLL)
    monkeypatch.setattr(bell, "_self_test", anyio.lowlevel.checkpoint)
    async with bell._speaking() as listener:
        await writer.execute(INSERT)
        await anyio.wait_readable(listener.connection.pgconn.socket)
        listener.connection.pgconn.consume_input()
    with anyio.fail_after(2):  # behind its lifetime the session ends, and that would tell
        assert await bell.wait(POLL) is Wake.BELL


async def test_behind_a_pooler_only_the_poll_is_left_and_it_is_said_once(
    outbox_dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with deaf_proxy(outbox_dsn) as through_the_pooler:
        outbox = PostgresOutbox(through_the_pooler, "relay", page_bytes=1 << 20)
        async with bell_running(outbox) as bell:
            with anyio.fail_after(LATE):
                while "out of order" not in caplog.text:
                    await anyio.sleep(0.02)
            assert await bell.arm() is None
            assert bell.ring_seconds is None
            await anyio.sleep(3)  # it tries again, and is silent about it
    complaints = [record for record in caplog.records if "out of order" in record.getMessage()]
    assert len(complaints) == 1
    assert "pooler" in complaints[0].__dict__["error"]


async def test_behind_a_pooler_a_trial_that_was_too_slow_does_not_make_the_bell_work(
    outbox_dsn: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # R-FIRST
    caplog.set_level("INFO", "relay.bell")
    monkeypatch.setattr("relay.postgres.bell.SELF_TEST_DEADLINE", 0.1)
    async with deaf_proxy(outbox_dsn) as through_the_pooler:
        outbox = PostgresOutbox(through_the_pooler, "relay", page_bytes=1 << 20)
        async with bell_running(outbox) as bell:
            trial, once = bell._trial, bell._trial.once
            sessions = 0

            async def at_first_too_slow(*, whole: bool = True) -> None:
                nonlocal sessions
                first_of_a_session = not trial._took
                await once(whole=whole)
                if first_of_a_session:
                    sessions += 1
                    trial._works = False

            monkeypatch.setattr(trial, "once", at_first_too_slow)
            with anyio.fail_after(30):
                while sessions < 4:
                    assert await bell.arm() is None
                    await anyio.sleep(0.005)
    said = [record.getMessage() for record in caplog.records]
    assert said == ["the bell is out of order; polling until it works again"]


async def test_an_arm_during_which_rings_became_too_slow_gives_the_lock_back(
    bell: PostgresBell, writer: psycopg.AsyncConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    # R-FIRST
    await armed(bell)
    bell.disarm()
    await until(lambda: silent(writer))
    above_all = bell._above_all

    async def while_a_trial_becomes_too_slow(listener: Session) -> int:
        n = await above_all(listener)
        bell._trial._began = time.monotonic() - 3
        return n

    monkeypatch.setattr(bell, "_above_all", while_a_trial_becomes_too_slow)
    assert await bell.arm() is None
    await until(lambda: silent(writer))
    with anyio.fail_after(LATE):
        assert await bell.wait(POLL) is Wake.START


async def test_a_reader_that_was_refused_and_is_armed_since_is_not_woken_to_arm(
    bell: PostgresBell, monkeypatch: pytest.MonkeyPatch
) -> None:
    self_test, no_trial_now, heard = bell._self_test, anyio.Lock(), anyio.Event()

    async def in_turns() -> bool:
        async with no_trial_now:
            good = await self_test()
            if good and refused:
                heard.set()
            return good

    refused = False
    monkeypatch.setattr(bell, "_self_test", in_turns)
    await armed(bell)
    bell.disarm()
    with anyio.fail_after(LATE):
        while bell._held is not None:
            await anyio.sleep(0.005)
    async with no_trial_now:
        bell._trial._began = time.monotonic() - 3
        assert await bell.arm() is None
        refused, bell._trial._began = True, None
        assert await bell.arm() is not None
    with anyio.fail_after(LATE):
        await heard.wait()
    assert not bell._ring.is_rung


def test_the_lock_of_the_trigger_is_the_one_that_the_relay_takes() -> None:
    assert str(BELL_CLASS) in text("triggers/relay_notify")
