"""Reads which of our events stand in the last part of a stream: headers only, in bounded memory.

    a consumer of its own    without acks, headers only, pulled BATCH messages at a time, two such
                             requests ahead. (Pushed with flow control, the server stalled for up
                             to a second every 57,000 messages.)
    one message at a time    where a stream allows no such consumer (a work queue): the next
                             message behind the last one, again and again

Authoritative: the stream. A message counts by its Relay-Event-Id alone. The consumer is ours, lives
in memory, and goes with the connection; the server forgets it after a few seconds without us.

On failure: ``NoAnswerError``. What could not be read to its end says so (``complete``).
"""

import json
from dataclasses import dataclass, field
from typing import Final

import anyio

from relay.jetstream.answers import whole
from relay.jetstream.api import Api, NoAnswerError, RejectedError
from relay.jetstream.connection import Connection, new_token
from relay.jetstream.duplicates import read_stored

MOST: Final = 5_000_000
MOST_SINGLY: Final = 50_000
"""Messages that are looked at; what stands behind them is published, if it is not settled."""

_SILENCE: Final = 4.0
_ASK: Final = 2.0
BATCH: Final = 5_000
_EXPIRES_NS: Final = 10_000_000_000
_INACTIVE_NS: Final = 10_000_000_000
_EVENT_ID: Final = b"\r\nRelay-Event-Id: "
_MESSAGE_ID: Final = b"\r\nNats-Msg-Id: "
_SID: Final = b"2"

_PLAIN, _WITH_DOMAIN = 9, 11
"""Tokens of an ack subject, of which the fourth from behind is the stream's sequence:
``$JS.ACK.<stream>.<consumer>.<delivered>.<sequence>.<consumer's>.<time>.<pending>``; with a domain
two more stand before the stream's name, and one may follow."""


@dataclass(slots=True)
class Tail:
    """What of ours was found.

    Attributes:
        event_ids: of the messages of ours, as whole numbers.
        reached: the last sequence that was looked at.
        last: sequence and message id of the last message of ours; None if there is none.
        complete: whether the end was reached.
    """

    reached: int
    event_ids: set[int] = field(default_factory=set)
    last: tuple[int, str] | None = None
    complete: bool = False

    def add(self, seq: int, event_id: bytes, message_id: bytes) -> None:
        """Take a message of ours; one whose id is no UUID is none."""
        try:
            self.event_ids.add(int(event_id.replace(b"-", b""), 16))
        except ValueError:
            return
        self.last = seq, message_id.decode(errors="replace").replace("\0", "")


async def read_tail(
    connection: Connection, api: Api, stream: str, *, after: int, up_to: int
) -> Tail:
    """Look at the messages of ``stream`` behind ``after``, up to the sequence ``up_to``.

    Raises:
        NoAnswerError: the connection is lost, or the server silent.
        DeniedError: the permissions forbid it.
    """
    tail = Tail(after)
    end = min(up_to, after + MOST)
    while tail.reached < end:
        reading = _Reading(connection, tail, end)
        try:
            again = await reading.run(api, stream)
        except RejectedError:
            await _read_singly(api, stream, tail, min(end, after + MOST_SINGLY))
            break
        if not again:
            tail.reached = end
    tail.complete = tail.reached >= up_to
    return tail


class _Reading:
    """One consumer. A gap in what it delivers ends it; another one goes on from there."""

    def __init__(self, connection: Connection, tail: Tail, end: int) -> None:
        self._connection = connection
        self._tail = tail
        self._end = end
        self._expected = 1
        self._over = self._gap = False
        self._heard = anyio.Event()
        self._ask_more = b""

    async def run(self, api: Api, stream: str) -> bool:
        """Read to the end; True if there was a gap."""
        connection, parser = self._connection, self._connection.wire.parser
        inbox, name = f"{connection.inbox.rpartition('.')[0]}.{new_token()}", new_token()
        config = {
            "name": name,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": self._tail.reached + 1,
            "ack_policy": "none",
            "max_deliver": 1,
            "headers_only": True,
            "inactive_threshold": _INACTIVE_NS,
            "mem_storage": True,
            "num_replicas": 1,
        }
        parser.aside = self._take
        connection.wire.write(f"SUB {inbox} {_SID.decode()}\r\n".encode())
        try:
            made = await api.request(
                f"CONSUMER.CREATE.{stream}.{name}", _ASK, {"stream_name": stream, "config": config}
            )
            if made.get("num_pending") == 0:
                return False
            body = json.dumps({"batch": BATCH, "expires": _EXPIRES_NS})
            verb = f"{api.prefix}.CONSUMER.MSG.NEXT.{stream}.{name}"
            self._ask_more = f"PUB {verb} {inbox} {len(body)}\r\n{body}\r\n".encode()
            connection.wire.write(self._ask_more * 2)
            while not self._over:
                self._heard = anyio.Event()
                with anyio.move_on_after(_SILENCE) as scope:
                    await self._heard.wait()
                if connection.lost is not None:
                    raise NoAnswerError(f"connection lost: {connection.lost}")
                if scope.cancelled_caught:
                    raise NoAnswerError(f"no message of {stream} within {_SILENCE:g} s")
        finally:
            parser.aside = None
            connection.wire.write(f"UNSUB {_SID.decode()}\r\n".encode())
            verb = f"{api.prefix}.CONSUMER.DELETE.{stream}.{name}"
            connection.wire.write(f"PUB {verb} 0\r\n\r\n".encode())
        return self._gap

    def _take(self, reply: bytes, headers: bytes) -> None:
        """Take a message; a status of the consumer is none. Never raises."""
        self._heard.set()
        if self._over:
            return
        parts = reply.split(b".")
        at = 5 if len(parts) == _PLAIN else 7
        if len(parts) < _PLAIN or not all(part.isdigit() for part in parts[at : at + 4]):
            return
        seq, number, _, pending = map(int, parts[at : at + 4])
        if number != self._expected:
            self._gap = self._over = True
            return
        self._expected = number + 1
        if number % BATCH == 0:
            self._connection.wire.write(self._ask_more)
        if seq <= self._end:
            start = headers.find(_EVENT_ID)
            if start >= 0:
                event_id = _value(headers, start + len(_EVENT_ID))
                start = headers.find(_MESSAGE_ID)
                message_id = _value(headers, start + len(_MESSAGE_ID)) if start >= 0 else b""
                self._tail.add(seq, event_id, message_id)
            self._tail.reached = seq
        if seq >= self._end or not pending:
            self._over = True


def _value(headers: bytes, start: int) -> bytes:
    return headers[start : headers.find(b"\r\n", start)].strip()


async def _read_singly(api: Api, stream: str, tail: Tail, end: int) -> None:
    while tail.reached < end:
        question = {"seq": tail.reached + 1, "next_by_subj": ">"}
        try:
            answer = await api.request(f"STREAM.MSG.GET.{stream}", _ASK, question)
        except RejectedError:  # none is left
            tail.reached = end
            return
        message = answer.get("message")
        seq = whole(message.get("seq")) if isinstance(message, dict) else None
        if seq is None or seq <= tail.reached:
            raise NoAnswerError(f"the answer for a message of {stream} is none")
        found = read_stored(answer)
        if found is not None and found.event_id and seq <= end:
            tail.add(seq, found.event_id.encode(), found.message_id.encode())
        tail.reached = min(seq, end)
