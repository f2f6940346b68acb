"""The engine over the models, in virtual time: outages, refusals, terms, and how it stops."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import anyio
import pytest
import trio.testing

from relay.core.event import Event
from relay.core.outcome import Outcome, Refused, Stored, Unknown
from relay.engine import CAMPAIGN_EVERY, Engine
from relay.errors import BusOutage, SchemaError, StoreOutage, StreamError
from relay.facts import (
    BacklogSeen,
    Fact,
    OutageBegan,
    OutageEnded,
    PageDelivered,
    Parked,
    Retried,
    StandingBy,
    TermBegan,
    TermEnded,
)
from relay.memory import MemoryBus, MemoryOutbox, MemoryStore
from relay.ports import OutboxStore, Page
from relay.term import RECONNECT_MOST, Policy

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


class World:
    """One engine, its models, and everything it told."""

    def __init__(self, outbox: MemoryOutbox, bus: MemoryBus, name: str = "one") -> None:
        self.outbox = outbox
        self.bus = bus
        self.facts: list[Fact] = []
        self.engine = Engine(
            outbox,
            bus,
            outbox.bell,
            holder=name,
            policy=Policy(poll_interval=60.0),
            tell=self.facts.append,
            jitter=lambda: 0.999,
        )

    def told(self, kind: type[Fact]) -> list[Any]:
        return [fact for fact in self.facts if isinstance(fact, kind)]

    def stored(self) -> list[bytes]:
        return [message.payload for message in self.bus.messages]


@pytest.fixture
def world() -> World:
    return World(MemoryOutbox(), MemoryBus())


async def running(world: World, work: Callable[[], Awaitable[None]]) -> None:
    """Run the engine while ``work`` runs, then stop it."""
    with anyio.fail_after(3600):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(world.engine.run)
            await work()
            world.engine.stop()


async def until(fact: Callable[[], bool]) -> None:
    while not fact():
        await anyio.sleep(0.01)


async def test_events_are_delivered_in_order_and_settled_by_the_time_it_has_stopped(
    world: World,
) -> None:
    async def work() -> None:
        for number in range(500):
            world.outbox.emit("a.b", b"%d" % number, key="k")
        await until(lambda: len(world.bus.messages) == 500)

    await running(world, work)
    assert world.stored() == [b"%d" % number for number in range(500)]
    assert (world.outbox.settled, world.outbox.delivered) == (500, 500)
    assert world.outbox.leader is None


async def test_an_event_wakes_a_sleeping_relay_long_before_the_poll(world: World) -> None:
    async def work() -> None:
        await anyio.sleep(10)
        began = anyio.current_time()
        world.outbox.emit("a.b", b"1")
        await until(lambda: len(world.bus.messages) == 1)
        assert anyio.current_time() - began < 1

    await running(world, work)


async def test_an_outage_of_the_bus_is_waited_out_and_told_once(world: World) -> None:
    async def work() -> None:
        await until(lambda: bool(world.told(BacklogSeen)))
        world.bus.away = True
        world.outbox.emit("a.b", b"1", key="k")
        world.outbox.emit("a.b", b"2", key="k")
        await anyio.sleep(300)
        assert world.bus.messages == []
        world.bus.away = False
        await anyio.sleep(RECONNECT_MOST)
        assert world.stored() == [b"1", b"2"]

    await running(world, work)
    assert [fact.side for fact in world.told(OutageBegan)] == ["nats"]
    assert world.told(OutageEnded)[0].seconds == pytest.approx(300, rel=0.01)
    assert world.outbox.parked == []


async def test_a_bus_that_is_away_at_the_start_is_waited_for(world: World) -> None:
    world.bus.away = True
    world.outbox.emit("a.b", b"1")

    async def work() -> None:
        await until(lambda: bool(world.told(OutageBegan)))
        world.bus.away = False
        await until(lambda: len(world.bus.messages) == 1)

    await running(world, work)


async def test_a_stop_during_an_outage_gives_the_page_up_at_once_and_settles_nothing(
    world: World,
) -> None:
    world.outbox.emit("a.b", b"1")

    async def work() -> None:
        await until(lambda: world.outbox.settled == 1)
        world.bus.away = True
        world.outbox.emit("a.b", b"2")
        await until(lambda: bool(world.told(OutageBegan)))

    began = anyio.current_time()
    await running(world, work)
    assert anyio.current_time() - began < 5
    assert world.outbox.settled == 1


async def test_a_refused_event_is_parked_and_its_key_moves_on(world: World) -> None:
    world.bus.refuse["a.bad"] = "too large"

    async def work() -> None:
        world.outbox.commit(
            [
                world.outbox.draw("a.good", b"1", key="k"),
                world.outbox.draw("a.bad", b"2", key="k"),
                world.outbox.draw("a.good", b"3", key="k"),
            ]
        )
        await until(lambda: len(world.bus.messages) == 2)

    await running(world, work)
    assert world.stored() == [b"1", b"3"]
    assert [(event.payload, refused.reason) for event, refused in world.outbox.parked] == [
        (b"2", "too large")
    ]
    assert [fact.reason for fact in world.told(Parked)] == ["too large"]
    assert world.outbox.settled == 3


class Hesitant(MemoryBus):
    """Answers Unknown for every event at first, and each time for one fewer."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[list[bytes]] = []

    async def publish(self, events: Sequence[Event]) -> Sequence[Outcome]:
        await self.connect()
        self.calls.append([event.payload for event in events])
        sure = len(self.calls) - 1
        outcomes: list[Outcome] = list(await super().publish(events[:sure]))
        return outcomes + [Unknown("no answer")] * (len(events) - sure)


