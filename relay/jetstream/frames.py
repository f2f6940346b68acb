"""What we write of the NATS protocol: an event becomes an HPUB frame. ``parser`` reads.

Nothing from an event may end a header line or a frame early, so CR, LF and NUL are refused, never
escaped, and header names are held to their own characters. Names beginning with ``Nats-`` would
steer the server (purge, withhold) and are refused as well, but ``Nats-TTL``, which an event's
``ttl`` becomes where the stream keeps it. The outbox refuses what producers may not write,
too; here it costs 0.3 µs an event and protects the server from a hole there.

Sizes are checked before the wire, for a violation makes the server close the connection.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from relay.core.event import Event
from relay.core.outcome import Refused

MAX_HEADER_BYTES = 65_535
"""The server's limit of a header block, its first line and last empty line included."""

MAX_CONTROL_LINE_BYTES = 4_096
"""The server's default limit of ``HPUB subject reply n n``."""

CHUNK_EVENTS = 250
CHUNK_BYTES = 1 << 20
FIRST_CHUNK_EVENTS = 25
"""Most that is built between two looks at the event loop: about 1.2 ms at 256 bytes an event.

The first chunk of a page is small: the server has nothing to do until it comes."""

TTL = "Nats-TTL"

_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")

_UTC_OF_DRIVERS = ZoneInfo("UTC")  # one object in all of the process, and psycopg's choice

_TWO = [f"{number:02d}" for number in range(100)]
_MS = [f"{number:03d}" for number in range(1000)]


def instant(moment: datetime) -> str:
    """Write an aware instant in ISO 8601, UTC, microseconds, ``Z``; 0.7 µs (``isoformat``: 1.7)."""
    if moment.tzinfo is not UTC and moment.tzinfo is not _UTC_OF_DRIVERS:
        moment = moment.astimezone(UTC)
    ms, us = divmod(moment.microsecond, 1000)
    return (
        f"{moment.year}-{_TWO[moment.month]}-{_TWO[moment.day]}T{_TWO[moment.hour]}:"
        f"{_TWO[moment.minute]}:{_TWO[moment.second]}.{_MS[ms]}{_MS[us]}Z"
    )


_NO_ID = "the message id is empty: JetStream could not tell a repeat"
_NO_PAYLOAD = "the event has no payload"  # a row of before the outbox's rules

_FIXED = len("NATS/1.0\r\nNats-Msg-Id: \r\nRelay-Event-Id: \r\nRelay-Created-At: \r\n\r\n")


def frame_of(event: Event, reply: str, max_bytes: int, no_ttl: str = "") -> bytes | Refused:
    """Make the whole frame of ``event``, or say why it can't be sent.

    ``max_bytes`` bounds headers and payload together. ``no_ttl`` says why an event with a ttl can't
    be sent, if so. The subject is trusted: routing checked it.
    """
    _, event_id, message_id, subject, key, created_at, own, payload = event
    at = instant(created_at)
    ids = event_id + message_id
    more = ""
    if key is not None:
        more = f"Relay-Key: {key}\r\n"
        ids += key
    if own:
        fault = _fault_in(own, no_ttl)
        if fault is not None:
            return Refused(fault)
        more += "".join([f"{name}: {value}\r\n" for name, value in own.items()])
        ids += "".join(own.values())
    if "\n" in ids or "\r" in ids or "\0" in ids:
        return Refused("a header, the key or the message id holds CR, LF or NUL")
    if not message_id or payload is None:
        return Refused(_NO_PAYLOAD if message_id else _NO_ID)
    length = _FIXED + len(message_id) + len(event_id) + len(at) + len(more)
    size = length + len(payload)
    frame = (
        f"HPUB {subject} {reply} {length} {size}\r\nNATS/1.0\r\nNats-Msg-Id: {message_id}\r\n"
        f"Relay-Event-Id: {event_id}\r\nRelay-Created-At: {at}\r\n{more}\r\n"
    )
    if not frame.isascii():
        return _measured(frame, payload, max_bytes)
    if length > MAX_HEADER_BYTES or size > max_bytes:
        return _oversize(length, len(payload), max_bytes)
    return frame.encode() + payload + b"\r\n"


def _measured(frame: str, payload: bytes, max_bytes: int) -> bytes | Refused:
    """Write the frame again with its lengths in bytes; ``frame_of`` counted characters."""
    line, _, head = frame.partition("\r\n")
    hpub, subject, reply, _, _ = line.split(" ")
    try:
        headers = head.encode()
    except UnicodeEncodeError:
        return Refused("a header, the key or the message id is not valid Unicode")
    length, size = len(headers), len(headers) + len(payload)
    if length > MAX_HEADER_BYTES or size > max_bytes:
        return _oversize(length, len(payload), max_bytes)
    first = f"{hpub} {subject} {reply} {length} {size}\r\n".encode()
    return first + headers + payload + b"\r\n"


def _fault_in(headers: Mapping[str, str], no_ttl: str) -> str | None:
    for name, value in headers.items():
        if not isinstance(value, str):
            return f"header {name!r}: the value is not a string"
        if _NAME.fullmatch(name) is None:
            return f"header {name!r}: the name has a character that NATS forbids"
        if name == TTL:
            if no_ttl:
                return no_ttl
        elif name[:5].lower() == "nats-":
            return f"header {name!r}: names beginning with Nats- are the server's own"
    return None


def _oversize(headers: int, payload: int, max_bytes: int) -> Refused:
    if headers > MAX_HEADER_BYTES:
        return Refused(
            f"the headers take {headers} bytes, the server's limit is {MAX_HEADER_BYTES}"
        )
    return Refused(
        f"headers and payload take {headers} + {payload} bytes, the limit is {max_bytes}, the least"
        " of the server's max_payload and the stream's max_msg_size and max_bytes"
    )


def line_fault(subject: str, inbox: str) -> str | None:
    """Say why ``subject`` is too long for the server's control line, or None if it fits.

    Answers go to ``inbox`` and at most 64 further bytes; two lengths take at most 20.
    """
    size = len(subject.encode())
    if size + len(inbox) + 64 + 20 + len("HPUB    \r\n") < MAX_CONTROL_LINE_BYTES:
        return None
    return f"the subject takes {size} bytes, too long for the server's control line"
