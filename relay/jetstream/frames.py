"""The NATS protocol as bytes: an event becomes an HPUB frame, the server's bytes become answers.

Nothing from an event may end a header line or a frame early, so CR, LF and NUL are refused, never
escaped, and header names are held to their own characters. Names beginning with ``Nats-`` would
steer the server (purge, withhold) and are refused as well, but ``Nats-TTL``, which an event's
``ttl`` becomes where the stream keeps it. The outbox refuses what producers may not write,
too; here it costs 0.3 µs an event and protects the server from a hole there.

Sizes are checked before the wire, for a violation makes the server close the connection.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from nats.errors import ProtocolError

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
    if not message_id:
        return Refused("the message id is empty: JetStream could not tell a repeat")
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


# From the server.

Deliver = Callable[[bytes, bytes, bytes | None], None]
"""Takes (subject, payload, header block or None) of one answer. Must not raise and not block."""

Control = Callable[[bytes, bytes], Awaitable[None]]
"""Takes (operation, rest) of a line that is no answer."""

_MSG = re.compile(rb"MSG (\S+) \d+ (?:\S+ )?(\d{1,9})\r\n")
_HMSG = re.compile(rb"HMSG (\S+) \d+ (?:\S+ )?(\d{1,9}) (\d{1,9})\r\n")
_DELIVERY = (
    rb"H?MSG (\S+) \d+ (\$JS\.ACK\.(?:[^. ]+\.){1,3}?%b"
    rb"\.\d+\.(\d+)\.(\d+)\.(\d+)\.(\d+)\S*) (\d+)(?: (\d+))?\r\n"
)
"""Reply subject: ``$JS.ACK.[domain.account.]stream.consumer.deliveries.seq.number.ns.pending``,
which a further token may follow."""

_LONGEST_LINE = 1 << 20
"""Bytes. An INFO names every server of a cluster."""

_LARGEST_ANSWER = 64 << 20
"""Bytes: the largest max_payload that a server can be given."""


class AnswerParser:
    """Reads the protocol in place of nats-py's parser: up to 100,000 answers a second."""

    def __init__(self, deliver: Deliver, control: Control) -> None:
        """Hand answers to ``deliver`` and all other lines to ``control``."""
        self._deliver = deliver
        self._control = control
        self._incomplete = b""

    async def parse(self, data: bytes = b"") -> None:
        """Take the next bytes of the stream; what is not complete yet is kept.

        Raises:
            ProtocolError: this is not the protocol, and the connection must end.
        """
        if self._incomplete:
            data = self._incomplete + data
            self._incomplete = b""
        place, end, match = 0, len(data), _MSG.match
        while place < end:
            while line := match(data, place):
                start = line.end()
                after = start + int(line[2]) + 2
                if after > end:
                    self._keep(data, place, after)
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
                self._keep(data, place, after)
                return 0
            at = start + min(int(line[2]), size)
            self._deliver(line[1], data[at : after - 2], data[start:at])
            return after
        end = data.find(b"\r\n", place)
        if end < 0:
            if len(data) - place > _LONGEST_LINE:
                raise ProtocolError("a line without end")
            self._incomplete = data[place:]
            return 0
        operation, _, rest = data[place:end].partition(b" ")
        await self._control(operation.upper(), rest)
        return end + 2

    def _keep(self, data: bytes, place: int, needed: int) -> None:
        if needed - place > _LARGEST_ANSWER:
            raise ProtocolError("an answer larger than any server's max_payload")
        self._incomplete = data[place:]


class Message(NamedTuple):
    """One stored message. ``at_ns`` is JetStream's time stamp, ns since 1970.

    ``headers`` is the block as it was stored, with its first line, or empty.
    """

    seq: int
    at_ns: int
    subject: bytes
    headers: bytes
    payload: bytes
    ack: bytes = b""  # the subject that takes its acknowledgement


Take = Callable[[list[Message], int, int, int], None]
"""Takes messages, the first and the last one's number of delivery, and how many are left."""


