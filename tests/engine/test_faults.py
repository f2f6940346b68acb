"""One event's fault is one event's fate, and nothing passes it: the engine over lying models."""
# R-FATE, R-ORDER, R-LOSS

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import anyio
import pytest

from relay.core.event import Event
from relay.core.outcome import Fault, Held, Outcome, Refused, Unknown
from relay.errors import BusOutage, StoreBusy
from relay.facts import HoldBegan, HoldEnded, OutageBegan, PageDelivered, Parked, TermBegan
from relay.memory import MemoryBus, MemoryOutbox, MemoryStore
from relay.ports import Due, Page, Permit, Settlement
from tests.engine.world import World, running, settle_once, until

pytestmark = pytest.mark.anyio


class SlowToPark(MemoryOutbox):
    """Its settlements of parked events take ``seconds``; its looks answer at once."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    async def campaign(self, holder: str) -> MemoryStore | None:
        store = await super().campaign(holder)
        if store is not None:
            settle = store.settle

            async def settle_late(done: Settlement) -> None:
                if done.parked:
                    await anyio.sleep(self.seconds)
                await settle(done)

            store.settle = settle_late  # type: ignore[method-assign]
        return store


@pytest.mark.parametrize("seconds", [0.3, 0.99, 1.0, 2.5, 7.0])
async def test_a_key_waits_for_its_refused_event_however_long_that_takes_to_be_parked(
    seconds: float,
) -> None:
    world = World(SlowToPark(seconds), MemoryBus())
    world.bus.refuse["a.bad"] = "too large"

    async def work() -> None:
        for number in range(5):
            key = f"k{number}"
            world.outbox.emit("a.bad", b"first", key=key)
            await anyio.sleep(seconds * 0.7)
            world.outbox.emit("a.good", b"second", key=key)
            await anyio.sleep(seconds)
        await until(lambda: len(world.outbox.parked.rows) == 10)
        assert world.stored() == []

    await running(world, work)


@pytest.mark.parametrize("code", [0, 10999, 400])
async def test_events_with_an_answer_that_nobody_knows_leave_room_for_the_others(
    world: World, code: int
) -> None:
    answer = world.bus.answer
    asked: list[str] = []

    def puzzle(event: Event) -> Outcome:
        asked.append(event.subject)
        return Unknown("what?", code) if event.subject == "a.odd" else answer(event)

    world.bus.answer = puzzle  # type: ignore[method-assign]
    world.bus.refuse["a.late"] = "not yet"

    async def work() -> None:
        for number in range(32):
            world.outbox.emit("a.odd", b"%d" % number, key=f"k{number}")
        world.outbox.emit("a.late", b"late", key="late")
        await until(lambda: len(world.outbox.parked.rows) == 33)
        world.bus.refuse.clear()
        began = anyio.current_time()
        await until(lambda: len(world.bus.messages) == 1)
        assert anyio.current_time() - began < 60
        await anyio.sleep(600)
        asked.clear()
        await anyio.sleep(600)
        assert 0 < len(asked) <= 600 * 32 / 10

    await running(world, work)
    assert all(row.attempts == 0 for row in world.outbox.parked.rows.values())


class Cutting(MemoryBus):
    """Loses the connection whenever an event of ``bad`` is sent; ``cuts`` counts them."""

    def __init__(self, bad: set[bytes]) -> None:
        super().__init__()
        self.bad = bad
        self.cuts = 0

    async def publish(
        self, events: Sequence[Event], permit: Permit, *, closed: Collection[str] = ()
    ) -> Sequence[Outcome]:
        for place, event in enumerate(events):
            if event.payload in self.bad:
                self.cuts += 1
                await super().publish(events[:place], permit, closed=closed)
                raise BusOutage("connection lost")
        return await super().publish(events, permit, closed=closed)


@pytest.mark.parametrize("bad", [{0}, {99}, {7, 8}, {50, 51, 52, 98}])
async def test_an_event_that_cuts_the_connection_is_parked_and_the_others_arrive(
    bad: set[int],
) -> None:
    bus = Cutting({b"%d" % number for number in bad})
    world = World(MemoryOutbox(), bus)
    draw = world.outbox.draw
    world.outbox.commit([draw("a.b", b"%d" % n, key=f"k{n % 10}") for n in range(100)])
    keys = {number % 10 for number in bad}
    free = [n for n in range(100) if n % 10 not in keys]

    async def work() -> None:
        await until(lambda: world.outbox.settled == 100)
        assert {int(payload) for payload in world.stored()} >= set(free)
        assert all(row.attempts <= 1 for row in world.outbox.parked.rows.values())
        bus.bad.clear()
        await until(lambda: len(bus.messages) == 100)

    await running(world, work)
    for key in range(10):
        mine = [int(m.payload) for m in bus.messages if m.key == f"k{key}"]
        assert mine == list(range(key, 100, 10))


async def test_an_event_that_always_cuts_the_connection_dies_alone() -> None:
    bus = Cutting({b"bad"})
    world = World(MemoryOutbox(), bus)
    world.outbox.emit("a.b", b"bad", key="k")
    world.outbox.emit("a.b", b"good", key="k")

    async def work() -> None:
        await until(lambda: any(fact.dead for fact in world.told(Parked)))
        await until(lambda: world.stored() == [b"good"])

    await running(world, work)
    assert 10 * 3 <= bus.cuts <= 10 * 5  # alone three times, in company at most twice


async def test_a_broker_in_a_crash_loop_parks_nobody(world: World) -> None:
    publish, calls = world.bus.publish, 0

    async def crash_often(
        events: Sequence[Event], permit: Permit, *, closed: Collection[str] = ()
    ) -> Sequence[Outcome]:
        nonlocal calls
        calls += 1
        if calls % 3:
            raise BusOutage("connection lost")
        return await publish(events, permit, closed=closed)

    world.bus.publish = crash_often  # type: ignore[method-assign]

    async def work() -> None:
        for number in range(200):
            world.outbox.emit("a.b", b"%d" % number, key="k")
            await anyio.sleep(0.2)
        await until(lambda: len(world.bus.messages) == 200)

    await running(world, work)
    assert world.told(Parked) == []
    assert world.stored() == [b"%d" % number for number in range(200)]


class Illegible(MemoryOutbox):
    """Some of its rows can't be decoded, in pages and when they are due."""

    def __init__(self) -> None:
        super().__init__()
        self.illegible = {b"bad"}

    async def campaign(self, holder: str) -> MemoryStore | None:
        store = await super().campaign(holder)
        if store is None:
            return None
        read, due = store.read, store.parked.due

        async def read_some(limit: int) -> Page:
            page = await read(limit)
            bad = {e.id: "year out of range" for e in page.events if e.payload in self.illegible}
            return Page(page.events, page.position, page.full, page.xmin, bad)

        async def due_some(limit: int, *, without: Collection[str] = ()) -> Sequence[Due]:
            found = await due(limit, without=without)
            return [
                Due(d.event, d.attempts, d.held_by, d.age, "year out of range")
                if d.event.payload in self.illegible
                else d
                for d in found
            ]

        store.read = read_some  # type: ignore[method-assign]
        store.parked.due = due_some  # type: ignore[method-assign]
        return store


