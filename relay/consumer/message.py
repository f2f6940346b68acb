"""A message as a handler gets it, and how it is read off the wire.

JetStream is authoritative for stream, sequence and time, which stand in the subject that takes the
acknowledgement. What the producer wrote may hold anything: reading it never raises.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LONGEST_ID: Final = 1000
"""Bytes of a message id or key; longer ones do not fit into an index of Postgres."""

_ACK_TOKENS: Final = 9
_LONG_ACK_TOKENS: Final = 11


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


@dataclass(slots=True)
class Delivery:
    """One delivery of a message.

    Attributes:
        ack: the subject that takes the acknowledgement; "" if none is wanted.
        number: counts the deliveries of this JetStream consumer, from 1, without a gap.
        pending: how many messages JetStream has for the consumer behind this one.
    """

    message: Message
    ack: str
    number: int
    pending: int


def read(subject: bytes, reply: bytes, payload: bytes, headers: bytes | None) -> Delivery | None:
    """Return the delivery; None if this is none: the reply subject is not JetStream's."""
    tokens = reply.decode(errors="replace").split(".")
    if len(tokens) >= _LONG_ACK_TOKENS:  # $JS.ACK.<domain>.<account hash>. ...
        del tokens[2:4]
    if len(tokens) < _ACK_TOKENS or tokens[:2] != ["$JS", "ACK"]:
        return None
    stream, _, _, *numbers = tokens[2:9]
    try:
        sequence, number, stored_ns, pending = (int(token) for token in numbers)
        stored_at = _EPOCH + timedelta(microseconds=stored_ns // 1000)
    except (ValueError, OverflowError):
        return None
    fields = read_headers(headers)
    given = fields.get("Nats-Msg-Id")
    message = Message(
        id=storable(given) if given else f"{stream}-{sequence}-{stored_ns}",
        subject=subject.decode(errors="replace"),
        key=storable(fields["Relay-Key"]) if fields.get("Relay-Key") else None,
        headers=fields,
        payload=payload,
        stream=stream,
        sequence=sequence,
        stored_at=stored_at,
    )
    return Delivery(message, reply.decode(errors="replace"), number, pending)


def read_headers(block: bytes | None) -> dict[str, str]:
    """Return the headers of a block in NATS's form; what can't be read is left out."""
    found: dict[str, str] = {}
    for line in (block or b"").decode(errors="replace").split("\r\n")[1:]:
        name, colon, value = line.partition(":")
        if colon:
            found[name] = value.strip()
    return found


def status(headers: bytes | None) -> tuple[int, str]:
    """Return the status of JetStream's own message, and its description; 0 if it has none."""
    first = (headers or b"").partition(b"\r\n")[0].decode(errors="replace")
    _, _, rest = first.partition(" ")
    code, _, description = rest.strip().partition(" ")
    return (int(code), description) if code.isdecimal() else (0, "")


def storable(text: str) -> str:
    """Return an id or key as Postgres can index it: as it is, or what stands for it."""
    encoded = text.encode()
    if len(encoded) <= _LONGEST_ID and "\0" not in text:
        return text
    return f"sha256-{hashlib.sha256(encoded).hexdigest()}"
