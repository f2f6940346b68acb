"""uvicorn on the relay's own loop, with bounds on connections, requests and time.

    waiting ──a request begins──► its turn ──► answering ──► waiting
       └──────not whole in 10 s: cut             └──not over in 30 s: cut (but for /events)

    connections     at most 100              a newcomer takes the place of another
    every request   waits for its turn       125 a second, however many connections ask
    pages, metrics  have a budget            then 429, and the connection is closed

When there is no place left, one connection is cut for the newcomer: one that waits without having
asked before one that has asked, then one of the address with the most connections, then the oldest.
A connection that is being answered is left alone; if all are, the newcomer is cut. So connections
that ask for nothing, for half of something, or without a pause keep no probe out, and take no more
than a tenth of the loop. (uvicorn's own ``limit_concurrency`` would refuse the probes.)
"""

import asyncio
import logging
import re
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import ClassVar, Final, NamedTuple

import anyio
import h11
from starlette.types import ASGIApp, Scope
from uvicorn import Config, Server
from uvicorn.protocols.http.h11_impl import H11Protocol

MOST_CONNECTIONS: Final = 100
MOST_HEAD_BYTES: Final = 16_384
TURNS_A_SECOND: Final = 125.0
TURNS_AT_ONCE: Final = 50
ASK_WITHIN: Final = 10.0
ANSWER_WITHIN: Final = 30.0
_LASTING: Final = "/events"
"""Is answered for as long as it is watched, to a bounded number of watchers."""

_ANSWERED: Final = 2
_END_OF_HEAD: Final = re.compile(rb"\n\r?\n")
_END_WITHIN: Final = 1.0
_MOST_ADDRESSES: Final = 1_000


class Turns:
    """Hands out turns at a bounded rate, in the order of asking."""

    def __init__(
        self, rate: float, at_once: int, now: Callable[[], float] = time.monotonic
    ) -> None:
        """Hand out ``rate`` turns a second, and ``at_once`` at once after a rest."""
        self._every = 1.0 / rate
        self._saved = (at_once - 1) * self._every
        self._now = now
        self._next = now() - self._saved

    def take(self) -> float:
        """Take the next turn; the seconds until it comes."""
        now = self._now()
        turn = max(self._next, now - self._saved)
        self._next = turn + self._every
        return max(0.0, turn - now)

    def give_back(self) -> None:
        """Leave a turn that was taken to somebody else: who has it is gone before it comes."""
        self._next -= self._every


class Allowance(NamedTuple):
    """What may be asked for: ``rate`` a second, and ``at_once`` after a rest."""

    rate: float
    at_once: float


class Budget:
    """One allowance for all addresses together, and a smaller one for each."""

    def __init__(
        self, of_all: Allowance, of_each: Allowance, now: Callable[[], float] = time.monotonic
    ) -> None:
        """Start with everything saved up."""
        self._of_all = of_all
        self._of_each = of_each
        self._now = now
        self._all = (of_all.at_once, now())
        self._each: dict[str, tuple[float, float]] = {}

    def left(self, address: str) -> float:
        """Return how many requests this address may make at once."""
        now = self._now()
        of_each = self._each.get(address, (self._of_each.at_once, now))
        return min(_left(of_each, self._of_each, now), _left(self._all, self._of_all, now))

    def spend(self, address: str) -> bool:
        """Take one request off; False if there is nothing left for this address, or at all."""
        if self.left(address) < 1:
            return False
        now = self._now()
        of_each = self._each.pop(address, (self._of_each.at_once, now))
        self._each[address] = (_left(of_each, self._of_each, now) - 1, now)
        self._all = (_left(self._all, self._of_all, now) - 1, now)
        if len(self._each) > _MOST_ADDRESSES:
            del self._each[next(iter(self._each))]
        return True


def address_of(scope: Scope) -> str:
    """Return the client's address; "" if it is not known."""
    return scope["client"][0] if scope.get("client") else ""


def _left(saved: tuple[float, float], allowance: Allowance, now: float) -> float:
    left, at = saved
    return min(allowance.at_once, left + (now - at) * allowance.rate)


