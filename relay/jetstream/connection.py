"""One connection to one NATS server, over nats-py, and the exchanges that go over it.

    connecting ──open()──► open ──drop(), EOF, silence, error, lame duck──► lost, with a reason

A lost connection stays lost: nothing is re-sent, ``dropped`` goes to each exchange once, and bytes
that the server has not received by then are dropped, those in the kernel included. R-BOUND: a
frozen peer is noticed by the keep-alive within three ping intervals, or by an exchange's deadline.

A connection has one reply inbox, ``<prefix>.<token>``. Each exchange (a request, a batch, a window)
takes a token below it. Tokens come from ``secrets``: who can't read the inbox can't answer ahead of
the server. Answers are assigned by their token alone; a late answer is looked at only for the name
of a second stream that captures the same subjects. Authoritative: the server's answers. A
permission violation is an error text beside them; it goes to every exchange under way.

nats-py does the handshake: INFO, TLS, every kind of log-in, keep-alive. This is the only file that
touches the client's privates (seen with 2.16.0; the version is pinned below the next minor one):

* **Reconnecting is off**, and so is every close that flushes. nats-py re-sends ``_pending`` after a
  reconnect, and ``close()`` writes it out: a relay that lost its term would publish a stale page.
  ``_close``, where all of nats-py's endings meet, only aborts here.
* **One attempt a connect.** ``_select_next_server`` retries for ever or for minutes.
* **TLS or nothing** where TLS was asked. nats-py logs in over plaintext if the server has no TLS,
  even at a ``tls://`` URL.
* **Frames are written straight to the transport**, many in one ``bytes``, and **answers are read by
  our own parser** (``frames``). Client CPU an event of 256 bytes with four headers, uvloop, pages
  of 2,000, 2 busy cores, all of ``publish`` included: fast ingest 4.4-5.4 µs (nats-py's public API:
  11.6-14.4), windowed 8.4-11.0 (19.0-22.7).
* **``-ERR`` is read as the server wrote it.** nats-py lowers it, subject and all.
* **A server's INFO may hold anything.** What is no URL or no number in it is left out.
"""

import asyncio
import contextlib
import json
import logging
import math
import secrets
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

import anyio
from nats import errors
from nats.aio.client import Client, Srv

from relay.jetstream.parser import Parser, clean_info, denial_of
from relay.ports import Permit

log = logging.getLogger(__name__)

PORT = 4222

_OUTGOING_HIGH_WATER_BYTES = 1 << 20
_TOKEN_BYTES = 16
_TOKEN_LENGTH = 22
_MOST_DENIALS = 1000


def new_token() -> str:
    """Return a token that nobody can guess, of the characters that a subject may have."""
    return secrets.token_urlsafe(_TOKEN_BYTES)


class Exchange(Protocol):
    """Something that waits for answers. All three are called synchronously by the reading task."""

    def answered(self, rest: bytes, payload: bytes, headers: bytes | None) -> None:
        """Take an answer, which anybody may have sent; ``rest`` stands behind the token in its
        subject. Must not raise, whatever the answer holds.
        """

    def denied(self, subject: str, reason: str) -> None:
        """Publishing to ``subject`` is forbidden: no answer will come."""

    def dropped(self, reason: str) -> None:
        """The connection is lost: no answer will come any more."""


