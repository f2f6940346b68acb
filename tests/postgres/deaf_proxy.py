"""A proxy that takes LISTEN and delivers nothing, as a transaction pooler does.

It passes the protocol through message by message and drops every NotificationResponse.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
import anyio.abc
from anyio.streams.buffered import BufferedByteReceiveStream
from psycopg.conninfo import conninfo_to_dict, make_conninfo

NOTIFICATION = b"A"

Serve = Callable[[anyio.abc.SocketStream], Awaitable[None]]


@asynccontextmanager
async def deaf_proxy(dsn: str) -> AsyncIterator[str]:
    """Listen on loopback in front of ``dsn``'s server; yield the way through it."""
    server = conninfo_to_dict(dsn)

    async def serve(client: anyio.abc.SocketStream) -> None:
        async with (
            client,
            await anyio.connect_tcp(str(server["host"]), int(str(server["port"]))) as upstream,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(_copy, client, upstream, tasks.cancel_scope)
            tasks.start_soon(_filter, upstream, client, tasks.cancel_scope)

    async with in_front(dsn, serve) as through:
        yield through


@asynccontextmanager
async def in_front(dsn: str, serve: Serve) -> AsyncIterator[str]:
    """Have ``serve`` take connections on loopback; yield ``dsn`` with its port."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        yield make_conninfo(dsn, port=port, sslmode="disable", gssencmode="disable")
        tasks.cancel_scope.cancel()


async def _copy(
    source: anyio.abc.ByteReceiveStream,
    target: anyio.abc.ByteSendStream,
    connection: anyio.CancelScope,
) -> None:
    try:
        async for data in source:
            await target.send(data)
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        pass
    connection.cancel()


async def _filter(
    source: anyio.abc.ByteReceiveStream,
    target: anyio.abc.ByteSendStream,
    connection: anyio.CancelScope,
) -> None:
    buffered = BufferedByteReceiveStream(source)
    try:
        while True:
            head = await buffered.receive_exactly(5)
            body = await buffered.receive_exactly(int.from_bytes(head[1:]) - 4)
            if head[:1] != NOTIFICATION:
                await target.send(head + body)
    except (anyio.IncompleteRead, anyio.BrokenResourceError, anyio.ClosedResourceError):
        connection.cancel()
