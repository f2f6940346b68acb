"""Reading: what is new is found wherever it stands, by bounded work; a bad row is its own fate."""

import uuid
from collections.abc import AsyncIterator

import anyio
import psycopg
import pytest

from relay.core.event import Event
from relay.errors import TermLost
from relay.ports import Page, Settlement
from relay.postgres.outbox import PostgresOutbox
from relay.postgres.reading import FEW
from relay.postgres.store import PostgresStore
from tests.postgres.leases import PATIENT

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

DELIVERED = 100_000
"""Many more than any bound here lets a page look at."""

INSERT = (
    "insert into relay.outbox (subject, key, payload_bytes)"
    " select 'a.b', %s, 'x' from generate_series(1, %s)"
)


@pytest.fixture
async def producer(outbox_dsn: str) -> AsyncIterator[psycopg.AsyncConnection]:
    async with await psycopg.AsyncConnection.connect(outbox_dsn, autocommit=True) as connection:
        await connection.execute("alter table relay.outbox set (autovacuum_enabled = off)")
        yield connection


@pytest.fixture
async def outbox(outbox_dsn: str) -> AsyncIterator[PostgresOutbox]:
    outbox = PostgresOutbox(outbox_dsn, "relay", page_bytes=8 << 20, lease_lifetime=PATIENT)
    yield outbox
    await outbox.close()


@pytest.fixture
async def store(outbox: PostgresOutbox) -> AsyncIterator[PostgresStore]:
    store = await begun(outbox)
    yield store
    await store.close()


async def begun(outbox: PostgresOutbox) -> PostgresStore:
    store = None
    while store is None:
        store = await outbox.campaign(uuid.uuid4().hex)
    return store


async def emit(connection: psycopg.AsyncConnection, rows: int, key: str | None = None) -> None:
    await connection.execute(INSERT, (key, rows))


async def pages(store: PostgresStore, limit: int = 2000) -> list[Page]:
    found = []
    while (page := await store.read(limit)).position is not None:
        found.append(page)
    return found


def events(found: list[Page]) -> list[Event]:
    return [event for page in found for event in page.events]


async def deliver_all(store: PostgresStore) -> int:
    found = await pages(store)
    if found:
        await store.settle(Settlement(found[-1].position))
    return len(events(found))


OF_A_TERM = """
select count(*) from pg_stat_activity
 where datname = current_database() and application_name in ('relay term', 'relay reader')
"""


async def looks(producer: psycopg.AsyncConnection) -> int:
    """How many index entries of the outbox have been looked at, once no term has a session.

    Sessions write their statistics down when they end, which is after they were closed here.
    """
    with anyio.fail_after(20):
        while await (await producer.execute(OF_A_TERM)).fetchone() != (0,):
            await anyio.sleep(0.01)
    row = await (
        await producer.execute(
            "select sum(idx_tup_read) from pg_stat_user_indexes where relname = 'outbox'"
        )
    ).fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.parametrize("late", ["xid is in flight at the base", "xid is above the base's xmax"])
@pytest.mark.parametrize("new", [0, 500, FEW + 500])
async def test_a_late_commit_does_not_make_a_page_walk_what_is_delivered(
    outbox: PostgresOutbox,
    producer: psycopg.AsyncConnection,
    outbox_dsn: str,
    late: str,
    new: int,
) -> None:
    # R-BOUND, R-ORDER, R-PHANTOM
    connect = psycopg.AsyncConnection.connect
    async with await connect(outbox_dsn) as straggler, await connect(outbox_dsn) as bulk:
        if "above" in late:  # the delivered ones have a lower xid, and higher ids
            await bulk.execute("select pg_current_xact_id()")
        await emit(straggler, 1, "k")
        await emit(bulk, DELIVERED)
        await bulk.commit()
        store = await begun(outbox)
        assert await deliver_all(store) == DELIVERED
        await store.close()
        await straggler.commit()
        await emit(producer, new, "k")
    before = await looks(producer)
    store = await begun(outbox)
    found = await pages(store, 100)
    ids = [event.id for event in events(found)]
    assert ids == [1, *range(DELIVERED + 2, DELIVERED + 2 + new)]
    assert await pages(store) == []
    await store.close()
    await outbox.close()
    looked = await looks(producer) - before
    assert 0 < looked < 3 * FEW + 20 * new