class Connection:
    """A connection. ``lost`` is None while it lasts, then the reason, for ever."""

    def __init__(self, url: str, inbox_prefix: str, *, must_encrypt: bool) -> None:
        """Prepare a connection; ``open`` opens it.

        With ``must_encrypt`` a server without TLS is refused, before any credential is sent.
        """
        self.url = url
        self.lost: str | None = None
        self.inbox = f"{inbox_prefix}.{new_token()}"  # answers come below it
        self.forbidden_inbox: str | None = None  # why we may not subscribe to it
        self.on_stray: Callable[[bytes], None] | None = None  # gets what no exchange waits for
        self.wire = _Wire(self, must_encrypt=must_encrypt)
        self._skip = len(self.inbox.encode()) + 1
        self._exchanges: dict[bytes, Exchange] = {}
        self._denied: set[str] = set()

    async def open(self, **how: Any) -> None:
        """Connect and subscribe to the inbox. Needs a deadline around it.

        Raises:
            OSError, TimeoutError, nats.errors.Error, and whatever else nats-py meets in what a
                server says: ``drop`` the connection.
        """
        await self.wire.connect(
            servers=[self.url],
            allow_reconnect=False,
            pending_size=1 << 16,
            error_cb=self.wire.report,
            lame_duck_mode_cb=self._leave_lame_duck,
            **how,
        )
        self.wire.begin(self.inbox)

    @property
    def address(self) -> tuple[str, int]:
        """The server's host and port."""
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or PORT

    @property
    def server_info(self) -> dict[str, Any]:
        """What the server said of itself last."""
        return self.wire._server_info  # noqa: SLF001 - the public face shows parts of it

    @contextmanager
    def exchange(self, waiting: Exchange) -> Iterator[str]:
        """Give ``waiting`` a token, unique everywhere, for as long as the block lasts."""
        token = new_token()
        if self.lost is not None:
            waiting.dropped(self.lost)
        self._exchanges[token.encode()] = waiting
        try:
            yield token
        finally:
            del self._exchanges[token.encode()]

    def drop(self, reason: str) -> None:
        """End the connection now; what the kernel has not taken is never sent."""
        self.wire.abort(reason)

    async def dropped(self) -> None:
        """Wait, at most 1 s, until a dropped connection has left nothing behind."""
        with anyio.move_on_after(1, shield=True):
            await self.wire.aborted()

    # What the wire reports.

    def deliver(self, subject: bytes, payload: bytes, headers: bytes | None) -> None:
        """Hand an answer to the exchange of its token."""
        behind = self._skip + _TOKEN_LENGTH
        waiting = self._exchanges.get(subject[self._skip : behind])
        if waiting is not None:
            waiting.answered(subject[behind + 1 :], payload, headers)
        elif self.on_stray is not None:
            self.on_stray(payload)

    def forbid(self, text: str) -> None:
        """Take a permission violation, in the server's own words."""
        is_subscription, subject = denial_of(text) or (False, "")
        if subject not in self._denied and len(self._denied) < _MOST_DENIALS:
            self._denied.add(subject)
            log.warning("NATS forbids", extra={"reason": text})
        if is_subscription:
            self.forbidden_inbox = text
            self.drop(text)
        elif subject:
            for waiting in list(self._exchanges.values()):
                waiting.denied(subject, text)

    def lose(self, reason: str) -> None:
        """Tell every exchange that the connection is lost."""
        self.lost = reason
        for waiting in list(self._exchanges.values()):
            waiting.dropped(reason)

    async def _leave_lame_duck(self) -> None:
        self.drop("the server is shutting down (lame duck mode)")


@dataclass(slots=True)
class Sender:
    """Writes to a connection while the permit lasts (R-TERM). One for each call of ``publish``."""

    connection: Connection
    _permit: Permit
    _renewing: anyio.Lock = field(default_factory=anyio.Lock)

    async def write(self, frames: bytes, scope: anyio.CancelScope) -> None:
        """Write whole frames, but nothing unless the permit is granted at that moment.

        ``scope`` has no deadline while the permit is renewed; the caller sets a new one after it.

        Raises:
            TermLost, StoreOutage: the permit could not be renewed; nothing is written.
        """
        while not self._permit.granted():  # an answer that took too long grants nothing any more
            scope.deadline = math.inf
            async with self._renewing:
                if not self._permit.granted():
                    await self._permit.renew()
        self.connection.wire.write(frames)


