"""Waiting for a side that is away: said once when it begins and once when it ends."""

import asyncio
import logging
import random
import time
from contextlib import suppress

from relay.core import durations
from relay.core.backoff import Backoff

log = logging.getLogger("relay.consumer")

PAUSE_FIRST = 0.05
PAUSE_MOST = 0.5


class Outage:
    """One side's outages, of all tasks that ask it."""

    def __init__(
        self,
        side: str,
        stopping: asyncio.Event,
        *,
        began: str = "is away, waiting",
        ended: str = "is back",
    ) -> None:
        """Begin with the side there. ``stopping`` ends every wait."""
        self.lasts = False
        self._side, self._began, self._ended = side, began, ended
        self._stopping = stopping
        self._backoff = Backoff(base=PAUSE_FIRST, cap=PAUSE_MOST)
        self._since = 0.0

    async def wait(self, reason: object) -> None:
        """Say that it is away, unless that was said, and pause."""
        if not self.lasts:
            self.lasts, self._since = True, time.monotonic()
            log.warning("%s %s", self._side, self._began, extra={"reason": str(reason)})
        await pause(self._backoff.failed(random.random()), self._stopping)

    def over(self, asked: float) -> None:
        """It answered what it was asked at ``asked``, of the monotonic clock.

        What was asked before the outage may be read only after that was noticed: it proves nothing.
        """
        if self.lasts and asked <= self._since:
            return
        self._backoff.succeeded()
        if self.lasts:
            self.lasts = False
            lasted = durations.lasting(time.monotonic() - self._since)
            log.warning("%s %s after %s", self._side, self._ended, lasted)


async def pause(seconds: float, stopping: asyncio.Event) -> None:
    """Sleep, or return soon when it is time to stop; always let others run."""
    if stopping.is_set():
        await asyncio.sleep(min(seconds, PAUSE_FIRST))
        return
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stopping.wait()
