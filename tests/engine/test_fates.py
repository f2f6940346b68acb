"""One event's fault is one event's fate (R-FATE): refusals, cuts, rows that can't be read."""
# R-FATE, R-ORDER, R-LOSS

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import anyio
import pytest

from relay.core.event import Event
from relay.core.outcome import Fault, Outcome, Refused, Unknown
from relay.errors import BusOutage
from relay.facts import PageDelivered, Parked
from relay.memory import MemoryBus, MemoryOutbox, MemoryStore
from relay.ports import Due, Page, Permit, Settlement
from tests.engine.world import World, running, until

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
