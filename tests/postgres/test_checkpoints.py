"""The ring of checkpoints, and going back to one of them. R-LOSS, R-ONCE."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import psycopg
import pytest

from relay.checkpoints import Before
from relay.core.checkpoint import Checkpoint, Tip
from relay.core.disposition import Parking
from relay.errors import TermLost
from relay.ports import Page, Settlement
from relay.postgres.outbox import PostgresOutbox
from relay.postgres.reading import Position
from relay.postgres.store import PostgresStore
from tests.postgres.leases import PATIENT

pytestmark = pytest.mark.anyio

TIP = Tip("S", "monday", 1, "relay-1", sure=True, after=1)
INSERT = "insert into relay.outbox (subject, key, payload) values ('a.b', 'k', '{}')"


NOT_PARKED = Before(parked=False, stored=True)
AGAIN = Before(parked=True, stored=True)
"""Of an event that went to a stream, and was parked when the cursor went back."""

WAITS = Before(parked=True, stored=False)


class Shop:
    """An outbox, its producer, and one leader at a time."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.outbox = PostgresOutbox(dsn, "relay", page_bytes=1 << 20, lease_lifetime=PATIENT)
        self.terms: list[PostgresStore] = []

    async def lead(self) -> PostgresStore:
        while (store := await self.outbox.campaign("tester")) is None:
            pass
        self.terms.append(store)
        return store

    async def emit(self, count: int = 1) -> None:
        async with await psycopg.AsyncConnection.connect(self.dsn) as producer:
            for _ in range(count):
                await producer.execute(INSERT)

    async def ask(self, query: str) -> list[tuple[object, ...]]:
        async with await psycopg.AsyncConnection.connect(self.dsn, autocommit=True) as look:
            return await (await look.execute(query.encode())).fetchall()

    async def deliver(self, store: PostgresStore, seq: int, count: int = 1) -> Page:
        """Write, read and settle a page, whose last message is at ``seq``."""
        store.checkpoints._next_at.clear()  # a checkpoint of its own, however soon
        await self.emit(count)
        page = await store.read(100)
        tip = replace(TIP, seq=seq, message_id=f"relay-{seq}", after=seq)
        await store.settle(Settlement(page.position, tips=[tip], top_id=page.events[-1].id))
        return page


@pytest.fixture
async def shop(outbox_dsn: str) -> AsyncIterator[Shop]:
    shop = Shop(outbox_dsn)
    yield shop
    for term in shop.terms:
        await term.close()
    await shop.outbox.close()


async def go_back(store: PostgresStore, to: int | None) -> None:
    """Go back to the checkpoint at sequence ``to``."""
    (ring,) = (await store.checkpoints.ring(["S"])).values()
    nothing = Checkpoint(Tip("S", "monday", 0))
    held = next((each for each in ring if each.tip.seq == to), nothing)
    await store.checkpoints.rewind({"S": held})


async def ids(store: PostgresStore) -> list[int]:
    return [event.id for event in (await store.read(100)).events]


async def test_the_newest_tip_of_each_stream_outlives_the_term(shop: Shop) -> None:
    store = await shop.lead()
    assert await store.checkpoints.newest() == []
    await shop.deliver(store, 3)
    other = Tip("T", "tuesday", 9)
    await store.settle(Settlement(None, tips=[other]))
    await shop.deliver(store, 5)
    await store.close()
    found = await (await shop.lead()).checkpoints.newest()
    assert sorted(found, key=lambda tip: tip.stream) == [
        replace(TIP, seq=5, message_id="relay-5", after=5),
        other,
    ]


async def test_going_back_makes_new_what_was_delivered_since_and_ends_the_term(shop: Shop) -> None:
    store = await shop.lead()
    for seq in (1, 2, 3, 4):
        await shop.deliver(store, seq)
    await go_back(store, 2)
    with pytest.raises(TermLost):
        await store.settle(Settlement(None))
    await store.close()
    store = await shop.lead()
    (tip,) = await store.checkpoints.newest()
    assert tip.seq == 2
    assert store.checkpoints.repairing == ("S",)
    await shop.emit()
    page = await store.read(100)
    assert [event.id for event in page.events] == [3, 4, 5]
    assert await store.checkpoints.delivered([3, 4, 5]) == dict.fromkeys([3, 4], NOT_PARKED)


async def test_what_was_parked_before_a_repair_does_not_count_as_stored(shop: Shop) -> None:
    # R-LOSS: it is due in a repair too, perhaps for a stream that has lost nothing
    store = await shop.lead()
    await shop.deliver(store, 1)
    await shop.emit(2)
    page = await store.read(100)
    refused = Parking(page.events[0].id, page.events[0].event_id, 1, 0.0, error="too large")
    tip = replace(TIP, seq=2, message_id="relay-2", after=2)
    store.checkpoints._next_at.clear()
    await store.settle(Settlement(page.position, [refused], tips=[tip], top_id=page.events[-1].id))
    await go_back(store, 1)
    await store.close()
    store = await shop.lead()
    await store.checkpoints.newest()
    before = await store.checkpoints.delivered([event.id for event in page.events])
    assert before == {page.events[0].id: WAITS, page.events[1].id: NOT_PARKED}


