"""What the bell's caller sleeps on: a ring that may come before the sleep or in it, or a time."""

import asyncio

from relay.ports import Wake


class Ring:
    """Rung by ``ring``; one task sleeps. A ring that comes before the sleep ends it at once.

    Attributes:
        is_rung: whether the next sleep ends at once.
    """

    def __init__(self) -> None:
        """Begin silent."""
        self.is_rung = False
        self._cause = Wake.POLL
        self._sleeper: asyncio.Future[None] | None = None

    def ring(self, cause: Wake) -> None:
        """Wake the caller, now or at its next sleep; ``START`` outlasts what rings behind it."""
        if self._cause is not Wake.START:  # which says that nobody rings any more
            self._cause = cause
        self.is_rung = True
        self._wake()

    def forget(self) -> None:
        """Take back what rang before now."""
        self.is_rung, self._cause = False, Wake.POLL

    async def sleep(self, seconds: float) -> Wake:
        """Sleep until rung, or for ``seconds``; return why it ended.

        The timer is the loop's own: a cancel scope asks the clock again when its timer fires, and
        where that has whole milliseconds (uvloop) turns the loop up to 300 times until they agree.
        """
        if self.is_rung:
            await asyncio.sleep(0)
        else:
            loop = asyncio.get_running_loop()
            self._sleeper = loop.create_future()
            timer = loop.call_later(seconds, self._wake)
            try:
                await self._sleeper
            finally:
                timer.cancel()
                self._sleeper = None
        cause = self._cause
        self.forget()
        return cause

    def _wake(self) -> None:
        if self._sleeper is not None and not self._sleeper.done():
            self._sleeper.set_result(None)
