"""When the reader reads again once the bell is on, over a wake source that notes each question."""
# R-FIRST

import anyio
import pytest

from relay.engine.bell import OFF_MOST, RANG_LATELY, RING_AGAIN, RING_MOST, UNSURE_MOST, Bell
from relay.facts import Fact
from relay.ports import Page, Wake
from tests.contract.bus_contract import event

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
        return self._silent_below if self.ring_seconds is not None else None

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


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def fed(bell: Bell, clock: Clock, rate: int, seconds: float = 3.0) -> None:
    """Let ``bell`` rest after reads that each found one event, ``rate`` of them a second."""
    events = (event(1),)
    for _ in range(int(rate * seconds)):
        clock.now += 1 / rate
        await bell.rest(Page(events, None, full=False, xmin=20))


class Instant(Source):
    """Waits for nothing, and keeps on what it noted; ``on`` says whether writers would ring."""

    on = False

    async def arm(self) -> int | None:
        self.on = self.ring_seconds is not None
        return await super().arm()

    async def wait(self, timeout: float) -> Wake:  # noqa: ASYNC109 - the port's
        self.asked.append(timeout)
        return Wake.POLL

    def disarm(self) -> None:
        self.on = False


@pytest.mark.parametrize(
    ("rate", "ring_seconds", "on"),
    [(100, 0.0001, True), (400, 0.0009, True), (100, 0.006, False), (400, 0.0012, False)],
)
async def test_the_bell_is_on_while_rings_take_no_more_than_two_fifths_of_all_time(
    rate: int, ring_seconds: float, on: bool
) -> None:
    source, clock = Instant(10), Clock()
    source.ring_seconds = ring_seconds
    bell = Bell(source, poll_interval=POLL, idle=lambda: None, record=[].append, now=clock)
    await fed(bell, clock, rate)
    assert source.on is on


@pytest.mark.parametrize(("rate", "on"), [(500, True), (550, True), (650, False)])
async def test_a_bell_that_is_off_goes_on_again_at_the_rates_that_are_its_own(
    rate: int, on: bool
) -> None:
    source, clock = Instant(10), Clock()
    bell = Bell(source, poll_interval=POLL, idle=lambda: None, record=[].append, now=clock)
    await fed(bell, clock, 1_000)
    assert not source.on
    await fed(bell, clock, rate)
    assert source.on is on


async def test_a_source_that_can_be_armed_again_is_armed_soon() -> None:
    source, clock = Instant(10), Clock()
    source.ring_seconds = None
    bell = Bell(source, poll_interval=POLL, idle=lambda: None, record=[].append, now=clock)
    await fed(bell, clock, 100, 1.0)
    assert not source.on
    source.ring_seconds = 0.0001
    await fed(bell, clock, 100, 0.2)
    assert source.on


async def test_a_source_that_rang_until_now_is_asked_again_soon_and_not_for_ever() -> None:
    """One slow flush is enough for it: what commits meanwhile does not wait for the poll."""
    source, clock = Started(10), Clock()
    bell = Bell(source, poll_interval=POLL, idle=lambda: None, record=[].append, now=clock)
    nothing = Page((), None, full=False, xmin=20)
    for _ in range(3):
        await bell.rest(nothing)
    assert source.asked[-1] == POLL
    source.ring_seconds, source.cause = None, Wake.START
    await bell.rest(nothing)  # woken: its rings take too long
    source.cause, source.asked = Wake.POLL, []
    for _ in range(20):
        clock.now += OFF_MOST
        await bell.rest(nothing)
    waits = [seconds for seconds in source.asked if seconds is not None]
    assert len(waits) == 20
    assert max(waits) <= OFF_MOST
    clock.now += RANG_LATELY
    await bell.rest(nothing)
    await bell.rest(nothing)
    assert POLL in source.asked


class Started(Instant):
    """Returns ``cause`` from each wait."""

    cause = Wake.POLL

    async def wait(self, timeout: float) -> Wake:  # noqa: ASYNC109 - the port's
        self.asked.append(timeout)
        return self.cause


async def test_at_a_high_rate_nobody_rings_after_a_source_started_anew() -> None:
    """It says that whoever waits may arm. The reader does not, and nobody else gives it back."""
    source, clock = Started(10), Clock()
    bell = Bell(source, poll_interval=POLL, idle=lambda: None, record=[].append, now=clock)
    between = (RING_AGAIN + RING_MOST) // 2
    await fed(bell, clock, int(between), seconds=10.0)
    assert source.on
    source.cause = Wake.START
    await fed(bell, clock, int(between), seconds=0.01)
    source.cause = Wake.POLL
    await fed(bell, clock, int(between), seconds=10.0)
    assert not source.on


async def test_while_more_is_known_to_wait_nobody_rings() -> None:
    """However slowly it is read: with a full page the relay is awake, and has no use for a ring."""
    source, clock = Instant(10), Clock()
    bell = Bell(source, poll_interval=POLL, idle=lambda: None, record=[].append, now=clock)
    await fed(bell, clock, 100)
    assert source.on
    await bell.rest(Page((event(1),), None, full=True, xmin=20))
    assert not source.on


async def test_a_source_whose_lock_somebody_holds_just_now_is_asked_again_soon() -> None:
    source = Taken(10)
    bell = Bell(source, poll_interval=POLL, idle=lambda: None, record=[].append)
    await bell.rest(Page((), None, full=False, xmin=20))
    waits = [seconds for seconds in source.asked if seconds is not None]
    assert waits
    assert max(waits) <= OFF_MOST


class Taken(Instant):
    """Writers would ring, but for somebody who holds the lock."""

    async def arm(self) -> int | None:
        await super().arm()
        return None
