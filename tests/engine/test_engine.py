"""The engine over the models, in virtual time: outages, refusals, terms, and how it stops."""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest

from relay.core.backoff import State
from relay.core.event import Event
from relay.core.outcome import Held, Outcome, Refused, Stored, Unknown
from relay.engine.lead import CAMPAIGN_EVERY
from relay.engine.outage import PAUSE_MOST
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
    BusConnected,
    HoldBegan,
    HoldEnded,
    HousekeepingFailed,
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
from relay.ports import OutboxStore, Page, Permit
from tests.engine.world import World, running, settle_once, until

pytestmark = pytest.mark.anyio


async def test_events_are_delivered_in_order_and_settled_by_the_time_it_has_stopped(
    world: World,
) -> None:
    async def work() -> None:
        for number in range(500):
            world.outbox.emit("a.b", b"%d" % number, key="k")
        await until(lambda: len(world.bus.messages) == 500)

    await running(world, work)
    assert world.stored() == [b"%d" % number for number in range(500)]
    assert world.outbox.settled == 500
    assert world.outbox.leader is None


async def test_an_event_wakes_a_sleeping_relay_long_before_the_poll(world: World) -> None:
    async def work() -> None:
        await anyio.sleep(10)
        began = anyio.current_time()
        world.outbox.emit("a.b", b"1")
        await until(lambda: len(world.bus.messages) == 1)
        assert anyio.current_time() - began < 1

    await running(world, work)


async def test_an_outage_of_an_hour_is_waited_out_told_once_and_costs_no_attempt(
    world: World,
) -> None:
    async def work() -> None:
        await until(lambda: bool(world.told(BacklogSeen)))
        world.bus.away = True
        world.outbox.emit("a.b", b"1", key="k")
        world.outbox.emit("a.b", b"2", key="k")
        await anyio.sleep(3600)
        assert world.bus.messages == []
        world.bus.away = False
        await anyio.sleep(PAUSE_MOST)
        assert world.stored() == [b"1", b"2"]

    await running(world, work)
    assert [fact.side for fact in world.told(OutageBegan)] == ["nats"]
    assert world.told(OutageEnded)[0].seconds == pytest.approx(3600, rel=0.01)
    assert world.outbox.parked.rows == {}


async def test_an_outage_of_the_bus_is_noticed_and_over_though_nothing_waits(world: World) -> None:
    async def work() -> None:
        await until(lambda: bool(world.told(BusConnected)))
        world.bus.away = True
        await until(lambda: bool(world.told(OutageBegan)))
        world.bus.away = False
        await until(lambda: bool(world.told(OutageEnded)))
        world.outbox.emit("a.b", b"1")
        await until(lambda: len(world.bus.messages) == 1)

    await running(world, work)
    assert len(world.told(BusConnected)) == 1


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


async def test_a_refused_event_holds_up_its_key_until_it_is_dead(world: World) -> None:
    world.bus.refuse["a.bad"] = "too large"

    async def work() -> None:
        world.outbox.commit(
            [
                world.outbox.draw("a.good", b"1", key="k"),
                world.outbox.draw("a.bad", b"2", key="k"),
                world.outbox.draw("a.good", b"3", key="k"),
                world.outbox.draw("a.good", b"4", key="other"),
            ]
        )
        await until(lambda: world.outbox.settled == 4)
        assert world.stored() == [b"1", b"4"]
        world.outbox.emit("a.good", b"5", key="k")
        await until(lambda: len(world.bus.messages) == 4)

    await running(world, work)
    assert world.stored() == [b"1", b"4", b"3", b"5"]
    (dead,) = world.outbox.parked.rows.values()
    assert (dead.event.payload, dead.dead, dead.attempts) == (b"2", True, 10)
    assert dead.errors == ["too large"] * 10
    assert [fact.dead for fact in world.told(Parked)] == [False] * 9 + [True]


async def test_a_dead_event_can_block_its_key_until_a_person_decides() -> None:
    world = World(MemoryOutbox(dead_blocks=True), MemoryBus())
    world.bus.refuse["a.bad"] = "too large"
    world.outbox.emit("a.bad", b"1", key="k")
    world.outbox.emit("a.good", b"2", key="k")

    async def work() -> None:
        await until(lambda: any(fact.dead for fact in world.told(Parked)))
        world.outbox.emit("a.good", b"3", key="k")
        await anyio.sleep(600)
        assert world.stored() == []
        world.bus.refuse.clear()
        world.outbox.parked.retry(next(iter(world.outbox.parked.rows)))
        await until(lambda: len(world.bus.messages) == 3)

    await running(world, work)
    assert world.stored() == [b"1", b"2", b"3"]
    first = world.bus.messages[0]
    assert first.message_id == f"relay-{first.event_id}-1"
    assert world.outbox.parked.rows == {}


async def test_a_stream_that_takes_nothing_holds_up_its_events_alone_and_costs_no_attempt(
    world: World,
) -> None:
    world.bus.hold["a.full"] = Held("stream FULL", "maximum messages exceeded", 10077)

    async def work() -> None:
        for number in range(50):
            world.outbox.emit("a.full", b"full %d" % number, key=f"k{number % 3}")
            world.outbox.emit("a.good", b"good %d" % number, key="other")
            await anyio.sleep(0.1)
        await until(lambda: len(world.bus.messages) == 50)
        await anyio.sleep(3600)
        assert [row.attempts for row in world.outbox.parked.rows.values()] == [0] * 50
        world.bus.hold.clear()
        began = anyio.current_time()
        await until(lambda: len(world.bus.messages) == 100)
        assert anyio.current_time() - began < 2

    await running(world, work)
    for key in range(3):
        mine = [m.payload for m in world.bus.messages if m.key == f"k{key}"]
        assert mine == [b"full %d" % number for number in range(key, 50, 3)]
    assert world.told(Parked) == []
    assert [fact.by for fact in world.told(HoldBegan)] == ["stream FULL"]
    assert [fact.seconds for fact in world.told(HoldEnded)] == [pytest.approx(3605, abs=3)]


