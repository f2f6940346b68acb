"""One engine over the models, in virtual time."""

from collections.abc import Awaitable, Callable
from typing import Any

import anyio

from relay.core.backoff import State
from relay.engine.lead import Engine, Policy
from relay.facts import BreakerChanged, Fact
from relay.memory import MemoryBus, MemoryOutbox, MemoryStore
from relay.ports import Settlement


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
            record=self.facts.append,
            jitter=lambda: 0.999,
        )

    def told(self, kind: type[Fact]) -> list[Any]:
        return [fact for fact in self.facts if isinstance(fact, kind)]

    def states_of(self, breaker: str) -> list[State]:
        return [fact.state for fact in self.told(BreakerChanged) if fact.breaker == breaker]

    def stored(self) -> list[bytes]:
        return [message.payload for message in self.bus.messages]


async def running(world: World, work: Callable[[], Awaitable[None]]) -> None:
    """Run the engine while ``work`` runs, then stop it."""
    with anyio.fail_after(36_000):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(world.engine.run)
            await work()
            world.engine.stop()


async def until(fact: Callable[[], bool]) -> None:
    """Wait in virtual time, to a hundredth of how long it takes: each look costs real time."""
    began = anyio.current_time()
    while not fact():
        await anyio.sleep(max(0.01, (anyio.current_time() - began) / 100))


def settle_once(outbox: MemoryOutbox, may: Callable[[], bool], error: Exception) -> None:
    """Have every settlement fail by ``error`` until ``may`` says otherwise."""
    campaign = outbox.campaign

    async def campaign_for_it(holder: str) -> MemoryStore | None:
        store = await campaign(holder)
        if store is not None:
            settle = store.settle

            async def settle_if_it_may(done: Settlement) -> None:
                if not may():
                    raise error
                await settle(done)

            store.settle = settle_if_it_may  # type: ignore[method-assign]
        return store

    outbox.campaign = campaign_for_it  # type: ignore[method-assign]
