"""The bell's own turns, with a listener whose answers come when the test says."""
# R-FIRST

from typing import Any

import anyio
import pytest

from relay.ports import Wake
from relay.postgres import bell
from relay.postgres.bell import PostgresBell
from relay.postgres.outbox import PostgresOutbox

pytestmark = pytest.mark.anyio

NEXT_XID = 10


class Listener:
    """A session that knows whether it holds the lock; unlocking waits for ``gate``."""

    def __init__(self) -> None:
        self.locked = False
        self.gate = anyio.Event()
        self.unlocking = anyio.Event()

    async def row(
        self, query: Any, params: Any = None, *, deadline: float = 0.0
    ) -> tuple[Any, ...]:
        del deadline
        if query is bell._UNLOCK:
            self.unlocking.set()
            await self.gate.wait()
            self.locked = False
            return (None,)
        if params is not None:
            self.locked = True
            return (True,)
        return (str(NEXT_XID), NEXT_XID - 3)


class CheapRings:
    seconds = 0.001


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest.fixture
def source(listener: Listener) -> PostgresBell:
    """A bell whose listener works and whose rings are cheap."""
    source = PostgresBell(PostgresOutbox("", "relay", page_bytes=1))
    source._listener = listener  # type: ignore[assignment]
    source._enabled = True
    source._trial = CheapRings()  # type: ignore[assignment]
    return source


@pytest.mark.parametrize("rings", [[Wake.BELL], [], [Wake.BELL, Wake.BELL]])
@pytest.mark.parametrize("after", [[], [Wake.BELL]])
async def test_a_ring_does_not_hide_that_the_sessions_are_new(
    source: PostgresBell, rings: list[Wake], after: list[Wake]
) -> None:
    for cause in [*rings, Wake.START, *after]:
        source._ring.ring(cause)
    assert await source.wait(1) is Wake.START


async def test_arming_while_the_lock_is_given_back_takes_it_anew(
    source: PostgresBell, listener: Listener
) -> None:
    async with anyio.create_task_group() as tasks:
        source._tasks = tasks
        assert await source.arm() is not None
        source.disarm()
        await listener.unlocking.wait()

        async def arm() -> None:
            assert await source.arm() is not None
            assert listener.locked

        tasks.start_soon(arm)
        await anyio.wait_all_tasks_blocked()
        listener.gate.set()


async def test_arming_before_the_lock_is_given_back_keeps_it(
    source: PostgresBell, listener: Listener
) -> None:
    async with anyio.create_task_group() as tasks:
        source._tasks = tasks
        first = await source.arm()
        source.disarm()
        assert await source.arm() == first
        await anyio.wait_all_tasks_blocked()
        assert listener.locked


async def test_a_bell_that_can_t_ring_lets_writers_be_silent_though_nobody_waits_for_it(
    source: PostgresBell, listener: Listener
) -> None:
    """The reader may wait for a page to go: until it asks again, the lock would hold up writers."""
    listener.gate.set()
    async with anyio.create_task_group() as tasks:
        source._tasks = tasks
        assert await source.arm() is not None
        source._cant_ring()
        with anyio.fail_after(1):
            while listener.locked:
                await anyio.sleep(0.001)
        assert await source.wait(0) is Wake.START
        assert await source.arm() is not None
        assert listener.locked
