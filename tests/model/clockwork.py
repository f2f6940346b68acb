"""A trio run in virtual time that a synchronous caller winds on, step by step.

    do(work) ──► the run goes on until ``work`` has returned ──► it stands still, time and all

Between two steps the run's main task asks for work again and again, so the clock never finds
everybody asleep and never jumps. While ``work`` sleeps it does. Nothing here depends on real time,
and Hypothesis seeds trio's scheduler: the same steps do the same thing again.
"""

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import trio
from trio.testing import MockClock


class Clockwork:
    """Winds one trio run. ``nursery`` takes what shall go on between steps."""

    nursery: trio.Nursery

    def __init__(self) -> None:
        self._ticks: deque[Callable[[], object]] = deque()
        self._work: Callable[[], Awaitable[None]] | None = None
        self._closing = False
        self._ended: Any = None
        trio.lowlevel.start_guest_run(
            self._main,
            run_sync_soon_threadsafe=self._ticks.append,
            done_callback=self._note_end,
            clock=MockClock(autojump_threshold=0),
        )

    def do(self, work: Callable[[], Awaitable[None]]) -> None:
        """Wind on until ``work`` has returned; an error of it, or of the nursery, is raised."""
        self._work = work
        while self._work is not None:
            self._tick()

    def close(self, last: Callable[[], object] = lambda: None) -> None:
        """Do ``last``, cancel what is left and end the run."""
        self._last = last
        self._closing = True
        while self._ended is None:
            self._ticks.popleft()()

    def _tick(self) -> None:
        self._ticks.popleft()()
        if self._ended is not None:
            self._ended.unwrap()
            raise RuntimeError("the run has ended by itself")

    async def _main(self) -> None:
        async with trio.open_nursery() as self.nursery:
            while not self._closing:
                if self._work is not None:
                    try:
                        await self._work()
                    finally:
                        self._work = None
                await trio.lowlevel.checkpoint()
            self._last()
            self.nursery.cancel_scope.cancel()

    def _note_end(self, outcome: Any) -> None:
        self._ended = outcome
