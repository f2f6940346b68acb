"""The stream's side: what a message says of its event, and the whole of a stream for comparisons.

Where a relay writes the event's id and key is a ``Place``: a header, or a field of a JSON payload.
Ours writes both into headers. A message without the id is somebody else's: it is counted, and not
judged.
"""

import json
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from relay.audit.oracle import StreamMessage, digest
from relay.core.subjects import matches
from relay.errors import SettingsError
from relay.jetstream.options import BusOptions
from relay.jetstream.parser import Message
from relay.jetstream.reading import Start, StreamReader

Place = Callable[[bytes, bytes], str | None]
"""Finds a text in (headers, payload); None if it is not there."""

_NONE: Final = "none"
_NS: Final = 1_000_000_000


def place(text: str) -> Place | None:
    """Read ``header:NAME``, ``json:FIELD.FIELD`` or ``none``; None for the last.

    Raises:
        SettingsError: it is none of these.
    """
    kind, _, name = text.partition(":")
    if text == _NONE:
        return None
    if kind == "header" and name:
        return header(name)
    if kind == "json" and name:
        return lambda _, payload: _text(field_of(payload, name))
    raise SettingsError([f"{text!r} is no place in a message: header:NAME, json:FIELD or none"])


def header(name: str) -> Place:
    """Find the header ``name``, written exactly so."""
    pattern = re.compile(rb"\r\n%b: ?([^\r\n]*)\r\n" % re.escape(name.encode()))

    def find(headers: bytes, payload: bytes) -> str | None:
        del payload
        found = pattern.search(headers)
        return None if found is None else found[1].decode(errors="replace")

    return find


def field_of(payload: bytes, path: str) -> Any:
    """Return what stands at ``path`` (names joined by dots) in a JSON payload; None if nothing."""
    try:
        found = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    for name in path.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return found


def json_digest(value: Any) -> str:
    """Return what stands for a JSON value, however its text was written."""
    return digest(json.dumps(value, sort_keys=True, separators=(",", ":")).encode())


def json_text_digest(text: bytes | str) -> str | None:
    """Return the same of JSON text; None if it is none."""
    try:
        return json_digest(json.loads(text))
    except (ValueError, RecursionError):
        return None


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, dict | list):
        return None
    return value if isinstance(value, str) else json.dumps(value)


@dataclass(slots=True)
class Messages:
    """How messages are read.

    Attributes:
        names: finds the event's id, and its key, in (headers, payload).
        has_keys: whether messages carry keys.
        prefix: what stands before the id there, and makes a message ours.
        subjects: the patterns of the subjects that are judged; empty for all.
        payload: "bytes", "json" (as values), or "no"; what is compared with the outbox.
        payload_field: the field that holds the event's payload; "" for the whole message.
        foreign: how many messages were somebody else's.
    """

    names: Callable[[bytes, bytes], tuple[str | None, str | None]]
    has_keys: bool
    prefix: str = ""
    subjects: Sequence[str] = ()
    payload: str = "bytes"
    payload_field: str = ""
    message_id_prefix: str = ""
    foreign: int = 0
    _judged: dict[bytes, str | None] = field(default_factory=dict)

    def read(self, batch: Sequence[Message]) -> list[StreamMessage]:
        """Read a batch; somebody else's messages are left out."""
        found, new, judged = list[StreamMessage](), tuple.__new__, self._judged
        names, prefix, as_bytes = self.names, self.prefix, self._as_bytes
        length, is_whole = len(prefix), not (prefix or self.message_id_prefix)
        for seq, _, raw_subject, headers, payload, _ in batch:
            subject = judged.get(raw_subject)
            if subject is None:
                subject = self._subject(raw_subject)
            event_id, key = names(headers, payload) if subject else (None, None)
            if not event_id or not (is_whole or self._is_ours(event_id, headers)):
                self.foreign += 1
                continue
            hashed = digest(payload) if as_bytes else self._digest(payload)
            replayed = b"\r\nRelay-Replay:" in headers
            values = seq, event_id[length:], key, hashed, None, subject, None, None, replayed
            found.append(new(StreamMessage, values))
        return found

    @property
    def _as_bytes(self) -> bool:
        return self.payload == "bytes" and not self.payload_field

    def _is_ours(self, event_id: str, headers: bytes) -> bool:
        message_id = b"\r\nNats-Msg-Id: " + self.message_id_prefix.encode()
        return event_id.startswith(self.prefix) and (
            not self.message_id_prefix or message_id in headers
        )

    def _subject(self, raw: bytes) -> str:
        """Return the subject, "" if it is not judged."""
        subject = raw.decode(errors="replace")
        if self.subjects and not any(matches(each, subject) for each in self.subjects):
            subject = ""
        if len(self._judged) < _MOST_SUBJECTS:
            self._judged[raw] = subject
        return subject

    def _digest(self, payload: bytes) -> str | None:
        if self.payload == "no":
            return None
        if not self.payload_field:
            return json_text_digest(payload)
        value = field_of(payload, self.payload_field)
        if self.payload == "json":
            return json_digest(value)
        return digest(value.encode()) if isinstance(value, str) else None


