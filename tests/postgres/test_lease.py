"""The lease: it ends with its holder, whatever that one does, and is trusted no longer."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import anyio
import psycopg
import pytest

from relay import devstack
from relay.core import disposition
from relay.errors import StoreOutage, TermLost
from relay.ports import Settlement
from relay.postgres.outbox import PostgresOutbox
from relay.postgres.sqlfiles import LEASE_CLASS
from relay.postgres.store import PostgresStore
from tests.postgres.leases import LIFETIME, begun, outbox_of

pytestmark = pytest.mark.anyio

INSERT = "insert into relay.outbox (subject, key, payload_bytes) values ('a.b', 'k', 'x')"

END_READER = """
select pg_terminate_backend(pid, 5000)
  from pg_stat_activity
 where application_name = 'relay reader' and datname = current_database()
"""


@pytest.fixture
async def outbox(outbox_dsn: str) -> AsyncIterator[PostgresOutbox]:
    async with outbox_of(outbox_dsn) as outbox:
        yield outbox


def is_free(admin: psycopg.Connection) -> bool:
    row = admin.execute(
        "select pg_try_advisory_lock(%s, 'relay.outbox'::regclass::oid::int4),"
        " pg_advisory_unlock_all()",
        (LEASE_CLASS,),
    ).fetchone()
    return row is not None and bool(row[0])


@contextmanager
def seconds_until_free(admin: psycopg.Connection) -> Iterator[list[float]]:
    """While the event loop stands still: how long the lease is still held, at most 10 s."""
    taken: list[float] = []
    began = time.monotonic()

    def watch() -> None:
        while not is_free(admin) and time.monotonic() < began + 10:
            time.sleep(0.01)
        taken.append(time.monotonic() - began)

    watcher = threading.Thread(target=watch)
    watcher.start()
    yield taken
    watcher.join()


async def test_a_leader_that_stands_still_loses_the_lease_within_its_lifetime(
    outbox: PostgresOutbox, admin: psycopg.Connection
) -> None:
    # R-TERM
    store = await begun(outbox)
    assert store.granted()
    with seconds_until_free(admin) as taken:
        time.sleep(LIFETIME + 1)  # noqa: ASYNC251 - this process stands still
    assert taken[0] <= LIFETIME + 1
    assert not store.granted()
    with pytest.raises(TermLost, match="silent"):
        await store.renew()
    with pytest.raises(TermLost):
        await store.settle(Settlement(None))
    await store.close()
    await (await begun(outbox)).close()


async def test_a_leader_that_stands_still_in_a_settlement_loses_the_lease(
    outbox: PostgresOutbox, admin: psycopg.Connection
) -> None:
    # R-TERM
    admin.execute(INSERT)
    store = await begun(outbox)
    page = await store.read(1)
    with pytest.raises(TermLost, match="silent"):  # noqa: PT012 - within one transaction
        async with store._lease.transaction() as session:
            await store._parked.write(session, [disposition.behind(page.events[0])], ())
            with seconds_until_free(admin) as taken:
                time.sleep(LIFETIME + 1)  # noqa: ASYNC251
            await store._parked.write(session, (), [page.events[0].event_id])
    assert taken[0] <= LIFETIME + 1
    assert admin.execute("select count(*) from relay.parked").fetchone() == (0,)
    await store.close()


async def test_a_leader_that_stands_still_while_it_waits_for_a_lock_loses_the_lease(
    outbox: PostgresOutbox, admin: psycopg.Connection, outbox_dsn: str
) -> None:
    # R-TERM
    admin.execute(INSERT)
    store = await begun(outbox)
    page = await store.read(1)
    with psycopg.connect(outbox_dsn) as other:
        other.execute("lock table relay.parked in share row exclusive mode")
        parked = [disposition.behind(page.events[0])]
        settling = asyncio.create_task(refused_settlement(store, parked))
        with anyio.fail_after(10):
            while not waits_for_a_lock(admin):
                if settling.done():  # it waits for a tenth of the lifetime: no look fell into that
                    await settling
                    settling = asyncio.create_task(refused_settlement(store, parked))
                await anyio.sleep(0.01)
        with seconds_until_free(admin) as taken:
            time.sleep(LIFETIME + 1)  # noqa: ASYNC251
        await settling
    assert taken[0] <= LIFETIME + 1
    await store.close()


async def refused_settlement(store: PostgresStore, parked) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises((StoreOutage, TermLost)):
        await store.settle(Settlement(None, parked))


def waits_for_a_lock(admin: psycopg.Connection) -> bool:
    row = admin.execute(
        "select count(*) from pg_stat_activity where application_name = 'relay term'"
        " and wait_event_type = 'Lock' and datname = current_database()"
    ).fetchone()
    return row == (1,)


async def test_watching_keeps_the_lease_alive_and_young(
    outbox_dsn: str, admin: psycopg.Connection
) -> None:
    # R-TERM
    lifetime = 4.0
    async with outbox_of(outbox_dsn, lifetime) as outbox:
        store = await begun(outbox)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(store.watch)
            first = store._lease._proof
            while store._lease._proof <= first + lifetime:
                assert store.granted()
                await anyio.sleep(0.02)
            tasks.cancel_scope.cancel()
        assert not is_free(admin)
        await store.renew()
        await store.close()
        assert not store.granted()


@pytest.mark.parametrize("duty", ["term", "reader"])
async def test_a_session_of_the_term_that_is_lost_ends_it_at_once(
    outbox_dsn: str, admin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch, duty: str
) -> None:
    """Its sockets say so; the server is not asked for a minute."""
    # R-TERM
    monkeypatch.setattr("relay.postgres.store.BEAT", 60.0)
    async with outbox_of(outbox_dsn, 300.0) as outbox:
        store = await begun(outbox)
        async with anyio.create_task_group() as tasks:

            async def watch() -> None:
                with pytest.raises(StoreOutage), anyio.fail_after(10):
                    await store.watch()

            tasks.start_soon(watch)
            await anyio.sleep(0.05)
            admin.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where application_name = %s and datname = current_database()",
                (f"relay {duty}",),
            )
        assert not store.granted()
        with pytest.raises(StoreOutage):
            await store.settle(Settlement(None))
        await store.close()


async def test_a_read_whose_session_is_ended_raises_what_postgres_said(
    outbox_dsn: str, admin: psycopg.Connection
) -> None:
    async with outbox_of(outbox_dsn, 300.0) as outbox:
        store = await begun(outbox)
        with psycopg.connect(outbox_dsn) as other:
            other.execute("lock table relay.outbox")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(store.watch)
                tasks.start_soon(_end_the_reader_once_it_waits, admin)
                with pytest.raises(StoreOutage, match="administrator command"), anyio.fail_after(5):
                    await store.read(1)
                tasks.cancel_scope.cancel()
        await store.close()


async def test_a_session_that_is_lost_under_a_statement_is_left_to_it(
    outbox_dsn: str, admin: psycopg.Connection
) -> None:
    async with outbox_of(outbox_dsn, 300.0) as outbox:
        store = await begun(outbox)
        connection = store._reader.session.connection
        connection.is_waited_for = True
        admin.execute(END_READER)
        with anyio.move_on_after(0.3) as watched:
            await store.watch()
        assert watched.cancelled_caught
        assert store.granted()
        connection.is_waited_for = False
        with pytest.raises(StoreOutage, match="closed a session"), anyio.fail_after(5):
            await store.watch()
        await store.close()


async def _end_the_reader_once_it_waits(admin: psycopg.Connection) -> None:
    while not admin.execute(f"{END_READER} and wait_event_type = 'Lock'").fetchall():
        await anyio.sleep(0.01)


async def test_a_lost_session_grants_nothing_even_before_anybody_has_asked(
    outbox: PostgresOutbox, admin: psycopg.Connection
) -> None:
    # R-TERM
    store = await begun(outbox)
    admin.execute(
        "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
        " where application_name = 'relay term' and datname = current_database()"
    )
    assert not store.granted()
    await store.close()


@pytest.mark.parametrize("change", ["epoch = epoch + 1", "holder = 'another'"])
async def test_a_renewal_says_when_another_term_has_begun(
    outbox: PostgresOutbox, admin: psycopg.Connection, change: str
) -> None:
    # R-TERM
    store = await begun(outbox)
    admin.execute(f"update relay.cursor set {change}")
    with pytest.raises(TermLost):
        await store.renew()
    assert not store.granted()
    await store.close()


async def test_the_trust_is_counted_from_when_the_proof_was_asked_for(
    outbox: PostgresOutbox,
) -> None:
    # R-TERM
    store = await begun(outbox)
    lease = store._lease
    now = 1000.0
    lease._now = lambda: now  # type: ignore[method-assign]
    original = lease.session.row

    async def slow(*args, **kwargs):  # type: ignore[no-untyped-def]
        nonlocal now
        found = await original(*args, **kwargs)
        now += 0.5
        return found

    lease.session.row = slow  # type: ignore[method-assign]
    lease._proof = 0.0
    await store.renew()
    assert store.granted()
    now = 1000.0 + LIFETIME - lease.margin
    assert not store.granted()
    await store.close()


async def test_beginning_a_term_is_durable_whatever_settling_is(
    outbox: PostgresOutbox, admin: psycopg.Connection, postgres_server: devstack.Postgres
) -> None:
    # R-TERM
    admin.execute("create table said (was text)")
    admin.execute(
        "create function say() returns trigger language plpgsql as $$ begin insert into"
        " public.said values (current_setting('synchronous_commit')); return null; end $$"
    )
    admin.execute("create trigger say after update on relay.cursor execute function say()")
    store = await begun(outbox)
    await store.settle(Settlement(None))
    found = admin.execute("select was from said").fetchall()
    assert found == [("on",), ("off",)]
    await store.close()
