"""Terms over the memory models, in virtual time: what ends one, what the next one does."""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest

from relay.core.backoff import State
from relay.core.event import Event
from relay.core.outcome import Outcome
from relay.engine.lead import CAMPAIGN_EVERY
from relay.errors import (
    BusLoginRefused,
    BusOutage,
    SchemaError,
    SettingsError,
    StoreFull,
    StoreLoginRefused,
    StoreOutage,
    StoreReadOnly,
    StreamError,
)
from relay.facts import (
    BacklogSeen,
    BreakerChanged,
    HousekeepingFailed,
    OutageBegan,
    OutageEnded,
    StandingBy,
    TermBegan,
    TermEnded,
)
from relay.memory import MemoryBus, MemoryOutbox, MemoryStore
from relay.ports import OutboxStore, Page, Permit
from tests.engine.world import World, running, settle_once, until

pytestmark = pytest.mark.anyio


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


async def test_want_of_room_for_a_settlement_is_waited_for_within_the_term(world: World) -> None:
    full = True
    settle_once(world.outbox, lambda: not full, StoreFull("no space left"))

    async def work() -> None:
        nonlocal full
        world.outbox.emit("a.b", b"1")
        await until(lambda: bool(world.told(OutageBegan)))
        await anyio.sleep(300)
        full = False
        await until(lambda: world.outbox.settled == 1)

    await running(world, work)
    assert len(world.told(TermBegan)) == len(world.told(OutageBegan)) == 1
    assert world.told(OutageEnded)[0].seconds == pytest.approx(300, rel=0.01)
    assert world.stored() == [b"1"]


async def test_a_bug_is_neither_waited_out_nor_hidden() -> None:
    world = World(Flaky(ZeroDivisionError("a bug")), MemoryBus())
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        await world.engine.run()


class Unwilling(MemoryOutbox):
    """Its first campaigns end by the errors given."""

    def __init__(self, *errors: Exception) -> None:
        super().__init__()
        self.errors = list(errors)

    async def campaign(self, holder: str) -> MemoryStore | None:
        if self.errors:
            raise self.errors.pop(0)
        return await super().campaign(holder)


class Closed(MemoryBus):
    """Its first connections end by the errors given."""

    def __init__(self, *errors: Exception) -> None:
        super().__init__()
        self.errors = list(errors)

    async def connect(self) -> None:
        if self.errors:
            raise self.errors.pop(0)
        await super().connect()


@pytest.mark.parametrize(
    ("outbox", "bus", "raised"),
    [
        (Unwilling(SchemaError("run migrate")), MemoryBus(), SchemaError),
        (Unwilling(StoreLoginRefused("wrong password")), MemoryBus(), SettingsError),
        (MemoryOutbox(), Closed(StreamError("make it")), StreamError),
        (MemoryOutbox(), Closed(BusLoginRefused("wrong password")), SettingsError),
        (MemoryOutbox(), Closed(SettingsError(["nats creds: no such file"])), SettingsError),
    ],
)
async def test_what_a_person_has_to_change_ends_the_first_start(
    outbox: MemoryOutbox, bus: MemoryBus, raised: type[Exception]
) -> None:
    with pytest.raises(raised):
        await World(outbox, bus).engine.run()


async def test_what_worked_before_is_waited_for_whoever_broke_it() -> None:
    outbox = Flaky(SchemaError("renamed"), StoreOutage("gone"))
    bus = Closed()
    world = World(outbox, bus)
    outbox.emit("a.b", b"1")

    async def work() -> None:
        await until(lambda: len(world.told(TermBegan)) == 3)
        bus.errors = [
            BusLoginRefused("password changed"),
            StreamError("deleted"),
            SettingsError(["nats creds: it is just being written"]),
        ]
        await bus.close()
        outbox.emit("a.b", b"2")
        await until(lambda: len(world.bus.messages) == 2)

    await running(world, work)
    assert [fact.side for fact in world.told(OutageEnded)] == ["postgres", "postgres", "nats"]


async def test_a_stream_that_goes_missing_later_is_waited_for(world: World) -> None:
    publish = world.bus.publish
    missing = True

    async def fail(
        events: Sequence[Event], permit: Permit, *, closed: Collection[str] = ()
    ) -> Sequence[Outcome]:
        if missing:
            raise StreamError("somebody deleted it")
        return await publish(events, permit, closed=closed)

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


