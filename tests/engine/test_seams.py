"""Where two tasks of a term meet: late looks, late answers, and settlements that must wait."""
# R-ORDER, R-LOSS, R-FATE, R-TERM

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import anyio
import pytest

from relay.core.event import Event
from relay.core.outcome import Held, Outcome, Unknown
from relay.errors import StoreBusy, StoreReadOnly, TermLost
from relay.facts import BacklogSeen, HoldEnded, Parked, TermBegan, TermEnded
from relay.memory import MemoryBus, MemoryOutbox, MemoryStore
from relay.ports import Backlog, Permit, Settlement
from tests.engine.world import World, running, settle_once, until

pytestmark = pytest.mark.anyio


class Slow(MemoryBus):
    """Answers ``seconds`` late."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0

    async def publish(
        self, events: Sequence[Event], permit: Permit, *, closed: Collection[str] = ()
    ) -> Sequence[Outcome]:
        await anyio.sleep(self.seconds)
        return await super().publish(events, permit, closed=closed)


async def test_a_leader_at_rest_reports_nothing_though_it_polls(world: World) -> None:
    async def work() -> None:
        world.outbox.emit("a.b", b"1")
        await until(lambda: world.outbox.reported is not None)
        await anyio.sleep(5)
        reported = world.outbox.reported
        await anyio.sleep(300)
        assert world.outbox.reported is reported
        world.outbox.emit("a.b", b"2")
        await until(lambda: world.outbox.reported is not reported)

    await running(world, work)


async def test_a_hold_that_is_over_while_its_events_are_on_their_way_is_asked_again() -> None:
    bus = Slow()
    world = World(MemoryOutbox(), bus)
    full = Held("stream A", "full", 10077)
    bus.hold["a.full"] = full

    async def work() -> None:
        world.outbox.emit("a.full", b"1")
        await until(lambda: len(world.outbox.parked.rows) == 1)
        bus.hold.clear()
        bus.refuse["a.full"] = "too large"
        await until(lambda: bool(world.told(Parked)))
        bus.refuse.clear()
        bus.hold["a.full"] = full
        bus.seconds = 3.0
        world.outbox.emit("a.full", b"2")
        await until(lambda: bool(world.told(HoldEnded)))
        bus.seconds = 0.0
        await anyio.sleep(10)
        bus.hold.clear()
        await until(lambda: len(bus.messages) == 2)

    await running(world, work)


async def test_a_hold_lasts_while_its_events_wait_for_their_page_to_be_settled() -> None:
    bus = Slow()
    world = World(MemoryOutbox(), bus)
    bus.hold["a.full"] = Held("stream A", "full", 10077)
    bus.seconds = 1.3
    answer = bus.answer

    def puzzle(event: Event) -> Outcome:
        return Unknown("what?", 10999) if event.subject == "a.odd" else answer(event)

    bus.answer = puzzle  # type: ignore[method-assign]
    draw = world.outbox.draw
    world.outbox.commit([draw("a.full", b"1"), draw("a.odd", b"2")])

    async def work() -> None:
        await until(lambda: len(world.outbox.parked.rows) == 2)
        await anyio.sleep(30)
        assert [fact for fact in world.told(HoldEnded) if fact.by == "stream A"] == []

    await running(world, work)


async def test_what_was_learnt_of_streams_outlives_a_term_that_could_not_keep_it(
    world: World,
) -> None:
    learnt = [{"ORDERS": {"orders.>"}}]
    world.bus.learnt = lambda: learnt.pop() if learnt else {}  # type: ignore[method-assign]
    campaign, failures = world.outbox.campaign, 1

    async def campaign_for_a_failing_store(holder: str) -> MemoryStore | None:
        store = await campaign(holder)
        if store is not None:
            keep = store.keep_streams

            async def fail(streams: Mapping[str, Collection[str]]) -> None:
                nonlocal failures
                if failures:
                    failures -= 1
                    raise StoreReadOnly("read-only")
                await keep(streams)

            store.keep_streams = fail  # type: ignore[method-assign]
        return store

    world.outbox.campaign = campaign_for_a_failing_store  # type: ignore[method-assign]

    async def work() -> None:
        await until(lambda: len(world.told(TermBegan)) == 2)
        await anyio.sleep(5)
        assert world.outbox.learnt == {"ORDERS": {"orders.>"}}

    await running(world, work)


async def test_what_was_learnt_of_streams_is_kept_before_what_they_stored_is_settled(
    world: World,
) -> None:
    # R-FATE: a relay that is killed at once leaves the next one what it needs to wait.
    learnt = [{"ORDERS": {"orders.>"}}]
    world.bus.learnt = lambda: (  # type: ignore[method-assign]
        learnt.pop() if learnt and world.bus.messages else {}
    )

    kept_at = list[bool]()

    def note() -> bool:
        if world.bus.messages:
            kept_at.append(world.outbox.learnt == {"ORDERS": {"orders.>"}})
        return True

    settle_once(world.outbox, note, StoreBusy("never"))

    async def work() -> None:
        world.outbox.emit("orders.placed", b"1")
        await until(lambda: world.outbox.settled == 1)

    await running(world, work)
    assert kept_at
    assert all(kept_at)


async def test_a_lease_that_is_lost_ends_the_term_of_an_idle_leader(world: World) -> None:
    # R-TERM
    campaign = world.outbox.campaign

    async def campaign_for_a_short_lease(holder: str) -> MemoryStore | None:
        store = await campaign(holder)

        async def lose_it() -> None:
            await anyio.sleep(30)
            raise TermLost("silent for too long")

        if store is not None:
            store.watch = lose_it  # type: ignore[method-assign]
        return store

    world.outbox.campaign = campaign_for_a_short_lease  # type: ignore[method-assign]

    async def work() -> None:
        await anyio.sleep(40)
        assert [fact.reason for fact in world.told(TermEnded)] == ["silent for too long"]

    await running(world, work)


async def test_a_full_stream_with_room_for_small_events_refuses_none(world: World) -> None:
    answer, full = world.bus.answer, Held("stream A", "maximum bytes exceeded", 10077)
    world.bus.answer = lambda event: (  # type: ignore[method-assign]
        full if event.payload == b"large" else answer(event)
    )

    async def work() -> None:
        for number in range(300):
            world.outbox.emit("a.b", b"small" if number % 10 else b"large", key=f"k{number}")
            await anyio.sleep(0.1)

    await running(world, work)
    assert world.told(Parked) == []
    assert {row.event.payload for row in world.outbox.parked.rows.values()} == {b"large"}


@pytest.mark.parametrize("seconds", [0.5, 1.5, 4.0])
async def test_a_look_that_began_before_a_settlement_does_not_open_the_fence(
    seconds: float,
) -> None:
    # R-ORDER
    outbox = MemoryOutbox()
    world = World(outbox, MemoryBus())
    world.bus.refuse["a.bad"] = "too large"
    campaign = outbox.campaign

    async def campaign_for_late_answers(holder: str) -> MemoryStore | None:
        store = await campaign(holder)
        if store is not None:
            look = store.look

            async def look_late(position: object | None) -> Backlog:
                backlog = await look(position)
                await anyio.sleep(seconds)
                return backlog

            store.look = look_late  # type: ignore[method-assign]
        return store

    outbox.campaign = campaign_for_late_answers  # type: ignore[method-assign]

    async def work() -> None:
        for number in range(20):
            outbox.emit("a.bad", b"first", key=f"k{number}")
            await anyio.sleep(seconds * 0.45)
            outbox.emit("a.good", b"second", key=f"k{number}")
            await anyio.sleep(seconds * 0.3)
            if number % 5 == 4:  # a person's decision: nothing is parked, as the next look finds
                for event_id in list(outbox.parked.rows):
                    outbox.parked.drop(event_id)
                await anyio.sleep(2 * seconds + 2)
        assert world.stored() == []

    await running(world, work)


async def test_a_refused_event_is_kept_though_the_parked_are_locked(world: World) -> None:
    # R-LOSS
    world.bus.refuse["a.bad"] = "too large"
    campaign, refusals = world.outbox.campaign, 3

    async def campaign_for_a_busy_store(holder: str) -> MemoryStore | None:
        store = await campaign(holder)
        if store is not None:
            settle = store.settle

            async def settle_if_free(done: Settlement) -> None:
                nonlocal refusals
                if done.parked and refusals:
                    refusals -= 1
                    raise StoreBusy("canceling statement due to lock timeout")
                await settle(done)

            store.settle = settle_if_free  # type: ignore[method-assign]
        return store

    world.outbox.campaign = campaign_for_a_busy_store  # type: ignore[method-assign]

    async def work() -> None:
        world.outbox.emit("a.bad", b"1")
        await until(lambda: world.outbox.settled == 1)
        assert [row.event.payload for row in world.outbox.parked.rows.values()] == [b"1"]

    await running(world, work)


async def test_nobody_rings_while_a_page_waits_for_the_one_before_it(world: World) -> None:
    # R-FIRST
    bell = world.outbox.bell

    async def work() -> None:
        await until(lambda: bell._armed)
        world.bus.away = True
        for number in range(2):
            world.outbox.emit("a.b", b"%d" % number)
            await anyio.sleep(1)
        assert not bell._armed, "a ring would wake nobody: the page in hand comes first"
        world.bus.away = False
        await until(lambda: world.stored() == [b"0", b"1"])
        await until(lambda: bell._armed)
        world.outbox.emit("a.b", b"2")
        await anyio.sleep(1)
        assert world.stored() == [b"0", b"1", b"2"]

    await running(world, work)


class SlowToConnect(MemoryBus):
    """Connecting takes some time; ``known`` says, at the first publish, what was looked at."""

    seconds = 0.1
    known: bool | None = None
    looked_at: Callable[[], bool]

    async def connect(self) -> None:
        await anyio.sleep(self.seconds)
        await super().connect()

    async def publish(self, *args: Any, **how: Any) -> Any:
        if self.known is None:
            self.known = self.looked_at()
        return await super().publish(*args, **how)


@pytest.mark.parametrize(("seconds", "first"), [(0.1, "the page"), (1.0, "the look")])
async def test_housekeeping_waits_for_the_first_page_but_not_for_long(
    seconds: float, first: str
) -> None:
    bus = SlowToConnect()
    world = World(MemoryOutbox(), bus)
    bus.seconds, bus.looked_at = seconds, lambda: bool(world.told(BacklogSeen))
    world.outbox.emit("a.b", b"1")

    async def work() -> None:
        await until(lambda: bool(world.stored()) and bool(world.told(BacklogSeen)))

    await running(world, work)
    assert bus.known is (first == "the look")
