"""R-FIRST: producers come first, whatever the bell, the queue or a standby are up to.

Where the poll is a minute, an event that comes soon came by the bell.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import anyio
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from relay import devstack
from relay.postgres import migrations
from relay.postgres.sqlfiles import BELL_CLASS
from tests.system import streams
from tests.system.harness import STREAM, RelayProcess, Start, alone, emit, until

pytestmark = pytest.mark.timeout(120)

SELDOM = {"poll_interval": "60s"}
BY_THE_BELL = 20.0
"""Seconds, on a busy machine; the poll would take a minute, and what is stuck takes for ever."""

SESSIONS_MOST = 6
LONE = 60
PROMPT = 10.0
"""Seconds that a producer's commit may take on a busy machine; what is stuck takes for ever."""

SETTINGS = {"log_line_prefix": "%m [%p] %a: ", "synchronous_commit": "on", "fsync": "off"}
CANCELLED_TRIAL = "] relay pool: ERROR:  canceling statement due to user request"
"""What the relay does to a trial commit that a busy machine makes slow."""

ASLEEP = """
select count(*) from pg_locks as l
 where l.locktype = 'advisory' and l.classid = %s and l.granted and l.mode = 'ExclusiveLock'
   and l.database = (select d.oid from pg_database as d where d.datname = current_database())
"""


@pytest.fixture
def own_postgres(postgres_server: devstack.Postgres) -> Iterator[devstack.Postgres]:
    """A cluster of the same major version with a log of its own, which the test may stop."""
    with devstack.postgres(postgres_server.installation, settings=SETTINGS) as server:
        anyio.run(migrations.migrate, server.dsn, "relay")
        yield server


def asleep(dsn: str) -> bool:
    return bool(alone(dsn, ASLEEP, BELL_CLASS))


def seconds_to(url: str, count: int) -> float:
    """Wait until the stream holds so many; how long that took."""
    began = time.monotonic()
    until(lambda: streams.held(url, STREAM) >= count, 30)
    return time.monotonic() - began


@contextmanager
def dawdling(dsn: str, writers: int) -> Iterator[list[str]]:
    """Have writers that are silent between INSERT and commit; the events they have committed."""
    committed: list[str] = []
    over = threading.Event()

    def dawdle() -> None:
        with psycopg.connect(dsn) as connection:
            while not over.is_set():
                event_id = emit(connection, "orders.slow")
                over.wait(0.1)
                connection.commit()
                committed.append(event_id)

    threads = [threading.Thread(target=dawdle) for _ in range(writers)]
    for thread in threads:
        thread.start()
    try:
        yield committed
    finally:
        over.set()
        for thread in threads:
            thread.join()


@pytest.mark.slow
def test_beside_silent_writers_every_lone_commit_comes_by_the_bell_and_nobody_complains(
    own_postgres: devstack.Postgres, own_nats: devstack.NatsServer, start: Start
) -> None:
    """And Postgres stops at once when it is told to, with all of the relay's sessions."""
    dsn, url = own_postgres.dsn, own_nats.url
    relay = start(dsn, url, **SELDOM)
    until(lambda: asleep(dsn), 20)
    most, late = 0, []
    sessions = "select count(*) from pg_stat_activity where application_name like 'relay %'"
    with psycopg.connect(dsn) as long:
        emit(long, "orders.long")
        with dawdling(dsn, 3) as committed:
            for number in range(LONE):
                emit(dsn, "orders.lone", number=number)
                began, before = time.monotonic(), number + 1 + len(committed)
                until(lambda before=before: streams.held(url, STREAM) >= before, 30)  # type: ignore[misc]
                late.append(time.monotonic() - began)
                most = max(most, alone(dsn, sessions))
        long.commit()
    assert seconds_to(url, LONE + len(committed) + 1) <= BY_THE_BELL  # the writers' own as well
    assert max(late) <= BY_THE_BELL, late
    assert most <= SESSIONS_MOST
    said = own_postgres.log_path.read_text(encoding="utf-8", errors="replace")
    errors = [line for line in said.splitlines() if "] relay " in line and "ERROR" in line]
    assert [line for line in errors if not line.endswith(CANCELLED_TRIAL)] == []
    own_postgres.stop("immediate")
    said = own_postgres.log_path.read_text(encoding="utf-8", errors="replace")
    assert "SIGKILL to recalcitrant children" not in said
    assert relay.process.poll() is None