async def test_the_only_stream_is_waited_for_with_the_page_in_hand(world: World) -> None:
    world.bus.hold["a.b"] = Held("stream ONLY", "full", 10077)
    world.bus.sole_hold = "stream ONLY"
    world.outbox.emit("a.b", b"1", key="k")

    async def work() -> None:
        await anyio.sleep(3600)
        assert world.outbox.parked.rows == {}
        world.bus.hold.clear()
        await until(lambda: len(world.bus.messages) == 1)

    await running(world, work)
    assert world.told(Retried) == []
    assert len(world.told(HoldBegan)) == len(world.told(HoldEnded)) == 1


async def test_the_only_stream_is_asked_again_though_a_parked_event_met_its_outage_too(
    world: World,
) -> None:
    world.bus.sole_hold = "stream ONLY"
    world.bus.refuse["a.b"] = "too large"
    world.outbox.emit("a.b", b"1", key="k")

    async def work() -> None:
        await until(lambda: bool(world.told(Parked)))
        world.bus.refuse.clear()
        world.bus.hold["a.b"] = Held("stream ONLY", "full", 10077)
        await until(lambda: bool(world.told(HoldBegan)))
        world.outbox.emit("a.b", b"2", key="other")
        await anyio.sleep(60)
        world.bus.hold.clear()
        began = anyio.current_time()
        await until(lambda: len(world.bus.messages) == 2)
        assert anyio.current_time() - began < 2

    await running(world, work)


async def test_an_error_that_nobody_knows_stops_its_event_but_not_the_others(world: World) -> None:
    answer = world.bus.answer

    def puzzle(event: Event) -> Outcome:
        return Unknown("what?", 99999) if event.subject == "a.odd" else answer(event)

    world.bus.answer = puzzle  # type: ignore[method-assign]

    async def work() -> None:
        world.outbox.emit("a.odd", b"1", key="k")
        world.outbox.emit("a.b", b"2", key="other")
        await until(lambda: world.outbox.settled == 2)
        world.outbox.emit("a.b", b"3", key="other")
        await until(lambda: len(world.bus.messages) == 2)
        world.bus.answer = answer  # type: ignore[method-assign]
        await until(lambda: len(world.bus.messages) == 3)

    await running(world, work)
    assert world.told(Parked) == []


async def test_the_bus_breaker_opens_after_three_outages_and_closes_with_the_first_answer(
    world: World,
) -> None:
    async def work() -> None:
        await until(lambda: bool(world.told(BacklogSeen)))
        world.bus.away = True
        world.outbox.emit("a.b", b"1")
        await until(lambda: bool(world.told(BreakerChanged)))
        await anyio.sleep(10)
        assert world.outbox.reported is not None
        assert world.outbox.reported.bus_breaker != State.CLOSED
        world.bus.away = False
        await until(lambda: len(world.bus.messages) == 1)
        await anyio.sleep(2)
        assert world.outbox.reported.bus_breaker == State.CLOSED

    await running(world, work)
    states = world.states_of("bus")
    assert states[0] is State.OPEN
    assert states[-1] is State.CLOSED
    assert set(states[1:-1:2]) == {State.HALF_OPEN}


async def test_the_lag_breaker_opens_over_its_limit_and_closes_on_recovery(world: World) -> None:
    async def work() -> None:
        world.bus.away = True
        old = datetime.now(UTC) - timedelta(seconds=6)
        world.outbox.commit([world.outbox.draw("a.b", b"1")._replace(created_at=old)])
        await until(lambda: any(f.breaker == "lag" for f in world.told(BreakerChanged)))
        world.bus.away = False
        await until(lambda: len(world.bus.messages) == 1)
        await anyio.sleep(3)

    await running(world, work)
    assert world.states_of("lag") == [State.OPEN, State.CLOSED]


class Hesitant(MemoryBus):
    """Answers Unknown for every event at first, and each time for one fewer."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[list[bytes]] = []

    async def publish(
        self, events: Sequence[Event], permit: Permit, *, closed: Collection[str] = ()
    ) -> Sequence[Outcome]:
        await self.connect()
        self.calls.append([event.payload for event in events])
        sure = len(self.calls) - 1
        outcomes: list[Outcome] = list(await super().publish(events[:sure], permit, closed=closed))
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
    assert world.states_of("bus")[-1] is State.CLOSED


async def test_a_page_s_figures_are_its_own_though_settlements_are_merged() -> None:
    world = World(MemoryOutbox(), MemoryBus())

    async def work() -> None:
        for number in range(1000):
            world.outbox.emit("a.b", b"%d" % number)
        await until(lambda: world.outbox.settled == 1000)

    await running(world, work)
    assert len(world.told(PageDelivered)) > 1
    assert sum(fact.delivered for fact in world.told(PageDelivered)) == 1000


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


def test_refused_and_stored_are_values_that_compare() -> None:
    assert Refused("a", 1) == Refused("a", 1)
    assert Stored("S", 1, duplicate=True) != Stored("S", 1, duplicate=False)
