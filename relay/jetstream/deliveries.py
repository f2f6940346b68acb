"""One pull consumer of a reader: what is asked for, what comes, and how it ends.

    request (a batch) ─► deliveries, each with a reply subject that numbers it ─► handed on in order
                      ├► 100 heartbeat: nothing new   ├► 408: the request has ended, ask again
                      └► any other status, a missing number, silence: lost

Lost is for ever: the reader makes another consumer, behind the last message that was handed on.
"""

import math
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import anyio

from relay.jetstream.answers import status_of
from relay.jetstream.connection import Connection
from relay.jetstream.frames import MSG, AnswerParser, Control, Deliver

MOST: Final = 4096
"""Messages of one batch."""

_EXPIRES: Final = 30.0
_HEARTBEAT: Final = 5.0
_SILENT: Final = 12.0
_NS: Final = 1_000_000_000

_UNDELIVERED: Final = re.compile(rb"\r\nNats-Pending-Messages: (\d+)\r\n")


class Message(NamedTuple):
    """One stored message. ``at_ns`` is JetStream's time stamp, ns since 1970.

    ``headers`` is the block as it was stored, with its first line, or empty.
    """

    seq: int
    at_ns: int
    subject: bytes
    headers: bytes
    payload: bytes


class ConsumerLostError(Exception):
    """The consumer or the connection is gone: begin again behind the last message."""


@dataclass(slots=True)
class Consumer:
    """A pull consumer, and what it has delivered. An exchange, for the answers to its requests."""

    connection: Connection
    name: str
    subject: str
    pending: int
    most: int = MOST
    reply: str = ""
    _came: list[Message] = field(default_factory=list)
    _news: anyio.Event = field(default_factory=anyio.Event)
    _lost: str = ""
    _delivered: int = 0
    _open: int = 0

    async def batches(self, up_to: float) -> AsyncIterator[list[Message]]:
        """Yield what comes, up to the sequence ``up_to`` or to the stream's end before it.

        Raises:
            ConsumerLostError: see above.
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
            self._lose("a delivery is missing")
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
            self._lose(f"the consumer is gone: {text[9:]}")
        self._news.set()

    def denied(self, subject: str, reason: str) -> None:
        """Take that asking is forbidden."""
        if subject == self.subject:
            self._lose(reason)

    def dropped(self, reason: str) -> None:
        """Take that the connection is lost."""
        self._lose(reason)

    def _lose(self, reason: str) -> None:
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
        with anyio.move_on_after(_SILENT) as patience:
            await self._news.wait()
        if patience.cancelled_caught:
            raise ConsumerLostError(f"no sign of life of the consumer for {_SILENT:g} s")
        self._news = anyio.Event()
        if self._lost and not self._came:
            raise ConsumerLostError(self._lost)
        if self._lost:
            self._news.set()


class Deliveries(AnswerParser):
    """Hands the deliveries of one consumer to it, and all else on as ever.

    A delivery's subject is that of the stored message: only the reply subject says whose it is.
    """

    def __init__(self, deliver: Deliver, control: Control) -> None:
        """Begin without a consumer."""
        super().__init__(deliver, control)
        self._match: Any = None
        self._consumer: Consumer | None = None

    def deliver_to(self, consumer: Consumer | None) -> None:
        """Take the deliveries of ``consumer`` alone from now on."""
        self._match, self._consumer = None, consumer
        if consumer is not None:
            # $JS.ACK.[domain.account.]stream.consumer.deliveries.seq.number.ns.pending[.token]
            self._match = re.compile(
                rb"H?MSG (\S+) \d+ \$JS\.ACK\.(?:[^. ]+\.){1,3}?%b"
                rb"\.\d+\.(\d+)\.(\d+)\.(\d+)\.(\d+)\S* (\d+)(?: (\d+))?\r\n"
                % re.escape(consumer.name.encode())
            ).match

    async def parse(self, data: bytes = b"") -> None:
        """Take the next bytes of the stream, as ``AnswerParser`` does."""
        if self._incomplete:
            data = self._incomplete + data
            self._incomplete = b""
        place, end = 0, len(data)
        while place < end:
            place = self._deliveries(data, place)
            if place < end:
                place = await self._answer(data, place)
                if not place:
                    return

    def _deliveries(self, data: bytes, place: int) -> int:
        """Take the deliveries that stand at ``place``; return where they end.

        The last one is left if it is not complete: ``_answer`` keeps it.
        """
        match, consumer, new = self._match, self._consumer, tuple.__new__
        if match is None or consumer is None:
            return place
        end, came, first, last = len(data), list[Message](), b"", (b"", b"")
        while line := match(data, place):
            subject, seq, number, at_ns, pending, size, whole_size = line.groups()
            start = line.end()
            after = start + int(whole_size or size) + 2
            if after > end:
                break
            split = start if whole_size is None else start + int(size)
            values = int(seq), int(at_ns), subject, data[start:split], data[split : after - 2]
            came.append(new(Message, values))
            first, last, place = first or number, (number, pending), after
        if came:
            consumer.take(came, int(first), int(last[0]), int(last[1]))
        return place

    async def _answer(self, data: bytes, place: int) -> int:
        """Take one line that is no delivery; return where it ends, 0 if it is incomplete."""
        line = MSG.match(data, place)
        if line is None:
            return await self._other(data, place)
        after = line.end() + int(line[2]) + 2
        if after > len(data):
            self._keep(data, place, after)
            return 0
        self._deliver(line[1], data[line.end() : after - 2], None)
        return after
