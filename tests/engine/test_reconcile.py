"""Going back to what the stream still holds, over the models, in virtual time."""

from collections.abc import Collection, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from relay.checkpoints import Before
from relay.core.checkpoint import Checkpoint, Setback
from relay.engine.lead import Engine, Policy
from relay.engine.reconcile import Reconciliation
from relay.errors import StoreBusy
from relay.facts import Repaired, RepairEnded, StreamLost, TermBegan
from relay.ports import Page
from tests.engine.world import World, running, settle_once, until

pytestmark = pytest.mark.anyio


def emit(world: World, count: int, key: str | None = "k") -> None:
    for _ in range(count):
        world.outbox.emit("a", b"%d" % len(world.outbox.events), key=key)


def begin_with(world: World, **policy: Any) -> None:
    """Give ``world`` another engine."""
    world.engine = Engine(
        world.outbox, world.bus, world.outbox.bell, holder="one",
        policy=Policy(poll_interval=60.0, **policy), record=world.facts.append,
    )  # fmt: skip


async def lose(world: World, count: int) -> None:
    """Take the broker away for a moment; it comes back without its newest messages."""
    world.bus.away = True
    await anyio.sleep(2)
    world.bus.lose(count)
    world.bus.away = False


async def test_what_a_stream_lost_is_published_again_before_anything_new(world: World) -> None:
    # R-LOSS, R-ORDER
    async def work() -> None:
        emit(world, 10)
        await until(lambda: world.outbox.settled == 10)
        await lose(world, 4)
        emit(world, 3)
        await until(lambda: len(world.stored()) == 13)

    await running(world, work)
    assert world.stored() == [b"%d" % number for number in range(13)]
    (lost,) = world.told(StreamLost)
    assert lost.repairing
    assert sum(fact.events for fact in world.told(Repaired)) >= 4
    assert len(world.told(RepairEnded)) == 1


@pytest.mark.parametrize("events", [41, 40], ids=["", "which is exactly full"])
async def test_a_repair_lasts_until_its_last_page(world: World, events: int) -> None:
    # R-LOSS: what is read in between has still to be looked at
    begin_with(world, batch_size=2, max_batch_size=2)

    async def work() -> None:
        emit(world, events)
        await until(lambda: world.outbox.settled == events)
        await lose(world, 30)
        await until(lambda: len(world.stored()) == events)
        await until(lambda: bool(world.told(RepairEnded)))

    await running(world, work)
    assert world.stored() == [b"%d" % number for number in range(events)]
    (ended,) = world.told(RepairEnded)
    assert ended.events >= 30


async def test_what_the_stream_still_holds_is_not_published_again(world: World) -> None:
    # R-ONCE, though the stream remembers no message id at all
    world.bus.window = 0

    async def work() -> None:
        for _ in range(5):
            emit(world, 2)
            await until(lambda: world.outbox.settled == len(world.outbox.events))
        await lose(world, 3)
        await until(lambda: len(world.stored()) == 10)
        await anyio.sleep(60)

    await running(world, work)
    assert world.stored() == [b"%d" % number for number in range(10)]


async def test_what_was_stored_and_never_settled_is_not_published_again(world: World) -> None:
    # R-ONCE: the relay before died between the acknowledgement and its settlement
    world.bus.window = 0

    async def first() -> None:
        emit(world, 5)
        await until(lambda: world.outbox.settled == 5)

    await running(world, first)
    emit(world, 4)
    for event in world.outbox.events[5:]:
        world.bus.store(event)
    successor = World(world.outbox, world.bus, "two")
    await running(successor, lambda: until(lambda: world.outbox.settled == 9))
    assert world.stored() == [b"%d" % number for number in range(9)]


async def test_a_relay_that_dies_before_its_first_settlement_repeats_nothing(world: World) -> None:
    # R-ONCE: from nothing settled nobody knows where to look for what it stored
    world.bus.window = 0
    may = False
    settle_once(world.outbox, lambda: may, StoreBusy("somebody holds a lock"))
    emit(world, 5)
    with anyio.move_on_after(1):
        await world.engine.run()
    may = True
    successor = World(world.outbox, world.bus, "two")
    await running(successor, lambda: until(lambda: world.outbox.settled == 5))
    assert world.stored() == [b"%d" % number for number in range(5)]


