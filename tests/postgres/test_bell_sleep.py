"""A ring ends the sleep that it comes before or into, and says why."""

import anyio
import pytest

from relay.ports import Wake
from relay.postgres.ring import Ring

pytestmark = pytest.mark.anyio

LONG = 60.0


async def test_a_sleep_ends_by_itself() -> None:
    assert await Ring().sleep(0.001) is Wake.POLL


async def test_a_ring_before_the_sleep_ends_it_at_once_and_no_other() -> None:
    ring = Ring()
    ring.ring(Wake.BELL)
    with anyio.fail_after(10):
        assert await ring.sleep(LONG) is Wake.BELL
    assert not ring.is_rung
    assert await ring.sleep(0.001) is Wake.POLL


async def test_a_ring_ends_the_sleep_that_it_comes_into() -> None:
    ring, woken = Ring(), list[Wake]()

    async def sleep() -> None:
        woken.append(await ring.sleep(LONG))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sleep)
            await anyio.sleep(0.01)
            ring.ring(Wake.BELL)
            ring.ring(Wake.BELL)
    assert woken == [Wake.BELL]


async def test_what_rang_before_the_bell_was_armed_is_forgotten() -> None:
    ring = Ring()
    ring.ring(Wake.START)
    ring.forget()
    assert await ring.sleep(0.001) is Wake.POLL
