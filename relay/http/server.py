"""uvicorn on the relay's own loop, kept from everything that is the relay's: signals, logs, time.

    waiting ──a request begins──► its turn ──► answering ──► waiting
       └──────not whole in 10 s: cut             └──not over in 30 s: cut (but for /events)

Connections are bounded in number. When there is no place left, another one makes room for the
newcomer: of the address with the most connections, the one that came first. Whoever waits without
having asked goes first, then whoever has its turn coming; whoever is answered is left alone, and if
all are, the newcomer is cut. So connections that ask for nothing, for half of something, or without
a pause, keep no probe out.

Requests take turns at a bounded rate (``limits.Turns``), so that clients that ask without a pause
take no more than a few percent of the loop; parts of requests take turns of their own. It ends at
once when told to: who watches is not waited for.
"""

import asyncio
import logging
import re
import socket
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar, Final

import anyio
import h11
from starlette.types import ASGIApp
from uvicorn import Config, Server
from uvicorn.protocols.http.h11_impl import H11Protocol

from relay.http.limits import Turns

MOST_CONNECTIONS: Final = 100
MOST_HEAD_BYTES: Final = 16_384
TURNS_A_SECOND: Final = 200.0
TURNS_AT_ONCE: Final = 50
ASK_WITHIN: Final = 10.0
ANSWER_WITHIN: Final = 30.0
_LASTING: Final = "/events"
"""What answers for as long as it is watched; it bounds itself."""

_ANSWERED: Final = 2
_END_OF_HEAD: Final = re.compile(rb"\n\r?\n")
_END_WITHIN: Final = 1.0


class _Bounded(H11Protocol):
    """One connection."""

    places: "ClassVar[_Places]"

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a place, and expect a request."""
        super().connection_made(transport)
        self._deadline: asyncio.TimerHandle | None = None
        self._turn: asyncio.TimerHandle | None = None
        self._whole = False
        self._expect(ASK_WITHIN)
        self.places.enter(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Give the place back."""
        super().connection_lost(exc)
        self.places.leave(self)
        for timer in (self._deadline, self._turn):
            if timer is not None:
                timer.cancel()

    @property
    def address(self) -> str:
        """Who asks."""
        return self.client[0] if self.client else ""

    @property
    def claim(self) -> int:
        """How good its claim to its place is: 2 is answered, 1 has asked, 0 has not."""
        if self.cycle is not None and not self.cycle.response_complete:
            return _ANSWERED
        return int(self._turn is not None and self._whole)

    def data_received(self, data: bytes) -> None:
        """Take what was sent; before its turn has come, only keep it."""
        if self._turn is None:
            super().data_received(data)
        else:
            self.conn.receive_data(data)

    def handle_events(self) -> None:
        """Go on with the request; the beginning of one waits for its turn."""
        if self._turn is not None:
            return
        if self.conn.their_state is h11.IDLE:
            self._whole = _END_OF_HEAD.search(self.conn.trailing_data[0]) is not None
            seconds = (self.places.turns if self._whole else self.places.parts).take()
            if seconds > 0:
                self.flow.pause_reading()
                self._turn = self.loop.call_later(seconds, self._have_turn)
                return
        self._go_on()

    def on_response_complete(self) -> None:
        """Expect the next request."""
        if not self.transport.is_closing():
            self._expect(ASK_WITHIN)
        super().on_response_complete()

    def _have_turn(self) -> None:
        self._turn = None
        if not self.transport.is_closing():
            self.flow.resume_reading()
            self._go_on()

    def _go_on(self) -> None:
        super().handle_events()
        asked = self.cycle is not None and not self.cycle.response_complete
        if asked and not self.cycle.more_body:
            self._expect(None if self.scope["path"] == _LASTING else ANSWER_WITHIN)

    def _expect(self, within: float | None) -> None:
        """Cut the connection unless the next step is made within so many seconds."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None
        if within is not None:
            self._deadline = self.loop.call_later(within, self.transport.abort)


class _Places:
    """The connections of one server, the oldest first."""

    def __init__(self) -> None:
        self.turns = Turns(TURNS_A_SECOND, TURNS_AT_ONCE)
        self.parts = Turns(TURNS_A_SECOND, MOST_CONNECTIONS)
        self._taken: dict[_Bounded, None] = {}

    def enter(self, newcomer: _Bounded) -> None:
        """Give it a place, if need be the one of another; else cut it."""
        self._taken[newcomer] = None
        if len(self._taken) <= MOST_CONNECTIONS:
            return
        crowds = Counter(each.address for each in self._taken)
        del self._taken[newcomer]
        others = [each for each in self._taken if each.claim < _ANSWERED]
        # Of equals, min and max take the first, which came first.
        leaving = min(
            others, key=lambda each: (each.claim, -crowds[each.address]), default=newcomer
        )
        self._taken[newcomer] = None
        self.leave(leaving)
        leaving.transport.abort()

    def leave(self, one: _Bounded) -> None:
        """Free its place."""
        self._taken.pop(one, None)


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
        http=type("_Connection", (_Bounded,), {"places": _Places()}),
        ws="none",
        lifespan="off",
        loop="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=1,
        h11_max_incomplete_event_size=MOST_HEAD_BYTES,
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