async def test_going_back_ends_only_with_its_last_page(shop: Shop) -> None:
    store = await shop.lead()
    await shop.deliver(store, 1)
    await shop.deliver(store, 9, count=4)
    await go_back(store, 1)
    await store.close()
    store = await shop.lead()
    await store.checkpoints.newest()
    page = await store.read(2)
    await store.settle(Settlement(page.position, tips=[replace(TIP, seq=3)]))
    await store.checkpoints.repaired(2, 0, over=False)
    await store.close()  # it dies
    store = await shop.lead()
    await store.checkpoints.newest()
    assert store.checkpoints.repairing == ("S",)
    assert len(await store.checkpoints.delivered(await ids(store))) == 2
    await store.checkpoints.repaired(2, 0, over=True)
    row = await shop.ask("select repaired, ended_at is not null from relay.repair")
    assert row == [(4, True)]


async def test_a_repair_that_nobody_ended_is_over_once_the_cursor_has_passed_it(shop: Shop) -> None:
    store = await shop.lead()
    await shop.deliver(store, 1)
    await shop.deliver(store, 2)
    await go_back(store, 1)
    await store.close()
    store = await shop.lead()
    page = await store.read(100)
    await store.settle(Settlement(page.position, tips=[replace(TIP, seq=2)]))
    await store.close()
    store = await shop.lead()
    await store.checkpoints.newest()
    assert store.checkpoints.repairing == ()
    assert await shop.ask("select count(*) from relay.repair where ended_at is null") == [(0,)]


async def test_a_late_committer_with_a_low_id_comes_again_as_well(shop: Shop) -> None:
    # its id is below that of the checkpoint, its delivery was later
    store = await shop.lead()
    async with await psycopg.AsyncConnection.connect(shop.dsn) as late:
        await late.execute(INSERT)
        await shop.deliver(store, 1)
        await late.commit()
    page = await store.read(100)
    assert [event.id for event in page.events] == [1]
    store.checkpoints._next_at.clear()
    await store.settle(Settlement(page.position, tips=[replace(TIP, seq=2)], top_id=1))
    await go_back(store, 1)
    await store.close()
    assert await ids(await shop.lead()) == [1]


async def test_a_stream_that_holds_no_checkpoint_gets_all_that_is_retained(shop: Shop) -> None:
    store = await shop.lead()
    await shop.deliver(store, 1, count=3)
    await go_back(store, None)
    await store.close()
    store = await shop.lead()
    (tip,) = await store.checkpoints.newest()
    assert (tip.seq, tip.after, tip.created) == (0, 0, "monday")  # all of it is looked at
    assert await ids(store) == [1, 2, 3]


async def test_two_streams_that_are_behind_go_back_to_the_earlier_place(shop: Shop) -> None:
    store = await shop.lead()
    await shop.deliver(store, 1)
    early = Checkpoint(replace(TIP, stream="T", seq=1))
    store.checkpoints._next_at.clear()
    await store.settle(Settlement(None, tips=[early.tip]))
    for seq in (2, 3):
        await shop.deliver(store, seq)
    ring = await store.checkpoints.ring(["S", "T"])
    setbacks = await store.checkpoints.rewind({"S": ring["S"][0], "T": ring["T"][-1]})
    assert {each.stream: each.seq for each in setbacks} == {"S": 3, "T": 1}
    await store.close()
    store = await shop.lead()
    assert {tip.stream: tip.seq for tip in await store.checkpoints.newest()} == {"S": 1, "T": 1}
    assert await ids(store) == [2, 3]


async def test_what_left_the_parked_is_parked_again_and_due(shop: Shop) -> None:
    store = await shop.lead()
    await shop.deliver(store, 1)
    await shop.emit()
    page = await store.read(100)
    (event,) = page.events
    refused = Parking(event.id, event.event_id, 1, 0.0, error="too large")
    await store.settle(Settlement(page.position, [refused]))
    store.checkpoints._next_at.clear()
    tip = replace(TIP, seq=2)
    await store.settle(Settlement(None, unparked=[event.event_id], tips=[tip]))
    await store.tend(60.0)
    await go_back(store, 1)
    await store.close()
    store = await shop.lead()
    await store.checkpoints.newest()
    (due,) = await store.parked.due(10)
    assert due.event.event_id == event.event_id
    assert await store.checkpoints.delivered([event.id]) == {event.id: AGAIN}


async def test_what_left_the_parked_comes_again_though_the_clock_was_set_back_before_it(
    shop: Shop,
) -> None:
    store = await shop.lead()
    await shop.emit(2)
    page = await store.read(100)
    refused = [Parking(each.id, each.event_id, 1, 0.0, error="no") for each in page.events]
    await store.settle(Settlement(page.position, refused))
    for seq, event in enumerate(page.events, 1):
        store.checkpoints._next_at.clear()
        tip = replace(TIP, seq=seq)
        await store.settle(Settlement(None, unparked=[event.event_id], tips=[tip]))
    await shop.ask(
        "update relay.unparked set unparked_at = unparked_at - '1 h'::interval where id = 2"
        " returning id"
    )
    await go_back(store, 1)
    assert await shop.ask("select id from relay.parked") == [(2,)]


