"""Which parked events are due, in which order, and who waits behind them."""

import uuid

import psycopg
import pytest

from relay.core import disposition
from relay.core.disposition import Parking
from relay.ports import Settlement
from relay.postgres.outbox import PostgresOutbox
from relay.postgres.store import PostgresStore
from tests.postgres.parking import emit, retried

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]


async def test_whoever_waits_longest_for_a_try_comes_first_and_nobody_starves(
    store: PostgresStore, producer: psycopg.Connection
) -> None:
    # R-FATE
    for number in range(40):
        emit(producer, 1, f"k{number}")
    page = await store.read(40)
    await store.settle(Settlement(page.position, list(map(retried, page.events))))
    tried: list[int] = []
    for _ in range(10):
        due = await store.parked.due(8)
        tried += [each.event.id for each in due]
        await store.settle(Settlement(None, [retried(each.event) for each in due]))
    assert tried[:40] == [event.id for event in page.events]
    assert sorted(tried[40:]) == sorted(tried[:40])


async def test_an_event_is_due_when_the_server_s_clock_was_set_back(
    store: PostgresStore, producer: psycopg.Connection
) -> None:
    """Its next attempt lies further away than any delay: it was written by another clock."""
    emit(producer, 1)
    page = await store.read(1)
    (event,) = page.events
    await store.settle(Settlement(page.position, [retried(event, delay=29.0)]))
    assert list(await store.parked.due(1)) == []
    producer.execute("update relay.parked set next_attempt_at = next_attempt_at + '1 hour'")
    assert len(await store.parked.due(1)) == 1


async def test_a_parked_row_deleted_by_hand_leaves_nobody_waiting_for_ever(
    store: PostgresStore, producer: psycopg.Connection, outbox_dsn: str
) -> None:
    emit(producer, 3)
    page = await store.read(3)
    first, second, third = page.events
    await store.settle(
        Settlement(
            page.position,
            [retried(first, delay=20.0), disposition.behind(second), disposition.behind(third)],
        )
    )
    producer.execute("delete from relay.parked where id = %s", (first.id,))
    assert list(await store.parked.due(2)) == []
    await store.tend(900.0)
    assert [each.event.id for each in await store.parked.due(2)] == [second.id, third.id]
    await store.settle(Settlement(None, [retried(second, delay=20.0)]))
    producer.execute("delete from relay.parked where id = %s", (second.id,))
    await store.close()
    outbox = PostgresOutbox(outbox_dsn, "relay", page_bytes=8 << 20)
    later = await begun(outbox)
    assert [each.event.id for each in await later.parked.due(2)] == [third.id]
    await later.close()
    await outbox.close()


async def begun(outbox: PostgresOutbox) -> PostgresStore:
    store = None
    while store is None:
        store = await outbox.campaign(uuid.uuid4().hex)
    return store


async def test_dead_events_begin_and_cease_to_block_with_the_setting(
    store: PostgresStore, producer: psycopg.Connection, outbox_dsn: str
) -> None:
    # R-ORDER
    emit(producer, 2)
    page = await store.read(2)
    first, second = page.events
    dead = Parking(first.id, first.event_id, 9, None, dead=True)
    await store.settle(Settlement(page.position, [dead, disposition.behind(second)]))
    assert len(await store.parked.due(2)) == 1
    await store.close()
    for dead_blocks, due in [(True, 0), (False, 1)]:
        outbox = PostgresOutbox(outbox_dsn, "relay", page_bytes=8 << 20, dead_blocks=dead_blocks)
        later = await begun(outbox)
        assert len(await later.parked.due(2)) == due
        await later.close()
        await outbox.close()