async def test_a_relay_that_dies_in_the_middle_of_a_repair_is_followed_by_one_that_ends_it(
    world: World,
) -> None:
    # R-LOSS
    begin_with(world, batch_size=2, max_batch_size=2)

    async def work() -> None:
        emit(world, 40)
        await until(lambda: world.outbox.settled == 40)
        await lose(world, 30)
        with anyio.CancelScope() as life:
            async with anyio.create_task_group() as tasks:

                async def die() -> None:
                    await until(lambda: len(world.stored()) >= 15)
                    life.cancel()

                tasks.start_soon(die)
                await anyio.sleep_forever()

    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(world.engine.run)
            await work()
            scope.cancel()
    successor = World(world.outbox, world.bus, "two")
    await running(successor, lambda: until(lambda: len(world.stored()) == 40))
    assert world.stored() == [b"%d" % number for number in range(40)]


async def test_an_outage_in_the_middle_of_a_repair_is_waited_out(world: World) -> None:
    # R-LOSS
    held = world.bus.reconciling.held

    async def look(stream: str, ring: list[Checkpoint]) -> Checkpoint:
        world.bus.reconciling.held = held  # type: ignore[method-assign]
        await lose(world, 2)
        return await held(stream, ring)

    world.bus.reconciling.held = look  # type: ignore[method-assign, assignment]

    async def work() -> None:
        emit(world, 10)
        await until(lambda: world.outbox.settled == 10)
        await lose(world, 2)
        await until(lambda: len(world.stored()) == 10)

    await running(world, work)
    assert world.stored() == [b"%d" % number for number in range(10)]


async def test_a_loss_is_told_though_the_term_ends_while_it_goes_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    # R-LOSS: the next term finds the repair under way, and tells nobody what is gone
    rewind = world.outbox.checkpoints.rewind

    async def slowly(held: Mapping[str, Checkpoint]) -> Sequence[Setback]:
        setbacks = await rewind(held)
        await anyio.sleep(60)  # a look at the backlog finds meanwhile that the term is over
        return setbacks

    monkeypatch.setattr(world.outbox.checkpoints, "rewind", slowly)

    async def work() -> None:
        emit(world, 10)
        await until(lambda: world.outbox.settled == 10)
        await lose(world, 4)
        await until(lambda: len(world.stored()) == 10)

    await running(world, work)
    assert len(world.told(StreamLost)) == 1


async def test_what_is_parked_in_a_repair_is_still_to_be_sent(world: World) -> None:
    # R-LOSS: a look at the parked comes between the pages of a repair
    emit(world, 3)
    parked, again, new = world.outbox.events
    passed: list[int] = []

    async def delivered(_: Collection[int]) -> Mapping[int, Before]:
        return {
            parked.id: Before(parked=True, stored=False),
            again.id: Before(parked=True, stored=True),
        }

    store: Any = SimpleNamespace(checkpoints=SimpleNamespace(delivered=delivered))
    bus = SimpleNamespace(reconciling=SimpleNamespace(pass_over=passed.extend))
    book: Any = SimpleNamespace(outage=SimpleNamespace(wait_out=lambda ask, _: ask()))
    link: Any = SimpleNamespace(bus=bus)
    reconciliation = Reconciliation(store, link, book, "auto", world.facts.append)
    page = Page([parked, again, new], None, full=False)
    assert await reconciliation.sift(page, anyio.Event()) == [new]
    assert passed == [again.id]


async def test_report_says_what_was_lost_once_and_goes_on(world: World) -> None:
    begin_with(world, repair="report")

    async def work() -> None:
        emit(world, 10)
        await until(lambda: world.outbox.settled == 10)
        await lose(world, 4)
        emit(world, 1)
        await until(lambda: len(world.stored()) == 7)
        world.bus.away = True
        await anyio.sleep(2)
        world.bus.away = False
        emit(world, 1)
        await until(lambda: len(world.stored()) == 8)

    await running(world, work)
    (lost,) = world.told(StreamLost)
    assert not lost.repairing


async def test_a_term_begins_without_going_back_when_nothing_happened(world: World) -> None:
    async def work() -> None:
        emit(world, 3)
        await until(lambda: world.outbox.settled == 3)

    await running(world, work)
    await running(World(world.outbox, world.bus, "two"), lambda: anyio.sleep(5))
    assert world.told(StreamLost) == []
    assert len(world.told(TermBegan)) == 1
    assert len(world.stored()) == 3