_MOST_SUBJECTS: Final = 10_000


def ours(*, message_id_prefix: str = "", subjects: Sequence[str] = ()) -> Messages:
    """Read messages as our relay writes them."""
    return Messages(
        _our_names, has_keys=True, subjects=subjects, message_id_prefix=message_id_prefix
    )


_NAMES: Final = re.compile(
    rb"\r\nRelay-Event-Id: ([^\r\n]*)\r\nRelay-Created-At: [^\r\n]*\r\n"
    rb"(?:Relay-Key: ([^\r\n]*)\r\n)?"
)
"""The relay writes them one after the other: one search finds both."""


def _our_names(headers: bytes, payload: bytes) -> tuple[str | None, str | None]:
    found = _NAMES.search(headers)
    if found is None:
        return _EVENT_ID(headers, payload), _KEY(headers, payload)
    event_id, key = found.groups()
    return event_id.decode(errors="replace"), None if key is None else key.decode(errors="replace")


def theirs(event_id: Place, key: Place | None, **more: Any) -> Messages:
    """Read another relay's messages; ``more`` are the further fields of ``Messages``."""

    def names(headers: bytes, payload: bytes) -> tuple[str | None, str | None]:
        found = event_id(headers, payload)
        return found, None if key is None or found is None else key(headers, payload)

    return Messages(names, has_keys=key is not None, **more)


async def batches(
    nats_url: str, stream: str, first_seq: int = 1
) -> AsyncIterator[list[StreamMessage]]:
    """Read every message that the stream holds now from ``first_seq`` on, batch by batch.

    Raises:
        BusOutage: the server is away, or stopped answering.
        StreamError: there is no such stream.
    """
    async with StreamReader.open(BusOptions(urls=(nats_url,))) as reader:
        state = await reader.state(stream)
        if state.messages and first_seq <= state.last_seq:
            start, up_to = Start(first_seq), float(state.last_seq)
            async with aclosing(reader.messages(stream, start, up_to=up_to)) as found:
                async for batch in found:
                    yield [parse_message(message) for message in batch]


async def read_stream(nats_url: str, stream: str) -> list[StreamMessage]:
    """Return every message that the stream holds now, in order. Raises as ``batches``."""
    return [message async for batch in batches(nats_url, stream) for message in batch]


_EVENT_ID = header("Relay-Event-Id")
_MESSAGE_ID = header("Nats-Msg-Id")
_CREATED_AT = header("Relay-Created-At")
_KEY = header("Relay-Key")


def parse_message(message: Message) -> StreamMessage:
    """Read one message whole."""
    headers, payload = message.headers, message.payload
    created_at, message_id = _CREATED_AT(headers, b""), _MESSAGE_ID(headers, b"")
    return StreamMessage(
        seq=message.seq,
        event_id=_EVENT_ID(headers, b"") or message_id or f"message {message.seq}",
        key=_KEY(headers, b""),
        digest=digest(payload),
        message_id=message_id,
        subject=message.subject.decode(errors="replace"),
        created_at=_moment(created_at),
        stored_at=at(message),
        replayed=b"\r\nRelay-Replay:" in headers,
    )


def _moment(text: str | None) -> datetime | None:
    try:
        found = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return found if found.tzinfo else None


def at(message: Message) -> datetime:
    """Return when JetStream stored it, to the microsecond."""
    seconds, rest = divmod(message.at_ns, _NS)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest // 1000)
