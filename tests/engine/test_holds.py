"""Holds, pages in hand and settlements that wait (R-FATE, R-ORDER, R-TERM)."""
# R-FATE, R-ORDER, R-LOSS

from collections.abc import Collection, Sequence
from typing import Any

import anyio
import pytest

from relay.core.event import Event
from relay.core.outcome import Held, Outcome
from relay.errors import StoreBusy
from relay.facts import HoldBegan, HoldEnded, OutageBegan, OutageEnded, Parked, TermBegan
from relay.memory import MemoryBus, MemoryOutbox, MemoryStore
from relay.ports import Permit
from tests.engine.world import World, running, settle_once, until

pytestmark = pytest.mark.anyio


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


async def test_a_hold_lasts_while_a_page_waits_for_it_though_nothing_parked_does(
    world: World,
) -> None:
    world.bus.sole_hold = "stream ONLY"
    full = Held("stream ONLY", "full", 10077)

    async def work() -> None:
        world.bus.refuse["a.bad"] = "no"
        world.outbox.emit("a.bad", b"1")
        await until(lambda: len(world.outbox.parked.rows) == 1)
        world.bus.hold |= {"a.bad": full, "a.b": full}
        world.bus.refuse.clear()
        await until(lambda: next(iter(world.outbox.parked.rows.values())).held_by == full.by)
        world.outbox.emit("a.b", b"2")
        await anyio.sleep(10)
        world.outbox.parked.drop(next(iter(world.outbox.parked.rows)))
        await anyio.sleep(10)
        assert world.told(HoldEnded) == []
        world.bus.hold.clear()
        await until(lambda: len(world.bus.messages) == 1)
        await until(lambda: len(world.told(HoldEnded)) == 1)

    await running(world, work)
    assert len(world.told(HoldBegan)) == 1


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


async def test_a_refusal_is_told_once_it_is_kept(world: World) -> None:
    """A term that ends before would tell it, and the next one would tell it again."""
    busy = False
    settle_once(world.outbox, lambda: not busy, StoreBusy("a lock"))
    world.bus.refuse["a.bad"] = "too large"

    async def work() -> None:
        nonlocal busy
        world.outbox.emit("a.b", b"1")
        await until(lambda: world.outbox.settled == 1)
        busy = True
        world.outbox.emit("a.bad", b"2")
        await until(lambda: bool(world.told(OutageBegan)))
        await anyio.sleep(30)
        assert world.told(Parked) == []
        busy = False
        await until(lambda: bool(world.told(Parked)))

    await running(world, work)
    assert world.outbox.parked.rows


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
    busy = False
    settle_once(
        world.outbox, lambda: not busy, StoreBusy("canceling statement due to lock timeout")
    )

    async def work() -> None:
        nonlocal busy
        world.outbox.emit("a.b", b"0")
        await until(lambda: world.outbox.settled == 1)
        busy = True
        for number in range(1, int(2 * window)):
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
    began, ended = world.told(OutageBegan), world.told(OutageEnded)
    assert [fact.side for fact in began + ended] == ["postgres"] * 2