class Parser(AnswerParser):
    """Hands the deliveries of at most one consumer to it, and all else on as ``AnswerParser`` does.

    A delivery's subject is that of the stored message: only the reply subject says whose it is.
    """

    _match: Callable[[bytes, int], re.Match[bytes] | None] | None = None
    _take: Take

    def deliver_to(self, take: Take | None, consumer: str = "") -> None:
        """Hand the deliveries of ``consumer`` to ``take`` from now on; with None no more."""
        self._match = None
        if take is not None:
            self._match = re.compile(_DELIVERY % re.escape(consumer.encode())).match
            self._take = take

    async def parse(self, data: bytes = b"") -> None:
        """Take the next bytes of the stream, as ``AnswerParser`` does."""
        if self._match is None:
            await super().parse(data)
            return
        if self._incomplete:
            data = self._incomplete + data
            self._incomplete = b""
        place = 0
        while (place := self._deliveries(data, place)) < len(data):
            place = await self._answer(data, place)
            if not place:
                return

    def _deliveries(self, data: bytes, place: int) -> int:
        """Take the deliveries that stand at ``place``; return where they end.

        The last one is left if it is not complete: ``_answer`` keeps it.
        """
        match, end, new = self._match, len(data), tuple.__new__
        came, first, last = list[Message](), b"", (b"", b"")
        while match is not None and (line := match(data, place)):
            subject, ack, seq, number, at_ns, pending, size, whole_size = line.groups()
            start = line.end()
            after = start + int(whole_size or size) + 2
            if after > end:
                break
            split = start if whole_size is None else start + int(size)
            headers, payload = data[start:split], data[split : after - 2]
            came.append(new(Message, (int(seq), int(at_ns), subject, headers, payload, ack)))
            first, last, place = first or number, (number, pending), after
        if came:
            self._take(came, int(first), int(last[0]), int(last[1]))
        return place

    async def _answer(self, data: bytes, place: int) -> int:
        """Take one line that is no delivery; return where it ends, 0 if it is incomplete."""
        line = _MSG.match(data, place)
        if line is None:
            return await self._other(data, place)
        after = line.end() + int(line[2]) + 2
        if after > len(data):
            self._keep(data, place, after)
            return 0
        self._deliver(line[1], data[line.end() : after - 2], None)
        return after


def clean_info(info: dict[str, Any]) -> None:
    """Leave out of an INFO what nats-py or we could not use."""
    urls = info.get("connect_urls")
    info["connect_urls"] = [url for url in urls if _is_address(url)] if type(urls) is list else []
    for number in ("max_payload", "client_id"):
        if type(info.get(number)) is not int or info[number] <= 0:
            info.pop(number, None)


def _is_address(url: object) -> bool:
    try:
        parts = urlsplit(f"nats://{url}")
        return isinstance(url, str) and bool(parts.hostname) and (parts.port or 0) >= 0
    except ValueError:
        return False


_VIOLATION = re.compile(
    r'permissions violation for (publish|subscription) to "(.*)"', re.IGNORECASE | re.DOTALL
)
_ESCAPE = re.compile(r"\\(x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8}|.)", re.DOTALL)
_SHORT = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


def denial_of(text: str) -> tuple[bool, str] | None:
    """Read a ``-ERR``: whether it forbids subscribing, and the subject; None if it forbids none."""
    violation = _VIOLATION.search(text)
    if violation is None:
        return None
    return violation[1].lower() == "subscription", unquoted(violation[2])


def unquoted(text: str) -> str:
    r"""Undo how a server quotes a subject (Go's %q): ``\"``, ``\\``, ``\x7f``, ``\u00ad`` ..."""

    def plain(found: re.Match[str]) -> str:
        escape = found[1]
        if len(escape) == 1:
            return _SHORT.get(escape, escape)
        code = int(escape[1:], 16)
        return chr(code) if code <= 0x10FFFF else "\ufffd"  # noqa: PLR2004 - the last of Unicode

    return _ESCAPE.sub(plain, text)