@pytest.mark.parametrize("place", [0, 1, 9])
async def test_a_row_that_cannot_be_read_is_parked_and_the_others_arrive(place: int) -> None:
    outbox = Illegible()
    world = World(outbox, MemoryBus())
    payloads = [b"%d" % number for number in range(10)]
    payloads[place] = b"bad"
    outbox.commit(
        [outbox.draw("a.b", p, key="k" if n >= place else "j") for n, p in enumerate(payloads)]
    )

    async def work() -> None:
        await until(lambda: outbox.settled == 10)
        assert world.stored() == payloads[:place]
        await until(lambda: any(fact.dead for fact in world.told(Parked)))
        await until(lambda: len(world.bus.messages) == 9)

    await running(world, work)
    assert world.stored() == [p for p in payloads if p != b"bad"]
    assert all("year out of range" in fact.reason for fact in world.told(Parked))


async def test_many_rows_that_cannot_be_read_keep_no_other_parked_event_waiting() -> None:
    outbox = Illegible()
    world = World(outbox, MemoryBus())
    world.bus.refuse["a.late"] = "not yet"
    outbox.commit([outbox.draw("a.b", b"bad") for _ in range(200)] + [outbox.draw("a.late", b"1")])

    async def work() -> None:
        await until(lambda: outbox.settled == 201)
        world.bus.refuse.clear()
        began = anyio.current_time()
        await until(lambda: len(world.bus.messages) == 1)
        assert anyio.current_time() - began < 10

    await running(world, work)


