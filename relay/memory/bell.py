"""The bell as an event."""

import anyio
from anyio.lowlevel import checkpoint

from relay.ports import Wake


class MemoryBell:
    """``relay.ports.WakeSource``: rings while armed, at no cost."""

    ring_seconds: float | None = 0.0

    def __init__(self) -> None:
        """Begin disarmed."""
        self._armed = False
        self._rung = anyio.Event()

    def ring(self) -> None:
        """Wake the relay that waits, or will."""
        if self._armed:
            self._rung.set()

    async def arm(self) -> int | None:
        """Listen from now on; no transaction is silent here."""
        await checkpoint()
        self._armed = True
        return 0

    async def wait(self, timeout: float) -> Wake:  # noqa: ASYNC109 - the poll interval
        """Sleep until rung or for ``timeout`` s."""
        with anyio.move_on_after(timeout):
            await self._rung.wait()
        if not self._rung.is_set():
            return Wake.POLL
        self._rung = anyio.Event()
        return Wake.BELL

    def disarm(self) -> None:
        """Be silent."""
        self._armed = False

    async def run(self) -> None:
        """Do nothing: there is no session to keep."""
        await anyio.sleep_forever()