async def test_late_commits_all_over_the_delivered_come_in_order_and_once(
    outbox: PostgresOutbox, producer: psycopg.AsyncConnection, outbox_dsn: str
) -> None:
    # R-BOUND, R-PHANTOM
    async with await psycopg.AsyncConnection.connect(outbox_dsn) as straggler:
        late = []
        for _ in range(20):
            await emit(straggler, 3)
            await emit(producer, DELIVERED // 20)
        store = await begun(outbox)
        assert await deliver_all(store) == DELIVERED
        await straggler.commit()
        await emit(producer, 150)
        late = [event.id for event in events(await pages(store, 7))]
        assert late == sorted(late)
        assert len(late) == 60 + 150
        await store.close()


async def test_a_window_goes_on_where_a_restart_cut_it_off(
    outbox: PostgresOutbox, producer: psycopg.AsyncConnection
) -> None:
    # R-LOSS
    await emit(producer, FEW + 3000)
    store = await begun(outbox)
    page = await store.read(1000)
    await store.settle(Settlement(page.position))
    await store.close()
    await emit(producer, 10)
    store = await begun(outbox)
    ids = [event.id for event in events(await pages(store))]
    assert ids == [*range(1001, FEW + 3011)]
    await store.close()


async def test_a_hole_in_the_ids_is_not_walked(
    outbox: PostgresOutbox, producer: psycopg.AsyncConnection
) -> None:
    # R-BOUND
    await emit(producer, FEW)
    await producer.execute("alter sequence relay.outbox_id_seq restart with 5000000000")
    await emit(producer, 2500)
    store = await begun(outbox)
    found = events(await pages(store))
    assert len(found) == FEW + 2500
    assert found[-1].id == 5000000000 + 2499
    await store.close()


async def oldest_running(connection: psycopg.AsyncConnection) -> int:
    """Return the xmin of a snapshot of now."""
    asked = await connection.execute("select pg_snapshot_xmin(pg_current_snapshot())::text")
    row = await asked.fetchone()
    assert row is not None
    return int(row[0])


async def test_a_page_says_below_which_id_every_transaction_had_ended(
    store: PostgresStore, producer: psycopg.AsyncConnection, outbox_dsn: str
) -> None:
    async with await psycopg.AsyncConnection.connect(outbox_dsn) as running:
        row = await (await running.execute("select pg_current_xact_id()::text")).fetchone()
        assert row is not None
        own = int(row[0])
        with anyio.fail_after(30):  # older ones, of any database of the cluster, end first
            while await oldest_running(producer) != own:
                await anyio.sleep(0.01)
        await emit(producer, 5)
        assert (await store.read(10)).xmin == own
        await emit(producer, 5)
        assert [page.xmin for page in await pages(store, 2)] == [own] * 3
        await running.commit()
    assert (await store.read(10)).xmin > own


UNREADABLE = {
    "infinite": "created_at = 'infinity'",
    "before Christ": "created_at = '0044-03-15 BC'",
    "far away": "created_at = '10000-01-01'",
    "deep": "headers = (repeat('[', 5000) || repeat(']', 5000))::jsonb",
    "no texts": "headers = '{\"a\": 1}'",
    "no object": "headers = '[]'",
    "corrupt": "payload_bytes = decode(repeat('ab', 100000), 'hex')",
}


async def spoil(producer: psycopg.AsyncConnection, change: str, id_: int) -> None:
    found = await producer.execute(
        "select conname from pg_constraint where conrelid = 'relay.outbox'::regclass"
        " and contype = 'c'"
    )
    for (name,) in await found.fetchall():
        await producer.execute(f'alter table relay.outbox drop constraint "{name}"')
    await producer.execute(f"update relay.outbox set {change} where id = %s", (id_,))
    if "payload_bytes" in change:  # its second piece is lost
        row = await (
            await producer.execute(
                "select reltoastrelid::regclass::text from pg_class"
                " where oid = 'relay.outbox'::regclass"
            )
        ).fetchone()
        assert row is not None
        await producer.execute("create extension pg_surgery")
        await producer.execute(
            f"select heap_force_kill('{row[0]}'::regclass, array(select ctid from {row[0]}"
            " where chunk_seq = 1))"
        )


@pytest.mark.parametrize("change", UNREADABLE.values(), ids=UNREADABLE)
@pytest.mark.parametrize("limit", [10, 2], ids=["one page", "a window"])
async def test_a_row_that_cannot_be_read_is_its_own_fate(
    store: PostgresStore, producer: psycopg.AsyncConnection, change: str, limit: int
) -> None:
    # R-FATE
    await emit(producer, 5, "k")
    await spoil(producer, change, 3)
    found = await pages(store, limit)
    assert [event.id for event in events(found)] == [1, 2, 3, 4, 5]
    unreadable = {id_: reason for page in found for id_, reason in page.unreadable.items()}
    assert list(unreadable) == [3]
    bad = events(found)[2]
    row = await (
        await producer.execute("select event_id::text from relay.outbox where id = 3")
    ).fetchone()
    assert (bad.event_id, bad.key, bad.payload) == (row[0] if row else "", "k", b"")
    assert all(event.payload == b"x" for event in events(found) if event.id != 3)
    await emit(producer, 1, "k")
    assert len((await store.read(10)).events) == 1


@pytest.mark.parametrize("limit", [10, 2], ids=["one page", "a window"])
async def test_a_row_without_a_payload_is_read_and_hides_none_behind_it(
    store: PostgresStore, producer: psycopg.AsyncConnection, limit: int
) -> None:
    # R-LOSS: an owner took the rules away
    await emit(producer, 5, "k")
    await producer.execute("alter table relay.outbox drop constraint outbox_publishable")
    await producer.execute("update relay.outbox set payload_bytes = null where id = 3")
    assert [event.id for event in events(await pages(store, limit))] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("xid", ["99999999999", "4611686018427387904"])
async def test_rows_from_the_future_are_read_once_by_the_next_term(
    outbox: PostgresOutbox, producer: psycopg.AsyncConnection, xid: str
) -> None:
    # R-PHANTOM, R-LOSS
    store = await begun(outbox)
    await emit(producer, 3, "k")
    assert await deliver_all(store) == 3
    await producer.execute(
        "insert into relay.outbox (xid, subject, key, payload_bytes) select %s::text::xid8, 'a.b',"
        " 'k', 'x' from generate_series(1, 150)",
        (xid,),
    )
    for limit in (100, 1000):
        assert await pages(store, limit) == []
    with pytest.raises(TermLost, match="another cluster"):
        await store.tend(900.0)
    await store.close()
    store = await begun(outbox)
    assert [event.id for event in events(await pages(store, 100))] == [*range(4, 154)]
    assert await pages(store) == []
    assert await store.tend(900.0) == 0
    await emit(producer, 1, "k")
    assert len((await store.read(10)).events) == 1
    await store.close()


async def test_rows_of_another_cluster_are_all_read_again_in_order_and_only_once(
    outbox: PostgresOutbox, producer: psycopg.AsyncConnection
) -> None:
    """After a restore the stored transaction ids lie in this cluster's future, or its past."""
    # R-PHANTOM, R-LOSS, R-ORDER
    store = await begun(outbox)
    await emit(producer, 12_000, "k")
    await deliver_all(store)
    await store.tend(900.0)
    await store.close()
    await producer.execute(
        "update relay.outbox set xid = (case when id % 2 = 0 then 99999999999 - id else 700 end)"
        "::text::xid8"
    )
    await producer.execute(
        "update relay.cursor set base = '99999999999:99999999999:', system_identifier = 1"
    )
    store = await begun(outbox)
    row = await (await producer.execute("select count(*) from relay.settled")).fetchone()
    assert row == (0,)  # its notes of what was settled when mean nothing here
    assert [event.id for event in events(await pages(store))] == [*range(1, 12_001)]
    assert await pages(store) == []
    await store.close()


async def test_events_written_before_any_relay_ran_survive_a_move_to_another_cluster(
    outbox: PostgresOutbox, producer: psycopg.AsyncConnection
) -> None:
    # R-LOSS: the migration wrote down which cluster the transaction ids belong to
    await emit(producer, 5, "k")
    await producer.execute("update relay.outbox set xid = '99999999999'")
    await producer.execute("update relay.cursor set system_identifier = 7")
    store = await begun(outbox)
    assert [event.id for event in events(await pages(store))] == [1, 2, 3, 4, 5]
    assert await pages(store) == []
    await store.close()
