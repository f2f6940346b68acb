"""When to read again: rung by the bell while little comes, paced while much does.

    BELL OFF ──little comes──► arm: the bell's lock is taken, N is noted
      ▲  paced reads             │
      │                          ▼
      │                        UNSURE ──a read's snapshot has xmin >= N──► SURE
      │                          read again after 1, 2, 4, ... ms           a ring is one read
      │                                                                      │
      └──── more than RING_MOST rings/s, or rings that hold producers up ────┘

R-FIRST: only a sleeping relay is rung: not one that has more to read, or waits with a page in hand.
And the bell goes off where rings hold their lock for more than two fifths of all time: up to there,
32 clients keep 0.97 of their commits behind flushes of 5 ms (bench --scenario slow-flush). A writer
that asked before the lock was taken stays silent; its transaction is below N, so it has ended, and
its events are visible, once a read's snapshot has ``xmin >= N``. Whoever comes later rings. The
order arm, read, wait is what makes the sleep safe.

Who is right: the reads. The bell only says when; if it is out of order, the pace says when, and
the poll interval is the longest sleep. Exhausted by a machine in tests/spec/bell.pml.
"""

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import anyio

from relay.core.pace import Pace
from relay.facts import FactSink, Woken
from relay.ports import Page, Wake, WakeSource

RING_MOST = 700.0
"""Rings/s above which paced reads cost less than rings do."""

RING_AGAIN = 600.0
"""Events/s below which the bell goes on again."""

BURST = 3 * RING_MOST
"""Events/s within ``pace.MEMORY`` above which the bell goes off at once."""

RING_SHARE_MOST = 0.4
"""The part of all time that rings may hold up those who ring."""

AWAKE_AFTER = 0.05
"""Seconds with a page in hand after which a ring is of no use; less is not worth an arming."""

MEAN_OVER = 1.0
"""Seconds over which the rate is averaged that decides about the bell."""

UNSURE_FIRST = 0.001
UNSURE_MOST = 0.1
"""Seconds between two reads while a silent writer may still run."""

OFF_MOST = 0.1
"""Seconds between two reads, at most, while the bell is off for what it costs the producers."""

TRY_AGAIN = 5.0
"""Seconds for which the bell stays off once rings cost the producers too much."""

ASK_AGAIN = 0.1
"""Seconds before a source that can't be armed is asked again; a source that can again rings."""

RANG_LATELY = 10.0
"""Seconds for which a source that was armed, and can't be now, is asked again and again: mostly a
disk is slow for a moment, and a commit is not to wait for the poll until rings are quick again."""


class Bell:
    """Decides, after each read, how long the reader rests. One task uses it."""

    def __init__(
        self,
        source: WakeSource,
        *,
        poll_interval: float,
        idle: Callable[[], None],
        record: FactSink,
        now: Callable[[], float] = anyio.current_time,
    ) -> None:
        """Rest at most ``poll_interval`` s; ``idle`` is called when a poll found nothing."""
        self.wakes: Counter[Wake] = Counter({Wake.START: 1})
        self._source = source
        self._poll_interval = poll_interval
        self._idle = idle
        self._record = record
        self._now = now
        self._pace = self._mean = Pace(at=now())
        self._silent_below: int | None = None
        self._sure = False
        self._unsure_pause = UNSURE_FIRST
        self._not_before = 0.0
        self._armed_until = float("-inf")

    async def rest(self, page: Page) -> None:
        """Rest after a read that returned ``page``: not at all if more is known to wait."""
        now = self._now()
        self._pace = self._pace.after(len(page.events), now)
        self._mean = self._mean.after(len(page.events), now, memory=MEAN_OVER)
        if page.full:
            self._disarm()
            return
        if not page.events and not self._pace.rate:
            self._idle()  # an empty read amid a flow is no pause of it
        if not self._worthwhile(now):
            self._disarm()
            await self._pause(min(self._poll_interval, OFF_MOST))
        elif self._silent_below is None:
            await self._arm(now)
        elif not self._sure and page.xmin < self._silent_below:
            await self._wait(min(self._unsure_pause, self._poll_interval), quiet=True)
            self._unsure_pause = min(self._unsure_pause * 2, UNSURE_MOST)
        else:
            self._sure = True
            await self._wait(self._poll_interval)

    @asynccontextmanager
    async def awake(self) -> AsyncIterator[None]:
        """Let nobody ring while the reader waits for the delivery, if that takes long.

        A delivery that is gone ends the block quietly: whoever sends to it next learns of it.
        """
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._off_soon)
            with suppress(anyio.BrokenResourceError):
                yield
            tasks.cancel_scope.cancel()

    async def _off_soon(self) -> None:
        await anyio.sleep(AWAKE_AFTER)
        self._disarm()

    def _worthwhile(self, now: float) -> bool:
        """Say whether rings are worth what they cost, at the rate at which events come."""
        rate, armed = self._mean.rate, self._silent_below is not None
        if rate > (RING_MOST if armed else RING_AGAIN) or self._pace.rate > BURST:
            return False
        if now < self._not_before:
            return False
        if not armed:
            return True
        seconds = self._source.ring_seconds
        if seconds is not None and rate * seconds <= RING_SHARE_MOST:
            return True
        self._not_before = now + (TRY_AGAIN if seconds is not None else ASK_AGAIN)
        return False

    async def _arm(self, now: float) -> None:
        """Have writers ring; then the last read comes first, so there is no rest."""
        self._silent_below = await self._source.arm()
        if self._silent_below is None:
            self._not_before = now + ASK_AGAIN
            # A source that could ring, but for somebody who holds its lock just now, rings nobody.
            able = self._source.ring_seconds is not None
            soon = able or now < self._armed_until + RANG_LATELY
            await self._pause(min(self._poll_interval, OFF_MOST) if soon else self._poll_interval)
            return
        self._sure = False
        self._unsure_pause = UNSURE_FIRST

    async def _pause(self, most: float) -> None:
        """Wait as the pace says, at most for ``most`` s, or for a wake source that works again."""
        pause = self._pace.pause(most)
        await self._wait(pause, quiet=pause < self._poll_interval)

    async def _wait(self, seconds: float, *, quiet: bool = False) -> None:
        cause = await self._source.wait(seconds)
        if self._silent_below is not None:
            self._armed_until = self._now()
        if cause is Wake.START:
            self._disarm()  # mostly its sessions are new; if they are not, nobody is to ring on
            self._not_before = 0.0
        if quiet and cause is Wake.POLL:
            return
        self.wakes[cause] += 1
        self._record(Woken(cause))

    def _disarm(self) -> None:
        if self._silent_below is not None:
            self._silent_below = None
            self._source.disarm()


class PollOnly:
    """A wake-up source that never rings: only the pace and the poll are left."""

    ring_seconds: float | None = None

    async def arm(self) -> int | None:
        """Say that nobody can ring."""
        return None

    async def wait(self, timeout: float) -> Wake:  # noqa: ASYNC109 - the poll interval
        """Sleep for ``timeout`` s."""
        await anyio.sleep(timeout)
        return Wake.POLL

    def disarm(self) -> None:
        """Have nothing to do."""

    async def run(self) -> None:
        """Need nothing."""
        await anyio.sleep_forever()
