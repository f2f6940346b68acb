"""The bell over real Postgres: no wake-up is lost, no commit is held up, nobody waits for anybody.

The loop here is the least that a reader has to do: arm, read until nobody can be silent any more,
wait. The poll is far away, so a lost wake-up is an event that comes a minute late.
"""

import os
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator

import anyio
import anyio.lowlevel
import psycopg
import pytest

from relay import devstack
from relay.ports import Settlement, Wake
from relay.postgres.bell import HEARTBEAT, PostgresBell
from relay.postgres.outbox import PostgresOutbox
from relay.postgres.sqlfiles import BELL_CLASS, text
from tests.postgres.bells import (
    BELL,
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
from tests.postgres.deaf_proxy import deaf_proxy

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

MISSED = 5.0
"""Seconds: a commit that the bell misses comes with the poll, a minute late. How late the others
are, on a machine that does nothing else, is a figure of ``bench.lone_commits``."""

HOLD = "(%s, %s::regclass::oid::int4)"


class Arrivals:
    """What the reader has read, and when."""

    def __init__(self) -> None:
        self.at: dict[str, float] = {}
        self.sleeps = 0
        self.most_sessions = 0


@pytest.fixture
async def bell(outbox_dsn: str) -> AsyncIterator[PostgresBell]:
    async with bell_running(PostgresOutbox(outbox_dsn, "relay", page_bytes=1 << 20)) as bell:
        yield bell


@pytest.fixture
async def writer(outbox_dsn: str) -> AsyncIterator[psycopg.AsyncConnection]:
    connect = psycopg.AsyncConnection.connect
    async with await connect(outbox_dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="module")
def prepared_server(postgres_server: devstack.Postgres) -> Iterator[devstack.Postgres]:
    with waiting_server(postgres_server.installation) as server:
        yield server


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


def age_to(server: devstack.Postgres, low: int, epoch: int) -> None:
    """Let the cluster be as old as that, with no row that depends on an older transaction id."""
    for step in [*range(3 << 29, low, 3 << 29), low]:
        for name in ("postgres", "template1", "template0"):
            with psycopg.connect(server.dsn, autocommit=True) as admin:
                admin.execute(f"alter database {name} allow_connections true")
            with psycopg.connect(server.dsn_of(name), autocommit=True) as admin:
                admin.execute("vacuum (freeze)")
        server.stop()
        segment = server._data / "pg_xact" / f"{step >> 20:04X}"
        segment.write_bytes(bytes(1 << 18))
        owner = server._data.stat()
        os.chown(segment, owner.st_uid, owner.st_gid)
        reset = server._spawn("pg_resetwal", "-x", str(step), "-e", str(epoch), str(server._data))
        assert reset.wait(30) == 0
        server.start()


@pytest.mark.parametrize(
    ("low", "epoch"), [((1 << 31) + (7 << 20), 0), ((1 << 32) - (1 << 20), 1), (7 << 20, 5)]
)
async def test_n_is_right_on_a_cluster_after_years_of_work(
    postgres_server: devstack.Postgres, low: int, epoch: int
) -> None:
    # R-FIRST
    settings = {"fsync": "off", "autovacuum": "off"}
    with devstack.postgres(postgres_server.installation, settings=settings) as server:
        age_to(server, low, epoch)
        dsn = server.create_database("old")
        await migrated(dsn)
        async with (
            bell_running(PostgresOutbox(dsn, "relay", page_bytes=1 << 20)) as bell,
            await psycopg.AsyncConnection.connect(dsn) as running,
        ):
            n = await armed(bell)
            row = await (await running.execute("select pg_current_xact_id()::text")).fetchone()
            assert row is not None
            assert n >= (epoch << 32) + low
            assert n <= int(row[0]) <= n + 100


async def test_n_is_the_next_transaction_id(bell: PostgresBell, outbox_dsn: str) -> None:
    n = await armed(bell)
    assert await bell.arm() == n
    async with await psycopg.AsyncConnection.connect(outbox_dsn) as running:
        ids = []
        for _ in range(3):  # running ones at and above a snapshot's xmax
            row = await (await running.execute("select pg_current_xact_id()::text")).fetchone()
            assert row is not None
            ids.append(int(row[0]))
            await running.rollback()
            bell.disarm()
            async with await psycopg.AsyncConnection.connect(outbox_dsn) as other:
                row = await (await other.execute("select pg_current_xact_id()::text")).fetchone()
                assert row is not None
                await until(lambda: _released(bell))
                assert await armed(bell) > int(row[0])
    assert n <= ids[0]


async def _released(bell: PostgresBell) -> bool:
    return bell._held is None


@pytest.mark.parametrize(
    ("xmax", "age", "n"),
    [
        ("740", 737, 740),
        ("740", 740, 743),
        (str((1 << 31) - 1), (1 << 31) - 4 - (1 << 32) + (1 << 32), (1 << 31) - 1),
        (str(1 << 31), -(1 << 31) + 2 - 3 + 3, (1 << 31) + 5),
        (str((1 << 32) - 1), -4 + 2, (1 << 32) + 1),
        (str((1 << 32) + 3), 1, (1 << 32) + 4),
        (str((5 << 32) - 2), 2, (5 << 32) + 5),
    ],
)
async def test_both_halves_of_n_meet_across_every_wrap(
    bell: PostgresBell, xmax: str, age: int, n: int
) -> None:
    class Told:
        async def row(self, _: object) -> tuple[str, int]:
            return xmax, age

    assert await bell._above_all(Told()) == n  # type: ignore[arg-type]


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
    bell: PostgresBell,
) -> None:
    # R-FIRST
    for _ in range(20):
        await armed(bell)
        bell.disarm()
        while bell._held is not None:
            await anyio.lowlevel.checkpoint()
        while not bell._turn.statistics().tasks_waiting:
            await anyio.lowlevel.checkpoint()
        while bell._turn.statistics().tasks_waiting:  # the task that listens has its turn next
            await anyio.lowlevel.checkpoint()
        with anyio.fail_after(HEARTBEAT / 2):
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


def test_the_lock_of_the_trigger_is_the_one_that_the_relay_takes() -> None:
    assert str(BELL_CLASS) in text("triggers/relay_notify")
