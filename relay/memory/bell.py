"""The doorbell as an event."""

import anyio
import anyio.lowlevel

from relay.ports import Wake


class MemoryBell:
    """``relay.ports.WakeSource``: rings while armed."""

    def __init__(self) -> None:
        """Begin disarmed."""
        self._rung: anyio.Event | None = None

    def ring(self) -> None:
        """Wake who waits, or will."""
        if self._rung is not None:
            self._rung.set()

    async def arm(self) -> bool:
        """Listen from now on."""
        await anyio.lowlevel.checkpoint()
        self._rung = anyio.Event()
        return True

    async def wait(self, timeout: float) -> Wake:  # noqa: ASYNC109 - the poll interval
        """Sleep until rung or for ``timeout`` s."""
        rung = self._rung or anyio.Event()
        with anyio.move_on_after(timeout):
            await rung.wait()
        return Wake.BELL if rung.is_set() else Wake.POLL

    def disarm(self) -> None:
        """Be silent."""
        self._rung = None

    async def run(self) -> None:
        """Need nothing."""
        await anyio.sleep_forever()
