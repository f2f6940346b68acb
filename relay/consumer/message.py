"""Messages as a handler gets them; which of them are in hand, and up to where all are done.

JetStream is authoritative for stream, sequence and time. What the producer wrote may hold anything:
reading it never raises.

The floor is a place in the stream: every message up to it is taken by a committed transaction. It
is stored with the lease, so that a message of before it is never handled again, however late it
comes. A place is a sequence and its time: a stream that was made anew, or lost its tail, gives the
same sequences to other messages, at later times.
"""

import hashlib
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from relay.jetstream.parser import Message as StoredMessage

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LONGEST_ID: Final = 1000
"""Bytes of a message id or key; longer ones do not fit into an index of Postgres."""


_FEW: Final = 100
"""Places that are not worth merging."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the stream.

    Attributes:
        id: what the inbox knows it by: the header Nats-Msg-Id; without one its place in the stream.
        subject: as it was published.
        key: the header Relay-Key; messages of one key are handled in the order of the stream.
        headers: all of them; of a header that is given twice the last value.
        payload: the bytes, untouched.
        stream, sequence: its place.
        stored_at: JetStream's time of storing, aware UTC.
    """

    id: str
    subject: str
    key: str | None
    headers: Mapping[str, str]
    payload: bytes
    stream: str
    sequence: int
    stored_at: datetime


def read(stored: StoredMessage, stream: str) -> Message:
    """Read what ``stream`` holds. Never raises."""
    fields = read_headers(stored.headers)
    given, key = fields.get("Nats-Msg-Id"), fields.get("Relay-Key")
    return Message(
        id=storable(given) if given else f"{stream}-{stored.seq}-{stored.at_ns}",
        subject=stored.subject.decode(errors="replace"),
        key=storable(key) if key else None,
        headers=fields,
        payload=stored.payload,
        stream=stream,
        sequence=stored.seq,
        stored_at=_instant(stored.at_ns),
    )


def _instant(ns: int) -> datetime:
    try:
        return _EPOCH + timedelta(microseconds=ns // 1000)
    except OverflowError:
        return _EPOCH


def read_headers(block: bytes | None) -> dict[str, str]:
    """Return the headers of a block in NATS's form; what can't be read is left out."""
    found: dict[str, str] = {}
    for line in (block or b"").decode(errors="replace").split("\r\n")[1:]:
        name, colon, value = line.partition(":")
        if colon:
            found[name] = value.strip()
    return found


def storable(text: str) -> str:
    """Return an id or key as Postgres can index it: as it is, or what stands for it."""
    encoded = text.encode()
    if len(encoded) <= _LONGEST_ID and "\0" not in text:
        return text
    return f"sha256-{hashlib.sha256(encoded).hexdigest()}"


@dataclass(slots=True)
class Delivery:
    """One delivery; the subject ``ack`` takes its acknowledgement, empty if none is wanted."""

    message: Message
    ack: bytes = b""
    place: "_Place | None" = None


@dataclass(slots=True)
class _Place:
    """The place of ``count`` messages that follow one another; the newest one's."""

    sequence: int
    stored_at: datetime
    count: int = 1
    is_done: bool = False


class Hand:
    """Deliveries in hand; ``position`` and ``position_at`` are the floor.

    ``caught_up``: whether all that JetStream delivered to anybody has been added.

    A message leaves the memory when it is done, though the floor may still be below it. What stays
    is its place, and places that follow one another and are done become one. So the memory is
    bounded by what is in hand, however long the oldest message takes.
    """

    def __init__(
        self, position: int, position_at: datetime, now: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin at a floor with nothing in hand; ``now`` gives s."""
        self.position = position
        self.position_at = position_at
        self.held: dict[int, Delivery] = {}
        self.caught_up = False
        self._now = now
        self._in_order: deque[_Place] = deque()
        self._newest = 0, position_at
        self._added = self._passed = 0
        self._mark = now(), -1
        self._settled_at: float | None = None

    def knows(self, message: Message) -> bool:
        """Say whether the message is at or below the floor: done, and nobody has to ask."""
        return message.sequence <= self.position and message.stored_at <= self.position_at

    def add(self, delivery: Delivery) -> Delivery:
        """Take a delivery; ``done`` follows."""
        self.held[id(delivery)] = delivery
        sequence, stored_at = self._newest
        message = delivery.message
        if message.sequence > sequence or message.stored_at > stored_at:
            self._newest = message.sequence, message.stored_at
            delivery.place = _Place(message.sequence, message.stored_at)
            self._in_order.append(delivery.place)
            self._added += 1
        return delivery

    def done(self, delivery: Delivery) -> None:
        """Its transaction has committed."""
        del self.held[id(delivery)]
        if delivery.place is not None:
            delivery.place.is_done = True
        while self._in_order and self._in_order[0].is_done:
            place = self._in_order.popleft()
            self.position, self.position_at = place.sequence, place.stored_at
            self._passed += place.count
        if len(self._in_order) > 4 * len(self.held) + _FEW:
            self._merge()

    def _merge(self) -> None:
        """Make places that follow one another and are done one: at most twice those in hand."""
        merged = deque[_Place]()
        for place in self._in_order:
            if place.is_done and merged and merged[-1].is_done:
                place.count += merged.pop().count
            merged.append(place)
        self._in_order = merged

    def settled_for(self) -> float | None:
        """Return for how many s all that was taken before that has been below the floor.

        None if that is not known. What was taken later than that must not be forgotten: it may
        still be delivered again.
        """
        at, added = self._mark
        if added >= 0 and self._passed >= added:
            self._settled_at, self._mark = at, (at, -1)
        if self._mark[1] < 0 and self.caught_up:
            self._mark = self._now(), self._added
        return None if self._settled_at is None else self._now() - self._settled_at
