"""One pull consumer of a reader: what is asked for, what comes, and how it ends.

    request (a batch) ─► deliveries, each with a reply subject that numbers it ─► handed on in order
                      ├► 100 heartbeat: nothing new   ├► 408: the request has ended, ask again
                      └► any other status, a missing number, silence: lost

It is ephemeral, acknowledges nothing and lives in the server's memory; the server drops it a minute
after the reader has gone. Batches are asked for two at a time, so that the server never holds more
than that for us. (Pushed with flow control, it stalled for up to a second every 57,000 messages.)

Lost is for ever: the reader makes another consumer, behind the last message that was handed on.
"""

import math
import re
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

import anyio

from relay.jetstream.answers import Json, status_of, whole
from relay.jetstream.api import Api, DeniedError, NoAnswerError, RejectedError
from relay.jetstream.connection import Connection
from relay.jetstream.parser import Message

MOST: Final = 4096
"""Messages of one batch."""

_KEEP: Final = 60.0
_EXPIRES: Final = 30.0
_HEARTBEAT: Final = 5.0
_SILENT: Final = 12.0
_DELETE: Final = 2.0
_NS: Final = 1_000_000_000

_UNDELIVERED: Final = re.compile(rb"\r\nNats-Pending-Messages: (\d+)\r\n")


class ConsumerLostError(Exception):
    """The consumer or the connection is gone: begin again behind the last message."""


@asynccontextmanager
async def consuming(
    connection: Connection,
    api: Api,
    stream: str,
    config: Json,
    deadline: float,
    *,
    most: int = MOST,
    silent: float = _SILENT,
) -> AsyncIterator["Consumer"]:
    """Make a consumer of ``stream``, with ``config`` besides what they all have, for the block.

    The server is given ``deadline`` s to make it. A batch has up to ``most`` messages. After
    ``silent`` s without a sign of life the consumer is lost.

    Raises:
        RejectedError, DeniedError, NoAnswerError: it can't be made.
    """
    name = f"relay-reader-{secrets.token_hex(8)}"
    config = {
        "name": name,
        "ack_policy": "none",
        "inactive_threshold": int(_KEEP * _NS),
        "mem_storage": True,
        "num_replicas": 1,
        **config,
    }
    body = {"stream_name": stream, "config": config, "action": "create"}
    made = await api.request(f"CONSUMER.CREATE.{stream}.{name}", deadline, body)
    consumer = Consumer(
        connection,
        f"{api.prefix}.CONSUMER.MSG.NEXT.{stream}.{name}",
        whole(made.get("num_pending")) or 0,
        most,
        silent,
    )
    parser = connection.wire.parser
    parser.deliver_to(consumer.take, name)
    try:
        with connection.exchange(consumer) as token:
            consumer.reply = f"{connection.inbox}.{token}"
            yield consumer
    finally:
        parser.deliver_to(None)
        if connection.lost is None:
            with (
                anyio.CancelScope(shield=True),
                suppress(RejectedError, DeniedError, NoAnswerError),
            ):
                await api.request(f"CONSUMER.DELETE.{stream}.{name}", _DELETE)


@dataclass(slots=True)
class Consumer:
    """A pull consumer, and what it has delivered. An exchange, for the answers to its requests."""

    connection: Connection
    subject: str
    pending: int
    most: int = MOST
    silent: float = _SILENT
    reply: str = ""
    _came: list[Message] = field(default_factory=list)
    _news: anyio.Event = field(default_factory=anyio.Event)
    _lost: str = ""
    _denied: str = ""
    _delivered: int = 0
    _open: int = 0

    async def batches(self, up_to: float) -> AsyncIterator[list[Message]]:
        """Yield what comes, up to the sequence ``up_to`` or to the stream's end before it.

        Raises:
            ConsumerLostError: see above.
            DeniedError: the permissions forbid to ask for messages.
        """
        while self.pending or self._came or up_to == math.inf:
            while self._open <= self.most:
                self._request()
            await self._wait()
            came, self._came = self._came, []
            if not came:
                continue
            self._open -= len(came)
            if came[-1].seq >= up_to:
                if kept := [each for each in came if each.seq <= up_to]:
                    yield kept
                return
            yield came

    def take(self, messages: list[Message], first: int, last: int, pending: int) -> None:
        """Take deliveries, which the server has numbered ``first`` to ``last``, from 1 on.

        Behind them it has ``pending`` more.
        """
        if first != self._delivered + 1 or last - first + 1 != len(messages):
            self.dropped("a delivery is missing")
        if not self._lost:
            self._delivered, self.pending = last, pending
            self._came += messages
            self._news.set()

    def answered(self, rest: bytes, payload: bytes, headers: bytes | None) -> None:
        """Take a status: the end of a request, a heartbeat, or what ended the consumer."""
        del rest, payload
        status = status_of(headers or b"")
        if status == b"408":
            found = _UNDELIVERED.search(headers or b"")
            self._open -= int(found[1]) if found else self.most
        elif status != b"100":
            text = (headers or b"").partition(b"\r\n")[0].decode(errors="replace")
            self.dropped(f"the consumer is gone: {text[9:]}")
        self._news.set()

    def denied(self, subject: str, reason: str) -> None:
        """Take that asking is forbidden."""
        if subject == self.subject:
            self._denied = reason
            self.dropped(reason)

    def dropped(self, reason: str) -> None:
        """Take that the consumer, or the connection, is lost."""
        self._lost = self._lost or reason
        self._news.set()

    def _request(self) -> None:
        self._open += self.most
        body = (
            f'{{"batch":{self.most},"expires":{int(_EXPIRES * _NS)},'
            f'"idle_heartbeat":{int(_HEARTBEAT * _NS)}}}'
        )
        frame = f"PUB {self.subject} {self.reply} {len(body)}\r\n{body}\r\n"
        self.connection.wire.write(frame.encode())

    async def _wait(self) -> None:
        with anyio.move_on_after(self.silent) as patience:
            await self._news.wait()
        if patience.cancelled_caught:
            raise ConsumerLostError(f"no sign of life of the consumer for {self.silent:g} s")
        self._news = anyio.Event()
        if self._denied:
            raise DeniedError(self._denied)
        if self._lost and not self._came:
            raise ConsumerLostError(self._lost)
        if self._lost:
            self._news.set()
