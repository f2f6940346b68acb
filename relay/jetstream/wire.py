"""One nats-py client for one connection: the only file that touches the client's privates.

    connecting ──open()──► connected ──error, EOF, stale, lame duck, abort()──► lost, for ever

nats-py does the handshake: INFO, TLS, every kind of log-in, keep-alive. What we take into our own
hands, and why (all seen with 2.16.0; the version is pinned below the next minor one):

* **Reconnecting is off**, and so is every close that flushes. nats-py re-sends ``_pending`` after a
  reconnect, and ``close()`` writes it out, so a relay that lost its term would publish a stale
  page. ``_close``, where all of its endings meet, only aborts here.
* **One attempt a connect.** ``_select_next_server`` retries for ever or for minutes.
* **TLS or nothing** where TLS was asked. nats-py logs in over plaintext if the server has no TLS,
  even at a ``tls://`` URL.
* **Frames are written straight to the transport**, many in one ``bytes``, and **answers are read by
  our own parser** and handed over synchronously, without nats-py's message object, subscription
  queue and callback task. Client CPU an event of 256 bytes with four headers, uvloop, pages of
  2,000, 2 busy cores; ours includes all else that ``publish`` does::

                                           public API       here
      fast ingest (a batch, one answer)    11.6-14.4 µs     4.4-5.4 µs
      windowed (an answer each)            19.0-22.7 µs     8.4-11.0 µs

* **``-ERR`` is read as the server wrote it.** nats-py lowers it, subject and all.
* **A server's INFO may hold anything.** What is no URL or no number in it is left out.

Failure: whatever ends the connection is said once through ``on_lost``, with the reason. Bytes that
the peer has not received by then are dropped, those in the kernel included.
"""

import asyncio
import contextlib
import json
import logging
import re
import socket
import struct
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from nats import errors
from nats.aio.client import Client, Srv
from nats.protocol.parser import Parser

log = logging.getLogger(__name__)

Deliver = Callable[[bytes, bytes, bytes | None], None]
"""Takes (subject, payload, header block or None) of one answer. Must not raise and not block."""

_MSG = re.compile(rb"MSG (\S+) \d+ (?:\S+ )?(\d{1,9})\r\n")
_HMSG = re.compile(rb"HMSG (\S+) \d+ (?:\S+ )?(\d{1,9}) (\d{1,9})\r\n")
_LONGEST_LINE = 1 << 20
"""Bytes. An INFO names every server of a cluster."""

_LARGEST_ANSWER = 64 << 20
"""Bytes: the largest max_payload that a server can be given."""

_OUTGOING_HIGH_WATER_BYTES = 1 << 20

_DENIAL = "permissions violation"


class WireClient(Client):
    """A nats-py client that lives for one connection and never sends anything late."""

    def __init__(
        self,
        *,
        deliver: Deliver,
        on_denial: Callable[[str], None],
        on_lost: Callable[[str], None],
        must_encrypt: bool,
    ) -> None:
        """Make an unconnected client.

        Args:
            deliver: gets every message of the one subscription.
            on_denial: told of each permission violation, in the server's own words.
            on_lost: told once, with a reason, when an established connection ends.
            must_encrypt: refuse a server that offers no TLS, before any credential is sent.
        """
        super().__init__()
        self._ps = _AnswerParser(self, deliver)
        self._on_denial = on_denial
        self._on_lost = on_lost
        self._must_encrypt = must_encrypt
        self._opened = False
        self._aborted = False

    async def open(self, url: str, inbox: str, **how: Any) -> None:
        """Connect to ``url`` and subscribe to all below ``inbox``. Needs a deadline around it.

        Raises:
            OSError, asyncio.TimeoutError, nats.errors.Error, and whatever else nats-py meets in
                what a server says: it did not come about; ``abort``.
        """
        await self.connect(
            servers=[url],
            allow_reconnect=False,
            pending_size=1 << 16,
            error_cb=self._report,
            **how,
        )
        for task in (self._reading_task, self._ping_interval_task, self._flusher_task):
            assert task is not None
            task.add_done_callback(self._task_ended)
        assert self._transport is not None
        self._writer().transport.set_write_buffer_limits(high=_OUTGOING_HIGH_WATER_BYTES)
        self._opened = True
        # nats-py's subscribe leaves the SUB to its flusher: our first request would overtake it.
        self.write(f"SUB {inbox}.> 1\r\n".encode())

    @property
    def server_info(self) -> dict[str, Any]:
        """What the server said of itself last."""
        return self._server_info

    @property
    def encrypted(self) -> bool:
        """Whether the connection is by TLS."""
        return self._writer().get_extra_info("ssl_object") is not None

    def write(self, frames: bytes) -> None:
        """Queue whole frames for sending. A lost connection takes them silently: see ``on_lost``.

        Whole frames only: nats-py's own PING, PONG and SUB are written between ours.
        """
        if not self._aborted:
            self._writer().write(frames)

    async def drain(self) -> None:
        """Wait until the transport wants more. Returns at once if the connection is lost."""
        if not self._aborted:
            try:
                await self._writer().drain()
            except OSError as error:
                self.abort(_named(error))

    def abort(self, reason: str) -> None:
        """Drop the connection now, with everything that was not yet handed to the kernel."""
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
        for task in (self._reading_task, self._ping_interval_task, self._flusher_task):
            if task is not None and not task.done() and task is not _current_task():
                task.cancel()
        if self._opened:
            self._on_lost(reason)

    async def aborted(self) -> None:
        """Wait until the tasks of an aborted client have ended."""
        tasks = [self._reading_task, self._ping_interval_task, self._flusher_task]
        await asyncio.gather(*(task for task in tasks if task), return_exceptions=True)

    def _writer(self) -> asyncio.StreamWriter:
        transport: Any = self._transport
        writer: asyncio.StreamWriter = transport._io_writer  # noqa: SLF001 - TcpTransport has no accessor
        return writer

    def _task_ended(self, task: "asyncio.Task[Any]") -> None:
        """One of nats-py's loops is over: a connection without all three is a zombie."""
        if not task.cancelled() and task.exception() is not None:
            self.abort(_named(task.exception()))
        self.abort(_named(self._err) if self._err else "nats-py stopped reading")

    async def _report(self, error: Exception) -> None:
        self._err = error
        log.debug("nats-py reports", extra={"error": _named(error)})

    def take_error(self, text: str) -> None:
        """Take a ``-ERR``: a permission violation leaves the connection, all else ends it."""
        if text.lower().startswith(_DENIAL):
            self._on_denial(text)
        else:
            self.abort(text)

    async def server_info_changed(self, line: bytes) -> None:
        """Take an INFO that comes later; one that can't be read changes nothing."""
        try:
            await self._process_info(json.loads(line))
        except Exception as why:  # noqa: BLE001 - whatever nats-py meets in it
            log.warning("an INFO of the NATS server can't be read", extra={"reason": _named(why)})

    # What follows overrides nats-py.

    async def _select_next_server(self) -> None:
        server: Srv = self._server_pool[0]
        await self._connect_to_server(server)
        self._current_server = server

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        """Clean the INFO, insist on TLS before nats-py looks, keep the size limit fresh."""
        _clean(info)
        if initial_connection and self._must_encrypt and not info.get("tls_required"):
            if not info.get("tls_available"):
                raise errors.Error("TLS was asked for, but the server offers none")
            info["tls_required"] = True
        await super()._process_info(info, initial_connection)
        if not initial_connection:
            self._max_payload = info.get("max_payload", self._max_payload)

    async def _close(self, status: int, do_cbs: bool = True) -> None:  # noqa: ARG002 - nats-py's shape
        self.abort(_named(self._err) if self._err else "the connection was closed")