class _Wire(Client):
    """A nats-py client that lives for one connection and never sends anything late."""

    def __init__(self, connection: Connection, *, must_encrypt: bool) -> None:
        super().__init__()
        self.parser = Parser(connection.deliver, self._control)
        self._ps: Any = self.parser
        self._connection = connection
        self._must_encrypt = must_encrypt
        self._opened = False
        self._aborted = False
        self.announced: Sequence[str] = ()  # the cluster's addresses, as the newest INFO has them

    def begin(self, inbox: str) -> None:
        """Watch over nats-py's tasks, and subscribe to all below ``inbox``."""
        for task in self._tasks():
            task.add_done_callback(self._task_ended)
        self._writer().transport.set_write_buffer_limits(high=_OUTGOING_HIGH_WATER_BYTES)
        self._opened = True
        # nats-py's subscribe leaves the SUB to its flusher: our first request would overtake it.
        self.write(f"SUB {inbox}.> 1\r\n".encode())

    @property
    def encrypted(self) -> bool:
        return self._writer().get_extra_info("ssl_object") is not None

    def write(self, frames: bytes) -> None:
        """Queue whole frames, for nats-py writes between ours. A lost connection takes them too."""
        if not self._aborted:
            try:
                self._writer().write(frames)
            except RuntimeError as error:  # uvloop's, for a transport that has just been closed
                self.abort(_named(error))

    async def drain(self) -> None:
        """Wait until the transport wants more. Returns at once if the connection is lost."""
        if not self._aborted:
            try:
                await self._writer().drain()
            except OSError as error:
                self.abort(_named(error))

    def abort(self, reason: str) -> None:
        if self._aborted:
            return
        self._aborted = True
        self._status = Client.CLOSED
        self._pending = []
        self._pending_data_size = 0
        transport: Any = self._transport
        for name in ("_io_writer", "_bare_io_writer"):
            writer: asyncio.StreamWriter | None = getattr(transport, name, None)
            if writer is not None:
                _reset(writer.transport)
        with contextlib.suppress(RuntimeError):  # there is no loop any more
            current = asyncio.current_task()
            for task in self._tasks():
                if task is not current:
                    task.cancel()
        if self._opened:
            self._connection.lose(reason)

    async def aborted(self) -> None:
        await asyncio.gather(*self._tasks(), return_exceptions=True)

    def _tasks(self) -> "list[asyncio.Task[Any]]":
        """nats-py's loops: a connection without all three is a zombie."""
        tasks = (self._reading_task, self._ping_interval_task, self._flusher_task)
        return [task for task in tasks if task is not None]

    def _writer(self) -> asyncio.StreamWriter:
        transport: Any = self._transport
        writer: asyncio.StreamWriter = transport._io_writer  # noqa: SLF001 - TcpTransport has no accessor
        return writer

    def _task_ended(self, task: "asyncio.Task[Any]") -> None:
        if not task.cancelled() and task.exception() is not None:
            self.abort(_named(task.exception()))
        self.abort(_named(self._err) if self._err else "nats-py stopped reading")

    async def report(self, error: Exception) -> None:
        self._err = error
        log.debug("nats-py reports", extra={"error": _named(error)})

    async def _control(self, operation: bytes, rest: bytes) -> None:
        match operation:
            case b"PING":
                await self._process_ping()
            case b"PONG":
                await self._process_pong()
            case b"-ERR":
                text = rest.decode(errors="replace").strip().strip("'")
                is_denial = text.lower().startswith("permissions violation")
                (self._connection.forbid if is_denial else self.abort)(text)
            case b"INFO":
                try:
                    await self._process_info(json.loads(rest))
                except Exception as why:  # noqa: BLE001 - whatever nats-py meets in it
                    extra = {"reason": _named(why)}
                    log.warning("an INFO of the NATS server can't be read", extra=extra)
            case b"+OK":
                pass
            case _:
                raise errors.ProtocolError(f"unknown protocol: {operation[:40]!r}")

    # What follows overrides nats-py.

    async def _select_next_server(self) -> None:
        server: Srv = self._server_pool[0]
        await self._connect_to_server(server)
        self._current_server = server

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        """Clean the INFO, insist on TLS before nats-py looks, keep what changes fresh."""
        clean_info(info)
        # nats-py would keep each address for as long as the connection lasts.
        self.announced = info.pop("connect_urls")
        if initial_connection and self._must_encrypt and not info.get("tls_required"):
            if not info.get("tls_available"):
                raise errors.Error("TLS was asked for, but the server offers none")
            info["tls_required"] = True
        await super()._process_info(info, initial_connection)
        if not initial_connection:
            self._max_payload = info.get("max_payload", self._max_payload)

    async def _close(self, status: int, do_cbs: bool = True) -> None:  # noqa: ARG002 - nats-py's shape
        self.abort(_named(self._err) if self._err else "the connection was closed")


def _reset(transport: asyncio.WriteTransport) -> None:
    """Close so that what the kernel holds is dropped too: a frozen peer may thaw much later."""
    sock = transport.get_extra_info("socket")
    if sock is not None and not transport.is_closing():
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def _named(error: BaseException | None) -> str:
    return str(error) or type(error).__name__
