"""A TCP proxy that lies: between a relay and a server, it delays, swallows, cuts and freezes.

    client ──to server──► proxy ──► server          each direction has faults of its own,
           ◄──to client──       ◄──                 for live connections and for new ones

It runs in a thread with a loop of its own, so that tests and producers may block. A frozen
direction is not read: what the peer sends goes into the kernels' buffers, which acknowledge it, and
comes out when it is thawed. So memory is bounded by a read and those buffers. ``heal`` ends every
fault but those that ended a connection.
"""

import asyncio
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Literal, Self

Direction = Literal["to server", "to client"]
BOTH: Final[tuple[Direction, ...]] = ("to server", "to client")

CHUNK_BYTES: Final = 64 << 10


@dataclass(slots=True)
class Faults:
    """What one direction suffers. ``cut_after`` counts down the bytes that still pass."""

    delay: float = 0.0
    jitter: float = 0.0
    drop: bool = False
    cut_after: int | None = None


class _Link:
    """One client's connection and the one to the server behind it."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client = client
        self.server = server

    def reset(self) -> None:
        """End both with RST: what is on its way is lost."""
        for writer in (self.client, self.server):
            sock: socket.socket | None = writer.get_extra_info("socket")
            if sock is not None and not writer.transport.is_closing():
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()


class Proxy:
    """``with Proxy("127.0.0.1", 5432) as proxy:`` listens on ``proxy.port``, of the loopback.

    Every fault counts in ``counts`` when it is switched on; ``bytes swallowed`` as they are.
    """

    def __init__(self, host: str, port: int, *, seed: int = 0, listen: str = "127.0.0.1") -> None:
        """Stand before the server at ``host``:``port``; ``seed`` draws the jitter."""
        self.port = 0
        self._listens_at = listen
        self.counts: Counter[str] = Counter()
        self._target = (host, port)
        self._chance = random.Random(seed)
        self._faults: dict[Direction, Faults] = {way: Faults() for way in BOTH}
        self._flowing: dict[Direction, asyncio.Event] = {}
        self._links: set[_Link] = set()
        self._pumps: set[asyncio.Task[None]] = set()
        self._refusing = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    # The faults.

    def delay(self, seconds: float, jitter: float = 0.0, *ways: Direction) -> None:
        """Hold every read back by ``seconds`` and up to ``jitter`` s more. Order is kept."""

        def change(faults: Faults) -> None:
            faults.delay, faults.jitter = seconds, jitter

        self._change("delay", change, ways)

    def drop(self, *ways: Direction) -> None:
        """Swallow whatever comes: acknowledged by the kernel, never delivered."""

        def change(faults: Faults) -> None:
            faults.drop = True

        self._change("drop", change, ways)

    def cut_after(self, size: int, *ways: Direction) -> None:
        """Let ``size`` more bytes pass, over all connections, then reset the one it hits."""

        def change(faults: Faults) -> None:
            faults.cut_after = size

        self._change("cut", change, ways)

    def freeze(self, *ways: Direction) -> None:
        """Accept and keep everything open, pass nothing on."""

        def act() -> None:
            for way in ways or BOTH:
                self._flowing[way].clear()

        self._do("freeze", act)

    def thaw(self) -> None:
        """End a freeze: what was held is delivered."""

        def act() -> None:
            for flowing in self._flowing.values():
                flowing.set()

        self._do("thaw", act)

    def reset(self) -> None:
        """Reset every connection there is."""
        self._do("reset", self._reset_all)

    def half_close(self, way: Direction = "to client") -> None:
        """Send FIN in one direction of every connection; the other one stays."""

        def act() -> None:
            for link in self._links:
                writer = link.client if way == "to client" else link.server
                if not writer.transport.is_closing() and writer.can_write_eof():
                    writer.write_eof()

        self._do("half-close", act)

    def refuse(self) -> None:
        """Reset every connection there is and every new one at once."""

        def act() -> None:
            self._refusing = True
            self._reset_all()

        self._do("refuse", act)

    def heal(self) -> None:
        """End every fault that lasts."""

        def act() -> None:
            self._refusing = False
            self._faults.update({way: Faults() for way in BOTH})
            for flowing in self._flowing.values():
                flowing.set()

        self._do("heal", act)

    # The loop's side.

    def _do(self, name: str, act: Callable[[], None]) -> None:
        async def done() -> None:
            act()

        self.counts[name] += 1
        asyncio.run_coroutine_threadsafe(done(), self._loop).result(10)

    def _change(self, name: str, change: Callable[[Faults], None], ways: Any) -> None:
        def act() -> None:
            for way in ways or BOTH:
                change(self._faults[way])

        self._do(name, act)

    def _reset_all(self) -> None:
        for link in list(self._links):
            link.reset()

    async def _listen(self) -> None:
        for way in BOTH:
            self._flowing[way] = asyncio.Event()
            self._flowing[way].set()
        self._server = await asyncio.start_server(self._accept, self._listens_at, 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _end(self) -> None:
        self._server.close()
        self._reset_all()
        for pump in list(self._pumps):
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            _Link(writer, writer).reset()
            return
        try:
            upstream, server = await asyncio.open_connection(*self._target)
        except OSError:
            _Link(writer, writer).reset()
            return
        link = _Link(writer, server)
        self._links.add(link)
        pumps = [
            self._loop.create_task(self._pump(link, "to server", reader, server)),
            self._loop.create_task(self._pump(link, "to client", upstream, writer)),
        ]
        self._pumps.update(pumps)
        await asyncio.wait(pumps)
        self._pumps.difference_update(pumps)
        self._links.discard(link)
        link.reset()

    async def _pump(
        self,
        link: _Link,
        way: Direction,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        """Pass bytes on in one direction until its source ends."""
        try:
            while data := await reader.read(CHUNK_BYTES):
                await self._flowing[way].wait()
                faults = self._faults[way]
                if faults.drop:
                    self.counts["bytes swallowed"] += len(data)
                    continue
                if faults.delay or faults.jitter:
                    await asyncio.sleep(faults.delay + faults.jitter * self._chance.random())
                passing = self._cut(faults, data)
                writer.write(passing)
                await writer.drain()
                if len(passing) < len(data):
                    await asyncio.sleep(0.01)  # what passed is to arrive before the reset
                    link.reset()
                    return
            await self._flowing[way].wait()
            if not writer.transport.is_closing():
                writer.write_eof()
        except (OSError, RuntimeError):
            link.reset()

    def _cut(self, faults: Faults, data: bytes) -> bytes:
        if faults.cut_after is None:
            return data
        passing = data[: faults.cut_after]
        faults.cut_after -= len(passing)
        if len(passing) < len(data):
            faults.cut_after = None
        return passing
