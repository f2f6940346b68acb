"""uvicorn on the relay's own loop, kept from everything that is the relay's: signals, logs, time.

Connections are bounded in number, and each has to ask for something soon, so that whoever opens
many takes no file descriptor that delivery needs. It ends at once when told to: who watches is not
waited for.
"""

import asyncio
import logging
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import anyio
from starlette.types import ASGIApp
from uvicorn import Config, Server
from uvicorn.protocols.http.h11_impl import H11Protocol

MOST_CONNECTIONS: Final = 100
_ASK_WITHIN: Final = 10.0
_END_WITHIN: Final = 1.0


class _Bounded(H11Protocol):
    """One connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take it in, or not."""
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()
        else:
            self.loop.call_later(_ASK_WITHIN, self._has_to_have_asked)

    def _has_to_have_asked(self) -> None:
        if self.cycle is None:
            self.transport.abort()


class _Quiet(Server):
    """A server that leaves the process's signals to who owns them."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


async def serve(app: ASGIApp, sockets: Sequence[socket.socket]) -> None:
    """Answer on ``sockets`` until cancelled, and close them."""
    # What it logs is either of no use here or told by us.
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    config = Config(
        app,
        http=_Bounded,
        ws="none",
        lifespan="off",
        loop="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=1,
    )
    server = _Quiet(config)
    try:
        await server.serve(sockets=list(sockets))
    finally:
        for listener in getattr(server, "servers", ()):
            listener.close()
        for connection in list(server.server_state.connections):
            connection.transport.abort()
        for each in sockets:
            each.close()
        if answering := server.server_state.tasks:
            with anyio.CancelScope(shield=True):
                await asyncio.wait(set(answering), timeout=_END_WITHIN)
