"""Standing by: who holds the lease is named, and who ends is followed at once."""

import asyncio
from collections.abc import AsyncIterator

import anyio
import psycopg
import pytest
from psycopg import sql

from relay.errors import LeaseTaken
from relay.postgres.outbox import PostgresOutbox
from relay.postgres.sqlfiles import LEASE_CLASS
from relay.postgres.store import PostgresStore
from tests.postgres.leases import PATIENT, TERMS, begun, outbox_of

pytestmark = pytest.mark.anyio

LISTENING = sql.SQL("select pg_listening_channels()").format()


@pytest.fixture
async def outbox(outbox_dsn: str) -> AsyncIterator[PostgresOutbox]:
    async with outbox_of(outbox_dsn) as outbox:
        yield outbox


@pytest.fixture
async def leading(outbox: PostgresOutbox, outbox_dsn: str) -> AsyncIterator[PostgresStore]:
    """The term of another relay, beside which ``outbox`` stands by."""
    leader = PostgresOutbox(outbox_dsn, "relay", page_bytes=1024, lease_lifetime=PATIENT)
    store = await begun(leader)
    assert await outbox.campaign("another") is None
    yield store
    await store.close()
    await leader.close()


@pytest.mark.parametrize("lock", ["pg_advisory_lock", "pg_advisory_xact_lock_shared"])
async def test_a_lock_held_by_somebody_who_is_no_relay_is_named(
    outbox: PostgresOutbox, outbox_dsn: str, lock: str
) -> None:
    # R-TERM
    dsn = psycopg.conninfo.make_conninfo(outbox_dsn, application_name="some script")
    with psycopg.connect(dsn) as other:
        other.execute(f"select {lock}(%s, 'relay.outbox'::regclass::oid::int4)", (LEASE_CLASS,))
        pid = other.info.backend_pid
        for _ in range(3):
            with pytest.raises(LeaseTaken, match=rf"pid {pid}, login postgres.*'some script'"):
                await outbox.campaign("tester")
        other.rollback()
        other.execute("select pg_advisory_unlock_all()")  # a closed session keeps it for a moment
    outbox._holder_looked_at = float("-inf")  # a second has gone by
    await (await begun(outbox)).close()


async def test_a_standby_of_a_relay_is_no_error(outbox: PostgresOutbox, outbox_dsn: str) -> None:
    async with outbox_of(outbox_dsn, PATIENT) as leader:
        store = await begun(leader)
        assert await outbox.campaign("another") is None
        await store.close()
    await (await begun(outbox)).close()


async def test_a_leader_that_ends_wakes_who_stands_by_and_is_followed_at_once(
    outbox: PostgresOutbox, leading: PostgresStore
) -> None:
    # R-TERM
    standing_by = asyncio.create_task(outbox.released(60))
    await asyncio.sleep(0.1)
    assert not standing_by.done()
    await leading.close()
    assert not leading.granted()
    with anyio.fail_after(5):
        await standing_by
    follower = await outbox.campaign("another")
    assert follower is not None
    assert await follower._lease.session.rows(LISTENING) == []
    await follower.close()


async def test_a_term_that_is_closed_while_its_task_is_cancelled_lets_go(
    outbox: PostgresOutbox, leading: PostgresStore
) -> None:
    # R-TERM
    with anyio.CancelScope() as scope:
        scope.cancel()
        await leading.close()
    assert leading._lease.session.connection.closed
    with anyio.fail_after(5):
        await outbox.released(60)
    follower = await outbox.campaign("another")
    assert follower is not None
    await follower.close()


async def test_who_stands_by_on_a_session_that_is_cut_asks_anew(
    outbox: PostgresOutbox, admin: psycopg.Connection, leading: PostgresStore
) -> None:
    watching = asyncio.create_task(leading.watch())
    assert outbox._candidate is not None
    pid = outbox._candidate.connection.info.backend_pid
    standing_by = asyncio.create_task(outbox.released(60))
    await asyncio.sleep(0.1)
    admin.execute("select pg_terminate_backend(%s)", (pid,))
    with anyio.fail_after(5):
        await standing_by
    assert await outbox.campaign("another") is None
    watching.cancel()
    await leading.close()
    with anyio.fail_after(5):
        await outbox.released(60)


async def test_a_candidate_whose_session_was_ended_makes_another_one(
    outbox: PostgresOutbox, admin: psycopg.Connection, leading: PostgresStore
) -> None:
    watching = asyncio.create_task(leading.watch())
    candidate = outbox._candidate
    assert candidate is not None
    while len(admin.execute(TERMS).fetchall()) > 1:  # the server ends a silent candidate, too
        await anyio.sleep(0.05)
    while (
        not candidate.hung_up()
    ):  # its session leaves pg_stat_activity before the socket is closed
        await anyio.sleep(0.05)
    assert await outbox.campaign("another") is None
    watching.cancel()
    await leading.close()
