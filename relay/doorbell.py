"""When to read again: awake, on the brink of sleep, or asleep until rung.

    AWAKE ──nothing for LINGER──► arm the bell ──► ARMED ──last read finds nothing──► asleep
      ▲                                              │                                   │
      └───────────── events found ──────────────────┴──── rung, granted, or the poll ───┘

The order arm, read, wait is what makes the sleep safe: who committed before the bell was armed is
seen by the last read, who commits later rings. A poll that finds nothing leaves the bell armed.
Who is right: the reads. The bell only says when; if it is out of order, the poll interval is the
longest sleep.
"""

from collections import Counter
from collections.abc import Callable

import anyio

from relay.core.pacing import LINGER, REST, Pace
from relay.facts import Tell, Woken
from relay.ports import Wake, WakeSource


class Doorbell:
    """Decides, after each read, how long the reader rests. One task uses it."""

    def __init__(
        self,
        source: WakeSource,
        *,
        poll_interval: float,
        tell: Tell,
        now: Callable[[], float] = anyio.current_time,
    ) -> None:
        """Rest at most ``poll_interval`` s, and ask ``source`` to be rung earlier."""
        self._source = source
        self._poll_interval = poll_interval
        self._tell = tell
        self._now = now
        self._pace = Pace()
        self._linger_until = now() + LINGER
        self._armed = False
        self._wakes: Counter[Wake] = Counter({Wake.START: 1})

    async def after_events(self, events: int, *, full: bool) -> None:
        """Rest after a read that found ``events``: not at all if more is known to wait."""
        self._disarm()
        now = self._now()
        self._pace = self._pace.seen(events, now)
        self._linger_until = now + LINGER
        if not full:
            await anyio.sleep(self._pace.pause)

    async def after_nothing(self) -> None:
        """Rest after a read that found nothing: linger, then arm, then sleep until a wake."""
        now = self._now()
        if now < self._linger_until:
            self._pace = self._pace.seen(0, now)
            await anyio.sleep(max(REST, self._pace.pause))
            return
        if not self._armed:
            self._armed = await self._source.arm()
            if self._armed:
                return  # the last read comes first
        cause = await self._source.wait(self._poll_interval)
        self._wakes[cause] += 1
        self._tell(Woken(cause))
        if cause is not Wake.POLL:
            self._disarm()
            self._linger_until = self._now() + LINGER

    def take_wakes(self) -> dict[Wake, int]:
        """Return how often each cause woke the relay since this was asked last."""
        wakes, self._wakes = dict(self._wakes), Counter()
        return wakes

    def _disarm(self) -> None:
        if self._armed:
            self._armed = False
            self._source.disarm()


class PollOnly:
    """A wake-up source that never rings: only the poll is left."""

    async def arm(self) -> bool:
        """Say that nobody can ring."""
        return False

    async def wait(self, timeout: float) -> Wake:  # noqa: ASYNC109 - the poll interval
        """Sleep for ``timeout`` s."""
        await anyio.sleep(timeout)
        return Wake.POLL

    def disarm(self) -> None:
        """Have nothing to do."""

    async def run(self) -> None:
        """Need nothing."""
        await anyio.sleep_forever()
