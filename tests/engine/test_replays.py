"""What is replayed: in order with the live events of its key, and dead by its first refusal."""
# R-ORDER, R-FATE

import anyio
import pytest

from relay.facts import Parked
from tests.engine.world import World, running, until

pytestmark = pytest.mark.anyio


async def test_live_events_of_a_key_come_behind_its_replayed_ones_and_those_of_others_at_once(
    world: World,
) -> None:
    outbox = world.outbox

    async def work() -> None:
        world.bus.refuse["a.bad"] = "so that the relay looks at the parked"
        outbox.emit("a.bad", b"bad")
        ids = [outbox.emit("a.b", b"%d" % number, key="k") for number in range(3)]
        await until(lambda: outbox.settled == 4)
        outbox.replay(ids)
        outbox.emit("a.b", b"live", key="k")
        outbox.emit("a.b", b"other", key="other")
        await until(lambda: len(world.stored()) == 8)

    await running(world, work)
    of_key = [each for each in world.stored() if each != b"other"]
    assert of_key == [b"0", b"1", b"2", b"0", b"1", b"2", b"live"]


async def test_a_refused_replay_is_dead_at_once_so_that_live_events_do_not_wait_for_it(
    world: World,
) -> None:
    outbox = world.outbox

    async def work() -> None:
        event_id = outbox.emit("a.bad", b"once stored", key="k")
        await until(lambda: outbox.settled == 1)
        world.bus.refuse["a.bad"] = "too large"
        outbox.replay([event_id])
        await until(lambda: outbox.parked.rows[event_id].dead)
        began = anyio.current_time()
        outbox.emit("a.good", b"live", key="k")
        await until(lambda: b"live" in world.stored())
        assert anyio.current_time() < began + 1

    await running(world, work)
    (fact,) = world.told(Parked)
    assert fact.dead
