"""What the server writes of the NATS protocol, read: answers, deliveries, INFO and -ERR.

Whatever comes is taken as data: nothing here raises but for what is not the protocol.
"""

import re
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from nats.errors import ProtocolError

Deliver = Callable[[bytes, bytes, bytes | None], None]
"""Takes (subject, payload, header block or None) of one answer. Must not raise and not block."""

Control = Callable[[bytes, bytes], Awaitable[None]]
"""Takes (operation, rest) of a line that is no answer."""

_MSG = re.compile(rb"MSG (\S+) \d+ (?:\S+ )?(\d{1,9})\r\n")
_HMSG = re.compile(rb"HMSG (\S+) \d+ (?:\S+ )?(\d{1,9}) (\d{1,9})\r\n")
_DELIVERY = (
    rb"H?MSG (\S+) \d+ (\$JS\.ACK\.(?:[^. ]+\.){1,3}?%b\.\d+\.(\d{1,20})\.(\d{1,20})"
    rb"\.(\d{1,20})\.(\d{1,20})(?:\.\S*)?) (\d{1,9})(?: (\d{1,9}))?\r\n"
)
"""Reply subject: ``$JS.ACK.[domain.account.]stream.consumer.deliveries.seq.number.ns.pending``,
which a further token may follow."""

_LONGEST_LINE = 1 << 20
"""Bytes. An INFO names every server of a cluster."""

_LARGEST_ANSWER = 64 << 20
"""Bytes: the largest max_payload that a server can be given."""


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

Match = Callable[[bytes, int], re.Match[bytes] | None]


class Parser:
    """Reads the protocol in place of nats-py's parser: up to 100,000 answers a second.

    It hands the deliveries of at most one consumer to that one, and all else on as answers. A
    delivery's subject is that of the stored message: only the reply subject says whose it is.
    """

    def __init__(self, deliver: Deliver, control: Control) -> None:
        """Hand answers to ``deliver`` and all other lines to ``control``."""
        self._deliver = deliver
        self._control = control
        self._incomplete = b""
        self._consumer: tuple[Take, Match] | None = None

    def deliver_to(self, take: Take | None, consumer: str = "") -> None:
        """Hand the deliveries of ``consumer`` to ``take`` from now on; with None no more."""
        delivery = re.compile(_DELIVERY % re.escape(consumer.encode()))
        self._consumer = None if take is None else (take, delivery.match)

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
            consumer = self._consumer
            if consumer is not None:
                place = self._deliveries(data, place, *consumer)
            while line := match(data, place):
                start = line.end()
                after = start + int(line[2]) + 2
                if after > end:
                    self._keep(data, place, after)
                    return
                self._deliver(line[1], data[start : after - 2], None)
                place = after
                if consumer is not None:
                    break  # what follows may be a delivery
            else:
                if place < end:
                    after = await self._other(data, place)
                    if not after:
                        return
                    place = after

    def _deliveries(self, data: bytes, place: int, take: Take, match: Match) -> int:
        """Take the deliveries that stand at ``place``; return where they end.

        The last one is left if it is not complete: it is kept as an answer would be.
        """
        end, new = len(data), tuple.__new__
        came, first, last = list[Message](), b"", (b"", b"")
        while line := match(data, place):
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
            take(came, int(first), int(last[0]), int(last[1]))
        return place

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
        whole = parts.netloc == url and "@" not in parts.netloc
        return whole and bool(parts.hostname) and (parts.port or 0) >= 0
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