async def test_a_hold_is_over_only_when_an_event_of_it_is_stored(world: World) -> None:
    full = {name: Held(f"stream {name}", "full", 10077) for name in ("A", "B", "C")}
    for name, held in full.items():
        world.bus.hold[f"a.{name}"] = held

    async def work() -> None:
        for name in full:
            world.outbox.emit(f"a.{name}", b"1", key=name)
        await anyio.sleep(75)
        assert world.told(HoldEnded) == []
        del world.bus.hold["a.B"]
        await until(lambda: len(world.bus.messages) == 1)
        await anyio.sleep(75)

    await running(world, work)
    assert [fact.by for fact in world.told(HoldEnded)] == ["stream B"]
    assert len(world.told(HoldBegan)) == 3


async def test_a_hold_for_which_nothing_waits_is_over_and_says_so(world: World) -> None:
    world.bus.hold["a.full"] = Held("stream A", "full", 10077)

    async def work() -> None:
        world.outbox.emit("a.full", b"1", key="k")
        await until(lambda: len(world.outbox.parked.rows) == 1)
        world.outbox.parked.drop(next(iter(world.outbox.parked.rows)))
        await until(lambda: bool(world.told(HoldEnded)))

    await running(world, work)
    assert world.told(HoldEnded)[0].reason == "nothing waits for it any more"


async def test_pages_do_not_ask_a_stream_that_is_set_aside(world: World) -> None:
    world.bus.hold["a.full"] = Held("stream A", "full", 10077)
    answer, asked, asked_with_a_page = world.bus.answer, list[float](), list[Event]()

    def note(event: Event) -> Outcome:
        if event.subject == "a.full":
            asked.append(anyio.current_time())
            if event.event_id not in world.outbox.parked.rows:
                asked_with_a_page.append(event)
        return answer(event)

    world.bus.answer = note  # type: ignore[method-assign]

    async def work() -> None:
        world.outbox.emit("a.full", b"0")
        await until(lambda: len(world.outbox.parked.rows) == 1)
        asked.clear()
        asked_with_a_page.clear()
        for number in range(1000):
            world.outbox.emit("a.full", b"%d" % number)
            await anyio.sleep(0.01)
        assert len(asked) < 10 * 5 * 32
        assert asked_with_a_page == []
        await until(lambda: len(world.outbox.parked.rows) == 1001)
        world.bus.hold.clear()
        began = anyio.current_time()
        await until(lambda: len(world.bus.messages) == 1001)
        assert anyio.current_time() - began < 3

    await running(world, work)


@pytest.mark.parametrize("by", ["silent subjects of A", "forbidden subjects"])
async def test_an_event_held_alone_while_its_subject_is_stored_is_refused(
    world: World, by: str
) -> None:
    answer = world.bus.answer

    def quiet(event: Event) -> Outcome:
        return Held(by, "no answer") if event.payload == b"bad" else answer(event)

    world.bus.answer = quiet  # type: ignore[method-assign]

    async def work() -> None:
        number = 0
        while not any(fact.dead for fact in world.told(Parked)):
            number += 1
            world.outbox.emit("a.b", b"bad" if number == 1 else b"%d" % number, key=f"k{number}")
            await anyio.sleep(0.1)
        await until(lambda: len(world.bus.messages) == number - 1)

    await running(world, work)


async def test_a_subject_that_no_stream_ever_captured_dies_after_ten_minutes(
    world: World,
) -> None:
    answer = world.bus.answer

    def typo(event: Event) -> Outcome:
        if event.subject == "a.typo":
            return Refused("no stream captures a.typo", fault=Fault.UNCAPTURED)
        return answer(event)

    world.bus.answer = typo  # type: ignore[method-assign]
    began = anyio.current_time()

    async def work() -> None:
        world.outbox.emit("a.typo", b"1", key="k")
        world.outbox.emit("a.b", b"2", key="k")
        await until(lambda: any(fact.dead for fact in world.told(Parked)))
        await until(lambda: len(world.bus.messages) == 1)

    await running(world, work)
    assert 600 <= anyio.current_time() - began < 700
    assert {fact.fault for fact in world.told(Parked)} == {Fault.UNCAPTURED}