async def test_what_got_no_clear_answer_is_published_again_alone_and_in_order() -> None:
    bus = Hesitant()
    world = World(MemoryOutbox(), bus)
    world.outbox.commit([world.outbox.draw("a.b", b"%d" % n, key="k") for n in range(4)])

    async def work() -> None:
        await until(lambda: world.outbox.settled == 4)

    await running(world, work)
    assert world.stored() == [b"0", b"1", b"2", b"3"]
    assert bus.calls == [
        [b"0", b"1", b"2", b"3"],
        [b"0", b"1", b"2", b"3"],
        [b"1", b"2", b"3"],
        [b"3"],
    ]
    assert [fact.events for fact in world.told(Retried)] == [4, 3, 1]
    assert len(world.told(PageDelivered)) == 1


class Flaky(MemoryOutbox):
    """Its terms end by the error given, each at its second read."""

    def __init__(self, *errors: Exception) -> None:
        super().__init__()
        self.errors = list(errors)

    async def campaign(self, holder: str) -> MemoryStore | None:
        store = await super().campaign(holder)
        if store is not None and self.errors:
            reads = 0
            read = store.read

            async def fail(limit: int) -> Page:
                nonlocal reads
                reads += 1
                if reads == 2:
                    raise self.errors.pop(0)
                return await read(limit)

            store.read = fail  # type: ignore[method-assign]
        return store


async def test_an_outage_of_the_store_ends_the_term_and_the_next_one_reads_on() -> None:
    outbox = Flaky(StoreOutage("gone"), StoreOutage("gone again"))
    world = World(outbox, MemoryBus())
    for number in range(3):
        outbox.emit("a.b", b"%d" % number, key="k")

    async def work() -> None:
        await until(lambda: len(world.told(TermBegan)) == 3)
        outbox.emit("a.b", b"3", key="k")
        await until(lambda: outbox.settled == 4)

    await running(world, work)
    assert world.stored() == [b"0", b"1", b"2", b"3"]
    assert [fact.reason for fact in world.told(TermEnded)] == ["gone", "gone again", ""]
    assert [fact.side for fact in world.told(OutageEnded)] == ["postgres", "postgres"]


async def test_a_bug_is_neither_waited_out_nor_hidden() -> None:
    world = World(Flaky(ZeroDivisionError("a bug")), MemoryBus())
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        await world.engine.run()


async def test_a_missing_schema_or_stream_at_the_start_is_for_a_person() -> None:
    world = World(Flaky(SchemaError("run migrate")), MemoryBus())
    with pytest.raises(SchemaError):
        await world.engine.run()

    class Streamless(MemoryBus):
        async def connect(self) -> None:
            raise StreamError("make it")

    with pytest.raises(StreamError):
        await World(MemoryOutbox(), Streamless()).engine.run()


async def test_a_stream_that_goes_missing_later_is_waited_for(world: World) -> None:
    publish = world.bus.publish
    missing = True

    async def fail(events: Sequence[Event]) -> Sequence[Outcome]:
        if missing:
            raise StreamError("somebody deleted it")
        return await publish(events)

    world.bus.publish = fail  # type: ignore[method-assign]
    world.outbox.emit("a.b", b"1")

    async def work() -> None:
        nonlocal missing
        await until(lambda: bool(world.told(OutageBegan)))
        missing = False
        await until(lambda: len(world.bus.messages) == 1)

    await running(world, work)


async def test_a_second_engine_stands_by_and_takes_over_within_its_campaign_interval() -> None:
    outbox, bus = MemoryOutbox(), MemoryBus()
    first, second = World(outbox, bus, "first"), World(outbox, bus, "second")

    async def work() -> None:
        await until(lambda: bool(first.told(TermBegan)))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(second.engine.run)
            await until(lambda: bool(second.told(StandingBy)))
            await anyio.sleep(100)
            assert second.told(TermBegan) == []
            first.engine.stop()
            await until(lambda: bool(first.told(TermEnded)))
            await anyio.sleep(2 * CAMPAIGN_EVERY)
            assert [fact.epoch for fact in second.told(TermBegan)] == [2]
            second.engine.stop()

    await running(first, work)


async def test_a_leader_whose_epoch_has_passed_stops_leading_even_when_idle(world: World) -> None:
    async def work() -> None:
        await until(lambda: world.outbox.leader is not None)
        await anyio.sleep(10)
        world.outbox.epoch += 1
        await until(lambda: len(world.told(TermBegan)) == 2)

    await running(world, work)
    assert "is over" in world.told(TermEnded)[0].reason


class Stuck(MemoryBus):
    """Takes a page and never answers."""

    async def publish(self, events: Sequence[Event]) -> Sequence[Outcome]:
        del events
        await anyio.sleep_forever()
        raise BusOutage("never")


async def test_a_stop_cuts_off_a_page_that_never_ends_and_settles_nothing_of_it() -> None:
    world = World(MemoryOutbox(), Stuck())
    world.outbox.emit("a.b", b"1")
    began = anyio.current_time()

    async def work() -> None:
        await anyio.sleep(1)

    await running(world, work)
    assert anyio.current_time() - began < 10
    assert world.outbox.settled == 0
    store: OutboxStore | None = await world.outbox.campaign("next")
    assert store is not None
    assert [event.payload for event in (await store.read(10)).events] == [b"1"]


def test_refused_and_stored_are_values_that_compare() -> None:
    assert Refused("a", 1) == Refused("a", 1)
    assert Stored(1, duplicate=True) != Stored(1, duplicate=False)