class _AnswerParser(Parser):
    """Reads the protocol in nats-py's stead: 100,000 answers come in a second."""

    def __init__(self, client: WireClient, deliver: Deliver) -> None:
        super().__init__(client)
        self._client = client
        self._deliver = deliver
        self._held = b""

    async def parse(self, data: bytes = b"") -> None:
        if self._held:
            data = self._held + data
            self._held = b""
        place, end, match = 0, len(data), _MSG.match
        while place < end:
            while line := match(data, place):
                start = line.end()
                after = start + int(line[2]) + 2
                if after > end:
                    self._hold(data, place, after)
                    return
                self._deliver(line[1], data[start : after - 2], None)
                place = after
            if place < end:
                after = await self._other(data, place)
                if not after:
                    return
                place = after

    async def _other(self, data: bytes, place: int) -> int:
        """Take whatever else stands at ``place``; return where it ends, 0 if it is incomplete."""
        line = _HMSG.match(data, place)
        if line is not None:
            start, size = line.end(), int(line[3])
            after = start + size + 2
            if after > len(data):
                self._hold(data, place, after)
                return 0
            at = start + min(int(line[2]), size)
            self._deliver(line[1], data[at : after - 2], data[start:at])
            return after
        end = data.find(b"\r\n", place)
        if end < 0:
            if len(data) - place > _LONGEST_LINE:
                raise errors.ProtocolError("a line without end")
            self._held = data[place:]
            return 0
        await self._line(data[place:end])
        return end + 2

    async def _line(self, line: bytes) -> None:
        op, _, rest = line.partition(b" ")
        match op.upper():
            case b"PING":
                await self._client._process_ping()  # noqa: SLF001 - nats-py's own parser calls it
            case b"PONG":
                await self._client._process_pong()  # noqa: SLF001
            case b"-ERR":
                self._client.take_error(rest.decode(errors="replace").strip().strip("'"))
            case b"INFO":
                await self._client.server_info_changed(rest)
            case b"+OK":
                pass
            case _:
                raise errors.ProtocolError(f"unknown protocol: {line[:40]!r}")

    def _hold(self, data: bytes, place: int, needed: int) -> None:
        """Keep an answer that is not complete yet."""
        if needed - place > _LARGEST_ANSWER:
            raise errors.ProtocolError("an answer larger than any server's max_payload")
        self._held = data[place:]


def _clean(info: dict[str, Any]) -> None:
    """Leave out of an INFO what nats-py or we could not use."""
    urls = info.get("connect_urls")
    info["connect_urls"] = (
        [url for url in urls if _is_address(url)] if isinstance(urls, list) else []
    )
    for number in ("max_payload", "client_id"):
        if type(info.get(number)) is not int or info[number] <= 0:
            info.pop(number, None)


def _is_address(url: object) -> bool:
    try:
        parts = urlsplit(f"nats://{url}")
        return isinstance(url, str) and bool(parts.hostname) and (parts.port or 0) >= 0
    except ValueError:
        return False


def _reset(transport: asyncio.WriteTransport) -> None:
    """Close so that what the kernel holds is dropped too: a frozen peer may thaw much later."""
    sock = transport.get_extra_info("socket")
    if sock is not None and not transport.is_closing():
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def _current_task() -> "asyncio.Task[Any] | None":
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


def _named(error: BaseException | None) -> str:
    return str(error) or type(error).__name__
