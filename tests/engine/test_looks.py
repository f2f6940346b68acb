"""One look at the parked takes several batches: settled while the next is published, in order."""
# R-ORDER, R-LOSS

from dataclasses import replace

import anyio
import pytest

from relay.core.outcome import Held
from relay.memory import MemoryStore
from relay.ports import Settlement
from tests.engine.world import World, running, until

pytestmark = pytest.mark.anyio

FULL = Held("stream A", "full", 10077)


def small_batches(world: World, events: int) -> None:
    world.engine._policy = replace(world.engine._policy, batch_size=events, max_batch_size=events)


async def test_a_batch_is_settled_while_the_next_one_is_published(world: World) -> None:
    small_batches(world, 10)
    world.bus.hold["a.b"] = FULL
    publish, campaign = world.bus.publish, world.outbox.campaign
    slow = False

    async def publish_slowly(*given, **more):  # type: ignore[no-untyped-def]
        await anyio.sleep(slow)
        return await publish(*given, **more)

    async def campaign_slowly(holder: str) -> MemoryStore | None:
        store = await campaign(holder)
        if store is not None:
            settle = store.settle

            async def settle_slowly(done: Settlement) -> None:
                await anyio.sleep(slow)
                await settle(done)

            store.settle = settle_slowly  # type: ignore[method-assign]
        return store

    world.bus.publish = publish_slowly  # type: ignore[method-assign]
    world.outbox.campaign = campaign_slowly  # type: ignore[method-assign]

    async def work() -> None:
        nonlocal slow
        for number in range(41):
            world.outbox.emit("a.b", b"%d" % number, key="k")
        await until(lambda: len(world.outbox.parked.rows) == 41)
        del world.bus.hold["a.b"]
        await until(lambda: len(world.bus.messages) >= 1)
        slow = True
        began = anyio.current_time()
        await until(lambda: not world.outbox.parked.rows)
        assert anyio.current_time() - began < 7.5  # one after the other: 8 s and more

    await running(world, work)
    assert world.stored() == [b"%d" % number for number in range(41)]


async def test_a_key_waits_in_later_batches_for_its_event_that_is_not_stored(world: World) -> None:
    small_batches(world, 1)
    for subject in ("a.1", "a.2", "a.3"):
        world.bus.hold[subject] = FULL

    async def work() -> None:
        for number in (1, 2, 3):
            world.outbox.emit(f"a.{number}", b"%d" % number, key="k")
        await until(lambda: len(world.outbox.parked.rows) == 3)
        world.bus.refuse["a.2"] = "no"
        world.bus.hold.clear()
        await until(lambda: len(world.bus.messages) == 1)
        await anyio.sleep(0.1)
        assert world.stored() == [b"1"]
        world.bus.refuse.clear()
        await until(lambda: not world.outbox.parked.rows)

    await running(world, work)
    assert world.stored() == [b"1", b"2", b"3"]