async def test_what_left_the_parked_keeps_its_age_when_the_clock_is_put_forward(shop: Shop) -> None:
    """The clock can't be set for a test: all that has a time moves the other way."""
    store = await shop.lead()
    await shop.emit(1)
    page = await store.read(100)
    (event,) = page.events
    refused = Parking(event.id, event.event_id, 1, 0.0, error="no")
    await store.settle(Settlement(page.position, [refused]))
    await store.settle(Settlement(None, unparked=[event.event_id], tips=[TIP]))
    await store.tend(900.0)
    wall, here = store._housekeeping._clocks or (None, 0.0)
    assert wall is not None
    for table, column in (("settled",) * 2, ("unparked",) * 2, ("checkpoint", "settled")):
        await shop.ask(
            f"update relay.{table} set {column}_at = {column}_at - '1 h'::interval returning 1"
        )
    store._housekeeping._clocks = wall - timedelta(hours=1), here
    assert [await store.tend(900.0) for _ in range(2)] == [0, 0]
    young = "now() - unparked_at < '1 min'"
    assert await shop.ask(f"select {young} from relay.unparked") == [(True,)]
    (ring,) = (await store.checkpoints.ring(["S"])).values()
    assert ring[0].age < 60


async def test_rows_past_their_retention_are_named(shop: Shop) -> None:
    shop.outbox._retention = 0.0
    store = await shop.lead()
    await shop.deliver(store, 1)
    await shop.deliver(store, 5, count=4)
    await shop.ask("delete from relay.outbox where id <= 3 returning id")
    (ring,) = (await store.checkpoints.ring(["S"])).values()
    (setback,) = await store.checkpoints.rewind({"S": ring[-1]})
    assert (setback.after_id, setback.up_to_id) == (1, 5)
    assert (setback.gone_from, setback.gone_to) == (2, 3)


async def test_what_is_to_be_published_again_outlives_its_retention_however_long_that_takes(
    shop: Shop,
) -> None:
    """NATS is away again, say. It was settled longer ago than the retention, and is new again."""
    store = await shop.lead()
    for seq in (1, 2, 3):
        await shop.deliver(store, seq)
    await store.tend(60.0)
    await go_back(store, 1)
    await store.close()
    assert await shop.ask("select 1 from relay.settled") == []
    late = "insert into relay.settled select now() - '1 h'::interval, pg_current_snapshot()"
    await shop.ask(f"{late} returning 1")  # by housekeeping of the term before
    store = await shop.lead()
    for _ in range(2):
        await store.tend(60.0)
    await shop.ask("delete from relay.settled returning 1")
    page = await store.read(100)
    assert [event.id for event in page.events] == [2, 3]
    await store.settle(Settlement(page.position, tips=[replace(TIP, seq=3)], top_id=3))
    assert await store.tend(60.0) == 0  # its retention begins anew
    await store.close()
    store = await shop.lead()  # which looks from the lowest id on
    await shop.ask("update relay.settled set settled_at = now() - '1 hour'::interval returning 1")
    assert await store.tend(60.0) > 0


async def test_of_checkpoints_of_another_cluster_stays_the_one_before_its_rows(shop: Shop) -> None:
    store = await shop.lead()
    for seq in (1, 2, 3, 4):
        await shop.deliver(store, seq)
    await shop.ask("delete from relay.outbox where id <= 2 returning id")
    await store.close()
    await shop.ask("update relay.cursor set system_identifier = 1 returning id")
    store = await shop.lead()
    (tip,) = await store.checkpoints.newest()
    assert tip.seq == 2  # the rows 3 and 4 can only stand behind it
    assert await ids(store) == [3, 4]
    ring = (await store.checkpoints.ring(["S"]))["S"]
    assert [each.position for each in ring] == [Position()]


async def test_a_term_that_is_over_goes_nowhere(shop: Shop) -> None:
    # R-TERM
    store = await shop.lead()
    await shop.deliver(store, 1)
    await shop.ask("update relay.cursor set epoch = epoch + 1 returning id")
    ring = await store.checkpoints.ring(["S"])
    held = replace(ring["S"][0], number=0)
    assert await store.checkpoints.rewind({"S": held}) == []
    assert len((await store.checkpoints.ring(["S"]))["S"]) == 1
    assert await shop.ask("select count(*) from relay.repair") == [(0,)]


async def test_each_checkpoint_has_a_key_of_its_own_and_few_stay(shop: Shop) -> None:
    store = await shop.lead()
    for seq in range(1, 41):
        await shop.deliver(store, seq)
    other = replace(TIP, stream="T", seq=7)
    await store.settle(Settlement(None, tips=[other]))
    rows = await shop.ask("select stream, number, ring, seq from relay.checkpoint order by 1, 2")
    kept = [8, 12, 16, 20, 24, 26, 28, 30, 32, 33, 34, 35, 36, 37, 38, 39, 40]
    assert rows == [*(("S", number, number, number) for number in kept), ("T", 1, 1, 7)]