def queue_above_half(dsn: str) -> Callable[[], None]:
    """Fill the NOTIFY queue above its half, as another application; return what empties it."""
    deaf = psycopg.connect(dsn, autocommit=True)
    for statement in ("listen theirs", "begin", "select 1"):
        deaf.execute(statement)
    with psycopg.connect(dsn, autocommit=True) as loud:
        while not alone(dsn, "select pg_notification_queue_usage() > 0.5"):
            loud.execute("select pg_notify('theirs', repeat(md5(random()::text), 200))")
    return deaf.close


@pytest.mark.slow
def test_where_another_application_fills_the_queue_no_commit_fails_and_the_poll_delivers(
    own_nats: devstack.NatsServer, start: Start
) -> None:
    newest = devstack.find_postgres()[0]
    if newest.major < 17:
        pytest.skip("before Postgres 17 the queue has 8 GB")
    url = own_nats.url
    with devstack.postgres(
        newest, settings={"max_notify_queue_pages": "64", "fsync": "off"}
    ) as server:
        anyio.run(migrations.migrate, server.dsn, "relay")
        relay = start(server.dsn, url)
        until(lambda: asleep(server.dsn), 20)
        empty = queue_above_half(server.dsn)
        until(lambda: not asleep(server.dsn), 20)
        for number in range(20):
            emit(server.dsn, "orders.placed", number=number)
        assert seconds_to(url, 20) <= BY_THE_BELL
        empty()
        until(lambda: asleep(server.dsn), 20)
        emit(server.dsn, "orders.placed")
        assert seconds_to(url, 21) <= BY_THE_BELL
        assert relay.terminate() == 0


def test_a_commit_that_waits_for_a_stalled_standby_holds_up_no_other_producer(
    own_postgres: devstack.Postgres, own_nats: devstack.NatsServer, start: Start
) -> None:
    """It rings, and holds NOTIFY's lock while it waits: so the bell goes off for everybody."""
    dsn, url = own_postgres.dsn, own_nats.url
    relay = start(dsn, url)
    until(lambda: asleep(dsn), 20)
    local = make_conninfo(dsn, options="-c synchronous_commit=local")
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute("alter system set synchronous_standby_names = 'nobody'")
        admin.execute("select pg_reload_conf()")
        until(lambda: alone(dsn, "show synchronous_standby_names") == "nobody", 10)
        waiting = threading.Thread(target=emit, args=(dsn, "orders.waits"))
        waiting.start()
        stuck = "select count(*) from pg_stat_activity where wait_event = 'SyncRep'"
        until(lambda: alone(dsn, stuck) > 0, 10)
        until(lambda: not asleep(dsn), 10)
        for number in range(10):
            began = time.monotonic()
            emit(local, "orders.placed", number=number)
            assert time.monotonic() - began <= PROMPT
        assert seconds_to(url, 10) <= BY_THE_BELL
        admin.execute("alter system reset synchronous_standby_names")
        admin.execute("select pg_reload_conf()")
        waiting.join(20)
    assert seconds_to(url, 11) <= BY_THE_BELL
    until(lambda: asleep(dsn), 20)
    assert relay.terminate() == 0


@pytest.mark.parametrize("shared", [False, True], ids=["exclusive", "shared"])
def test_somebody_elses_lock_on_the_bell_is_named_and_costs_the_poll(
    one_dsn: str, own_nats: devstack.NatsServer, start: Start, shared: bool
) -> None:
    function = "pg_advisory_lock_shared" if shared else "pg_advisory_lock"
    with psycopg.connect(one_dsn, autocommit=True) as stranger:
        take = f"select {function}(%s, 'relay.outbox'::regclass::oid::int4)"
        stranger.execute(take.encode(), (BELL_CLASS,))
        relay = start(one_dsn, own_nats.url)
        emit(one_dsn, "orders.placed")
        assert seconds_to(own_nats.url, 1) <= 20
        until(lambda: named(relay, stranger.info.backend_pid), 20)
        emit(one_dsn, "orders.placed")
        assert seconds_to(own_nats.url, 2) <= BY_THE_BELL
    until(lambda: asleep(one_dsn), 20)
    assert relay.terminate() == 0


def named(relay: RelayProcess, pid: int) -> bool:
    words = "somebody else holds the bell's lock"
    return any(words in each["event"] and f"pid {pid}" in each["holder"] for each in relay.said())
