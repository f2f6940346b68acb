"""The loop's own pulse: it turns as long as this task gets its turn.

A loop that is stuck answers no probe at all; one that was stuck says so to the first one that
asks. Whoever restarts on that restarts for a reason: no outage ever stops the pulse.
"""

import time
from collections.abc import Callable
from typing import Final

import anyio

BEAT_EVERY: Final = 0.5
STALE_AFTER: Final = 5.0
"""Seconds without a turn after which a restart is the better bet."""


class Heartbeat:
    """Beats while the loop turns."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        """Begin with a beat, on the clock ``now``."""
        self._now = now
        self._beaten = now()

    @property
    def age(self) -> float:
        """Seconds since the last beat."""
        return self._now() - self._beaten

    @property
    def alive(self) -> bool:
        """Whether the loop has turned lately."""
        return self.age < STALE_AFTER

    async def run(self, also: Callable[[], None], every: float = BEAT_EVERY) -> None:
        """Beat, and call ``also``, ``every`` s until cancelled."""
        while True:
            self._beaten = self._now()
            also()
            await anyio.sleep(every)