class Connection(H11Protocol):
    """One connection: it has a place, deadlines, and waits for its turns."""

    places: "ClassVar[Places]"

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a place, and expect a request."""
        super().connection_made(transport)
        self._deadline: asyncio.TimerHandle | None = None
        self._turn: asyncio.TimerHandle | None = None
        self._turns = self.places.turns
        self._is_whole = False
        self._expect_next_step(ASK_WITHIN)
        self.places.enter(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Give the place back, and the turn that is waited for."""
        super().connection_lost(exc)
        self.places.leave(self)
        if self._turn is not None:
            self._turns.give_back()
        for timer in (self._deadline, self._turn):
            if timer is not None:
                timer.cancel()

    @property
    def address(self) -> str:
        """The client's."""
        return self.client[0] if self.client else ""

    @property
    def claim(self) -> int:
        """How good the claim to the place is: 2 is being answered, 1 has asked, 0 has not."""
        if self._is_answering:
            return _ANSWERED
        return int(self._turn is not None and self._is_whole)

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def data_received(self, data: bytes) -> None:
        """Take what was sent; before the turn has come, only keep it."""
        if self._turn is None:
            super().data_received(data)
        else:
            self.conn.receive_data(data)

    def handle_events(self) -> None:
        """Go on with the request; the beginning of one, or a part of it, waits for its turn."""
        if self._turn is not None:
            return
        if self.conn.their_state is h11.IDLE:
            self._is_whole = _END_OF_HEAD.search(self.conn.trailing_data[0]) is not None
            self._turns = self.places.turns if self._is_whole else self.places.turns_of_parts
            seconds = self._turns.take()
            if seconds > 0:
                self.flow.pause_reading()
                self._turn = self.loop.call_later(seconds, self._have_turn)
                return
        self._go_on()

    def on_response_complete(self) -> None:
        """Expect the next request."""
        if not self.transport.is_closing():
            self._expect_next_step(ASK_WITHIN)
        super().on_response_complete()

    def _have_turn(self) -> None:
        self._turn = None
        if not self.transport.is_closing():
            self.flow.resume_reading()
            self._go_on()

    def _go_on(self) -> None:
        super().handle_events()
        if self._is_answering and not self.cycle.more_body:
            self._expect_next_step(None if self.scope["path"] == _LASTING else ANSWER_WITHIN)

    def _expect_next_step(self, within: float | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None
        if within is not None:
            self._deadline = self.loop.call_later(within, self.transport.abort)


class Places:
    """The connections of one server, the oldest first, and their turns."""

    def __init__(self) -> None:
        """Start without a connection."""
        self.turns = Turns(TURNS_A_SECOND, TURNS_AT_ONCE)
        self.turns_of_parts = Turns(TURNS_A_SECOND, MOST_CONNECTIONS)
        self._taken: dict[Connection, None] = {}

    def enter(self, newcomer: Connection) -> None:
        """Give ``newcomer`` a place, if need be the place of another; else cut it."""
        if len(self._taken) >= MOST_CONNECTIONS:
            crowds = Counter(each.address for each in (*self._taken, newcomer))
            # Of equals, min takes the first, which is the oldest.
            leaving = min(
                (each for each in self._taken if each.claim < _ANSWERED),
                key=lambda each: (each.claim, -crowds[each.address]),
                default=newcomer,
            )
            self.leave(leaving)
            leaving.transport.abort()
            if leaving is newcomer:
                return
        self._taken[newcomer] = None

    def leave(self, connection: Connection) -> None:
        """Free the place."""
        self._taken.pop(connection, None)


class _Server(Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the process's signals to ``run``."""
        yield

    async def main_loop(self) -> None:
        """Renew the Date header until cancelled.

        uvicorn would wake the process ten times a second, for ends that it has not here:
        a tenth of what a relay at rest costs.
        """
        while True:
            await self.on_tick(0)
            await asyncio.sleep(1.0)


async def serve(
    app: ASGIApp, sockets: Sequence[socket.socket], headers: Mapping[str, str] | None = None
) -> None:
    """Answer on ``sockets``, with ``headers`` on each answer, until cancelled; close them."""
    # What uvicorn logs is of no use here, or logged by this package.
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    config = Config(
        app,
        http=type("_Connection", (Connection,), {"places": Places()}),
        ws="none",
        lifespan="off",
        loop="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        headers=list((headers or {}).items()),
        timeout_graceful_shutdown=1,
        h11_max_incomplete_event_size=MOST_HEAD_BYTES,
    )
    server = _Server(config)
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
