"""A TCP proxy on loopback that freezes on demand or after some bytes; a way to wait for a fact."""

from contextlib import asynccontextmanager

import anyio
import anyio.abc


class Proxy:
    """Passes bytes on, or stops doing so, and counts what the client sent."""

    def __init__(self, target):
        self.target = target
        self.port = 0
        self.received = 0
        self.most_received = float("inf")
        self.closed = anyio.Event()
        self.flows = anyio.Event()
        self.flows.set()

    def freeze(self):
        self.flows = anyio.Event()
        self.most_received = float("inf")

    async def handle(self, client):
        async with client:
            try:
                server = await anyio.connect_tcp("127.0.0.1", self.target)
            except OSError:
                return
            await self.pass_on(client, server)

    async def pass_on(self, client, server):
        async with server, anyio.create_task_group() as tasks:
            tasks.start_soon(self.pump, client, server, True)
            tasks.start_soon(self.pump, server, client, False)
        self.closed.set()

    async def pump(self, source, sink, counted):
        try:
            while True:
                await self.flows.wait()
                data = await source.receive()
                self.received += len(data) if counted else 0
                if self.received > self.most_received:
                    self.freeze()
                await self.flows.wait()
                await sink.send(data)
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            await sink.aclose()


@asynccontextmanager
async def proxy_to(port):
    proxy = Proxy(port)
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    proxy.port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, proxy.handle)
        yield proxy
        proxy.flows.set()
        tasks.cancel_scope.cancel()


async def until(fact, within=10.0):
    with anyio.fail_after(within):
        while not await fact():
            await anyio.sleep(0.005)
