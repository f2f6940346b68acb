"""When the reader reads again once the bell is on, over a wake source that notes each question."""
# R-FIRST

import anyio
import pytest

from relay.engine.bell import UNSURE_MOST, Bell
from relay.facts import Fact
from relay.ports import Page, Wake

pytestmark = pytest.mark.anyio

POLL = 60.0


class Source:
    """Nobody rings; it notes what it is asked, in order: None for ``arm``, else a wait's s."""

    ring_seconds: float | None = 0.0

    def __init__(self, silent_below: int) -> None:
        self.asked: list[float | None] = []
        self._silent_below = silent_below

    async def arm(self) -> int | None:
        self.asked.append(None)
        return self._silent_below

    async def wait(self, timeout: float) -> Wake:  # noqa: ASYNC109 - the port's
        self.asked.append(timeout)
        await anyio.sleep(timeout)
        return Wake.POLL

    def disarm(self) -> None:
        self.asked.clear()

    async def run(self) -> None:
        await anyio.sleep_forever()


def bell_of(source: Source) -> Bell:
    facts: list[Fact] = []
    return Bell(source, poll_interval=POLL, idle=lambda: None, record=facts.append)


async def test_once_the_bell_is_on_a_last_read_comes_before_any_wait() -> None:
    source = Source(10)
    await bell_of(source).rest(Page((), None, full=False, xmin=20))
    assert source.asked == [None]


@pytest.mark.parametrize("reads", [1, 3, 12])
async def test_while_a_silent_writer_may_run_reads_follow_each_other_soon(reads: int) -> None:
    source = Source(10)
    bell = bell_of(source)
    await bell.rest(Page((), None, full=False, xmin=9))
    for _ in range(reads):
        await bell.rest(Page((), None, full=False, xmin=9))
    waits = [seconds for seconds in source.asked if seconds is not None]
    assert len(waits) == reads
    assert all(0 < seconds <= UNSURE_MOST for seconds in waits)
    assert waits == sorted(waits)
    await bell.rest(Page((), None, full=False, xmin=10))
    assert source.asked[-1] == POLL
