"""What every wake-up source keeps."""

from typing import Protocol

import anyio
import pytest

from relay.ports import Wake, WakeSource

pytestmark = pytest.mark.anyio


class WakeHarness(Protocol):
    """One running source, and a way to commit an event."""

    source: WakeSource

    async def commit(self) -> None:
        """Commit one event."""
        ...


async def armed(source: WakeSource) -> None:
    """Arm, once the source works."""
    with anyio.fail_after(10):
        while await source.arm() is None:
            await anyio.sleep(0.01)


class WakeContract:
    """Subclass it with a fixture ``harness``. R-FIRST."""

    async def test_a_commit_while_waiting_wakes(self, harness: WakeHarness) -> None:
        await armed(harness.source)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(harness.commit)
            with anyio.fail_after(10):
                assert await harness.source.wait(60) is Wake.BELL

    async def test_a_ring_between_arming_and_waiting_is_kept(self, harness: WakeHarness) -> None:
        await armed(harness.source)
        await harness.commit()
        with anyio.fail_after(10):
            assert await harness.source.wait(60) is Wake.BELL

    async def test_silence_ends_with_the_poll(self, harness: WakeHarness) -> None:
        await armed(harness.source)
        assert await harness.source.wait(0.02) is Wake.POLL

    async def test_it_can_be_armed_again_after_being_disarmed(self, harness: WakeHarness) -> None:
        for _ in range(20):
            await armed(harness.source)
            await harness.commit()
            with anyio.fail_after(10):
                assert await harness.source.wait(60) is Wake.BELL
            harness.source.disarm()

    async def test_arming_twice_says_the_same(self, harness: WakeHarness) -> None:
        await armed(harness.source)
        first = await harness.source.arm()
        await harness.commit()
        assert await harness.source.arm() == first

    async def test_every_commit_while_armed_wakes(self, harness: WakeHarness) -> None:
        await armed(harness.source)
        for _ in range(20):
            await harness.commit()
            with anyio.fail_after(10):
                assert await harness.source.wait(60) is Wake.BELL