async def test_a_standby_tells_that_an_outage_of_the_store_is_over() -> None:
    outbox = Unwilling()
    await outbox.campaign("another")
    outbox.errors = [StoreOutage("away"), StoreOutage("still away")]
    world = World(outbox, MemoryBus())

    async def work() -> None:
        await until(lambda: bool(world.told(StandingBy)))

    await running(world, work)
    assert [(fact.side, fact.attempts) for fact in world.told(OutageEnded)] == [("postgres", 2)]


async def test_a_standby_sounds_no_alarm_of_its_last_term(world: World) -> None:
    async def work() -> None:
        world.bus.away = True
        old = datetime.now(UTC) - timedelta(seconds=60)
        world.outbox.commit([world.outbox.draw("a.b", b"1")._replace(created_at=old)])
        await until(lambda: {f.breaker for f in world.told(BreakerChanged)} == {"lag", "bus"})
        world.outbox.leader = None
        await world.outbox.campaign("another")
        await until(lambda: bool(world.told(StandingBy)))
        await anyio.sleep(10)

    await running(world, work)
    assert world.states_of("bus")[-1] is State.CLOSED
    assert world.states_of("lag") == [State.OPEN, State.CLOSED]


async def test_a_new_term_asks_a_bus_whose_breaker_the_last_one_left_open() -> None:
    outbox, bus = MemoryOutbox(), MemoryBus()
    world = World(outbox, bus)

    async def work() -> None:
        await until(lambda: bool(world.told(BacklogSeen)))
        bus.away = True
        outbox.emit("a.b", b"1")
        await until(lambda: world.states_of("bus")[-1:] == [State.OPEN])
        outbox.leader = None  # the term ends within one of the breaker's pauses
        outbox.epoch += 1
        await until(lambda: bool(world.told(TermEnded)))
        bus.away = False
        await until(lambda: len(bus.messages) == 1)

    await running(world, work)
    assert world.states_of("bus")[-2:] == [State.HALF_OPEN, State.CLOSED]


async def test_a_term_that_is_over_has_dropped_its_connection_before_anybody_hears_of_it() -> None:
    bus = MemoryBus()
    world = World(Flaky(StoreOutage("gone")), bus)
    order: list[str] = []
    close = bus.close

    async def note_and_close() -> None:
        order.append("dropped")
        await close()

    bus.close = note_and_close  # type: ignore[method-assign]

    async def work() -> None:
        await until(lambda: bool(world.told(TermEnded)))
        order.append("told")

    await running(world, work)
    assert order[:2] == ["dropped", "told"]


async def test_a_look_that_fails_again_is_no_news_for_a_minute(world: World) -> None:
    async def fail(*_: Any) -> Any:
        raise StoreOutage("no session")

    campaign = world.outbox.campaign

    async def campaign_for_a_blind_store(holder: str) -> MemoryStore | None:
        store = await campaign(holder)
        if store is not None:
            store.look = fail  # type: ignore[method-assign]
        return store

    world.outbox.campaign = campaign_for_a_blind_store  # type: ignore[method-assign]
    await running(world, lambda: anyio.sleep(150))
    told = world.told(HousekeepingFailed)
    assert len(told) > 100
    assert [number for number, fact in enumerate(told) if not fact.again] == [0, 60, 120]


@pytest.mark.parametrize("duty", ["tend", "look"])
async def test_a_leader_whose_server_was_demoted_ends_its_term_even_when_idle(
    world: World, duty: str
) -> None:
    errors: list[StoreOutage] = [StoreOutage("slow"), StoreReadOnly("read-only")]
    campaign = world.outbox.campaign

    async def campaign_for_a_failing_store(holder: str) -> MemoryStore | None:
        store = await campaign(holder)
        if store is not None:
            works = getattr(store, duty)

            async def fail(*given: Any) -> Any:
                if errors:
                    raise errors.pop(0)
                return await works(*given)

            setattr(store, duty, fail)
        return store

    world.outbox.campaign = campaign_for_a_failing_store  # type: ignore[method-assign]

    async def work() -> None:
        await until(lambda: len(world.told(TermBegan)) == 2)

    await running(world, work)
    assert [fact.reason for fact in world.told(HousekeepingFailed)] == ["slow"]
    assert world.told(TermEnded)[0].reason == "read-only"
    assert len(world.told(OutageBegan)) == len(world.told(OutageEnded)) == 1


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

    async def publish(
        self, events: Sequence[Event], permit: Permit, *, closed: Collection[str] = ()
    ) -> Sequence[Outcome]:
        del events, permit, closed
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
