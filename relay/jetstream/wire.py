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

Failure: whatever ends the connection is said once through ``on_lost``, with the reason. Bytes that
the peer has not received by then are dropped, those in the kernel included.
"""

import asyncio
import contextlib
import re
import socket
import struct
from collections.abc import Callable
from typing import Any

from nats import errors
from nats.aio.client import Client, Srv
from nats.protocol.parser import AWAITING_CONTROL_LINE, Parser

Deliver = Callable[[bytes, bytes, bytes | None], None]
"""Takes (subject, payload, header block or None) of one answer. Must not raise and not block."""

_MSG = re.compile(rb"MSG (\S+) (\d+) (\d+)\r\n")
_LONGEST_LINE = 4096
_OUTGOING_HIGH_WATER_BYTES = 1 << 20


class WireClient(Client):
    """A nats-py client that lives for one connection and never sends anything late."""

    def __init__(
        self,
        *,
        deliver: Deliver,
        on_error: Callable[[Exception], None],
        on_lost: Callable[[str], None],
        must_encrypt: bool,
    ) -> None:
        """Make an unconnected client.

        Args:
            deliver: gets every message of the one subscription.
            on_error: told of each error that nats-py reports; permission violations come here.
            on_lost: told once, with a reason, when an established connection ends.
            must_encrypt: refuse a server that offers no TLS, before any credential is sent.
        """
        super().__init__()
        self._ps = _AnswerParser(self, deliver)
        self._deliver = deliver
        self._on_error = on_error
        self._on_lost = on_lost
        self._must_encrypt = must_encrypt
        self._opened = False
        self._aborted = False

    async def open(self, url: str, inbox: str, **how: Any) -> None:
        """Connect to ``url`` and subscribe to all below ``inbox``. Needs a deadline around it.

        Raises:
            OSError, asyncio.TimeoutError, nats.errors.Error: it did not come about; ``abort``.
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
        self._on_error(error)

    # What follows overrides nats-py.

    async def _select_next_server(self) -> None:
        server: Srv = self._server_pool[0]
        await self._connect_to_server(server)
        self._current_server = server

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        """Insist on TLS before nats-py looks, and keep the size limit fresh after a reload."""
        if initial_connection and self._must_encrypt and not info.get("tls_required"):
            if not info.get("tls_available"):
                raise errors.Error("TLS was asked for, but the server offers none")
            info["tls_required"] = True
        await super()._process_info(info, initial_connection)
        if not initial_connection:
            self._max_payload = info.get("max_payload", self._max_payload)

    async def _close(self, status: int, do_cbs: bool = True) -> None:  # noqa: ARG002 - nats-py's shape
        self.abort(_named(self._err) if self._err else "the connection was closed")

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None
    ) -> None:
        """Deliver what the quick parser left: answers with headers, answers split in two reads."""
        del sid, reply
        self._deliver(subject, data, headers)


class _AnswerParser(Parser):
    """nats-py's parser with a quick way for the one thing that comes 100,000 times a second."""

    def __init__(self, client: WireClient, deliver: Deliver) -> None:
        super().__init__(client)
        self._deliver = deliver
        self._held = b""

    async def parse(self, data: bytes = b"") -> None:
        if self.state != AWAITING_CONTROL_LINE:
            await super().parse(data)
            return
        if self.buf or self._held:
            data = b"".join((self._held, self.buf, data))
            self._held = b""
            self.buf.clear()
        place, end, match = 0, len(data), _MSG.match
        while line := match(data, place):
            start = line.end()
            after = start + int(line[3]) + 2
            if after > end:
                self._held = data[place:]
                return
            self._deliver(line[1], data[start : after - 2], None)
            place = after
        rest = data[place:]
        if rest[:4] == b"MSG " and len(rest) < _LONGEST_LINE and b"\r\n" not in rest:
            self._held = rest
        elif rest:
            await super().parse(rest)


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
