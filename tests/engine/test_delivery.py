"""The delivery over the memory models, in virtual time: outages, refusals, retries, breakers."""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta

import anyio
import pytest

from relay.core.backoff import State
from relay.core.event import Event
from relay.core.outcome import Held, Outcome, Refused, Stored, Unknown
from relay.engine.outage import PAUSE_MOST
from relay.facts import (
    BacklogSeen,
    BreakerChanged,
    BusConnected,
    HoldBegan,
    HoldEnded,
    OutageBegan,
    OutageEnded,
    PageDelivered,
    Parked,
    Retried,
)
from relay.memory import MemoryBus, MemoryOutbox
from relay.ports import Permit
from tests.engine.world import World, running, until

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


@pytest.mark.slow
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


async def test_a_page_s_figures_are_its_own_though_settlements_are_merged() -> None:
    world = World(MemoryOutbox(), MemoryBus())

    async def work() -> None:
        for number in range(1000):
            world.outbox.emit("a.b", b"%d" % number)
        await until(lambda: world.outbox.settled == 1000)

    await running(world, work)
    assert len(world.told(PageDelivered)) > 1
    assert sum(fact.delivered for fact in world.told(PageDelivered)) == 1000


def test_refused_and_stored_are_values_that_compare() -> None:
    assert Refused("a", 1) == Refused("a", 1)
    assert Stored("S", 1, duplicate=True) != Stored("S", 1, duplicate=False)