async def test_a_collision_is_dead_at_once_and_its_key_moves_on(world: World) -> None:
    # R-ONCE
    answer = world.bus.answer

    def collide(event: Event) -> Outcome:
        if event.payload == b"1":
            return Refused("another event is stored as ORDERS#7", fault=Fault.COLLISION)
        return answer(event)

    world.bus.answer = collide  # type: ignore[method-assign]

    async def work() -> None:
        world.outbox.emit("a.b", b"1", key="k", idempotency_key="order-1")
        world.outbox.emit("a.b", b"2", key="k")
        await until(lambda: world.stored() == [b"2"])
        await anyio.sleep(3600)

    await running(world, work)
    (fact,) = world.told(Parked)
    assert (fact.dead, fact.attempts, fact.fault) == (True, 1, Fault.COLLISION)


async def test_a_lock_on_the_parked_is_waited_for_within_the_term(world: World) -> None:
    busy = True
    settle_once(
        world.outbox, lambda: not busy, StoreBusy("canceling statement due to lock timeout")
    )

    async def work() -> None:
        nonlocal busy
        world.outbox.emit("a.b", b"1")
        await until(lambda: bool(world.told(OutageBegan)))
        await anyio.sleep(30)
        busy = False
        await until(lambda: world.outbox.settled == 1)

    await running(world, work)
    assert len(world.told(TermBegan)) == 1
    assert world.stored() == [b"1"]


async def test_a_relay_that_has_lost_its_lease_sends_nothing_of_the_page_in_hand() -> None:
    # R-TERM
    outbox, bus = MemoryOutbox(), MemoryBus()
    world = World(outbox, bus)
    gate = anyio.Event()

    async def work() -> None:
        await until(lambda: bool(world.told(TermBegan)))
        connect = bus.connect

        async def stand_still() -> None:
            await gate.wait()
            await connect()

        bus.connect = stand_still  # type: ignore[method-assign]
        outbox.emit("a.b", b"1")
        await anyio.sleep(60)
        outbox.leader = None
        other = await outbox.campaign("another")
        assert other is not None
        gate.set()
        await anyio.sleep(60)
        assert bus.messages == []
        await other.close()
        await until(lambda: world.stored() == [b"1"])

    await running(world, work)


async def test_streams_that_were_learnt_are_kept_and_recalled() -> None:
    outbox, bus = MemoryOutbox(), MemoryBus()
    recalled: list[dict[str, set[str]]] = []
    bus.learnt = lambda: {"ORDERS": {"orders.>"}}  # type: ignore[method-assign]
    bus.recall = lambda streams: recalled.append(  # type: ignore[method-assign]
        {name: set(subjects) for name, subjects in streams.items()}
    )

    for terms in (1, 2):

        async def work(terms: int = terms) -> None:
            await until(lambda: len(recalled) == terms and "ORDERS" in outbox.learnt)

        await running(World(outbox, bus), work)
    assert recalled == [{}, {"ORDERS": {"orders.>"}}]


class SilentStream(MemoryBus):
    """One stream answers nothing, for 5 s each time it is asked; ``asked`` counts these."""

    def __init__(self) -> None:
        super().__init__()
        self.hold["a.silent"] = Held("stream SILENT", "no answer")
        self.asked = 0

    async def publish(
        self, events: Sequence[Event], permit: Permit, *, closed: Collection[str] = ()
    ) -> Sequence[Outcome]:
        if "stream SILENT" not in closed and any(e.subject == "a.silent" for e in events):
            await anyio.sleep(5)
            self.asked += 1
        return await super().publish(events, permit, closed=closed)


async def test_a_page_waits_only_as_long_as_the_streams_of_those_left_in_it() -> None:
    bus = SilentStream()
    world = World(MemoryOutbox(), bus)

    async def work() -> None:
        world.outbox.emit("a.silent", b"1")
        await until(lambda: len(world.outbox.parked.rows) == 1 and bus.asked == 3)
        bus.hold["a.brief"] = Held("stream BRIEF", "no leader")
        draw = world.outbox.draw
        world.outbox.commit([draw("a.silent", b"2"), draw("a.brief", b"3")])
        await until(lambda: any(fact.by == "stream BRIEF" for fact in world.told(HoldBegan)))
        del bus.hold["a.brief"]
        began = anyio.current_time()
        await until(lambda: len(world.bus.messages) == 1)
        assert anyio.current_time() - began < 1

    await running(world, work)


