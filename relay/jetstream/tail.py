"""Reads which of our events stand in the last part of a stream: headers only, in bounded memory.

    a consumer of its own    ``deliveries``
    one message at a time    where a stream allows no such consumer (a work queue): the next
                             message behind the last one, again and again

Authoritative: the stream. A message counts by its Relay-Event-Id alone. On failure:
``NoAnswerError``. What could not be read to its end says so (``complete``).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from relay.jetstream.answers import whole
from relay.jetstream.api import Api, NoAnswerError, RejectedError
from relay.jetstream.connection import Connection
from relay.jetstream.deliveries import ConsumerLostError, consuming
from relay.jetstream.duplicates import read_stored
from relay.jetstream.parser import Message

MOST: Final = 5_000_000
MOST_SINGLY: Final = 50_000
"""Messages that are looked at; what stands behind them is published, if it is not settled."""

_SILENCE: Final = 4.0
_ASK: Final = 2.0
_UUID_LENGTH: Final = 36
_EVENT_ID: Final = b"\r\nRelay-Event-Id: "
_MESSAGE_ID: Final = b"\r\nNats-Msg-Id: "


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
        if len(event_id) != _UUID_LENGTH:  # the header is anybody's, and may have 64 KiB
            return
        try:
            self.event_ids.add(int(event_id.replace(b"-", b""), 16))
        except ValueError:
            return
        self.last = seq, message_id.decode(errors="replace").replace("\0", "")

    def add_all(self, messages: Iterable[Message]) -> None:
        """Take messages in the order of their sequence, of which some are ours."""
        for seq, _, _, headers, _, _ in messages:
            if event_id := _value(headers, _EVENT_ID):
                self.add(seq, event_id, _value(headers, _MESSAGE_ID))
            self.reached = seq


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
        begun_at = tail.reached
        config = {
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": begun_at + 1,
            "headers_only": True,
        }
        try:
            async with consuming(
                connection, api, stream, config, _ASK, silent=_SILENCE
            ) as consumer:
                async for batch in consumer.batches(end):
                    tail.add_all(batch)
        except RejectedError:
            await _read_singly(api, stream, tail, min(end, after + MOST_SINGLY))
            break
        except ConsumerLostError as lost:  # another one goes on from there
            if connection.lost is not None or tail.reached == begun_at:
                raise NoAnswerError(f"stream {stream}: {lost}") from lost
        else:  # the consumer's replica may lag behind the leader, which is asked for what is left
            await _read_singly(api, stream, tail, min(end, tail.reached + MOST_SINGLY))
            break
    tail.complete = tail.reached >= up_to
    return tail


def _value(headers: bytes, name: bytes) -> bytes:
    """Return a header's value, empty if there is none; ``name`` as it stands before the value."""
    start = headers.find(name)
    if start < 0:
        return b""
    start += len(name)
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