@pytest.mark.parametrize("tenths", range(10))
async def test_a_hold_lasts_while_its_page_waits_for_another_one(world: World, tenths: int) -> None:
    hold, draw = world.bus.hold, world.outbox.draw

    async def work() -> None:
        await anyio.sleep(10 + tenths / 10)
        hold["a.full"] = Held("stream FULL", "full", 10077)
        hold["a.gate"] = Held("stream GATE", "no leader")
        hold["a.brief"] = Held("stream BRIEF", "no leader")
        behind = [draw("a.gate", b"2", key="k"), draw("a.brief", b"3", key="k")]
        world.outbox.commit([draw("a.full", b"1"), *behind])
        await anyio.sleep(0.8)  # the third event meets its outage so late
        del hold["a.gate"]
        await until(lambda: any(fact.by == "stream BRIEF" for fact in world.told(HoldBegan)))
        await anyio.sleep(0.9)
        del hold["a.brief"]
        await until(lambda: len(world.bus.messages) == 2)
        await anyio.sleep(2)

    await running(world, work)
    assert "stream FULL" not in [fact.by for fact in world.told(HoldEnded)]


@pytest.mark.parametrize("window", [10.0, 120.0])
async def test_no_more_is_published_than_the_duplicate_window_drops_while_nothing_is_settled(
    world: World, window: float
) -> None:
    # R-ONCE
    world.bus.duplicate_window = window
    busy = True
    settle_once(
        world.outbox, lambda: not busy, StoreBusy("canceling statement due to lock timeout")
    )

    async def work() -> None:
        nonlocal busy
        for number in range(int(2 * window)):
            world.outbox.emit("a.b", b"%d" % number)
            await anyio.sleep(1)
        assert 0 < len(world.bus.messages) <= window / 2 + 3
        busy = False
        await until(lambda: len(world.bus.messages) == int(2 * window))

    await running(world, work)


async def test_a_pool_without_a_free_session_ends_no_term(world: World) -> None:
    world.bus.refuse["a.bad"] = "too large"
    failures = {"blocked": 5, "due": 5}
    campaign = world.outbox.campaign

    def crowded(name: str, works: Any) -> Any:
        async def ask(*given: Any, **more: Any) -> Any:
            if failures[name]:
                failures[name] -= 1
                raise StoreBusy("no session of the pool within 3 s")
            return await works(*given, **more)

        return ask

    async def campaign_for_a_crowded_store(holder: str) -> MemoryStore | None:
        store = await campaign(holder)
        if store is not None:
            for name in failures:
                setattr(store.parked, name, crowded(name, getattr(store.parked, name)))
        return store

    world.outbox.campaign = campaign_for_a_crowded_store  # type: ignore[method-assign]

    async def work() -> None:
        world.outbox.emit("a.bad", b"1", key="k")
        world.outbox.emit("a.b", b"2", key="k")
        await until(lambda: bool(world.told(Parked)))
        world.outbox.emit("a.b", b"3", key="k")
        world.bus.refuse.clear()
        await until(lambda: len(world.bus.messages) == 3)

    await running(world, work)
    assert world.stored() == [b"1", b"2", b"3"]
    assert len(world.told(TermBegan)) == 1
    assert failures == {"blocked": 0, "due": 0}


class Torn(MemoryOutbox):
    """Its first row can't be read."""

    async def campaign(self, holder: str) -> MemoryStore | None:
        store = await super().campaign(holder)
        if store is not None:
            read = store.read

            async def read_torn(limit: int) -> Page:
                page = await read(limit)
                if not page.events or page.events[0].id != 1:
                    return page
                first = page.events[0]._replace(created_at=datetime(1970, 1, 1, tzinfo=UTC))
                return replace(page, events=[first, *page.events[1:]], unreadable={1: "torn"})

            store.read = read_torn  # type: ignore[method-assign]
        return store


async def test_a_row_that_can_t_be_read_makes_no_page_look_old() -> None:
    world = World(Torn(), MemoryBus())
    world.outbox.commit([world.outbox.draw("a.b", b"1"), world.outbox.draw("a.b", b"2")])

    async def work() -> None:
        await until(lambda: world.stored() == [b"2"])
        await until(lambda: bool(world.told(PageDelivered)))

    await running(world, work)
    (page,) = world.told(PageDelivered)
    assert page.delivered == 1
    assert page.oldest_at.year > 1970
