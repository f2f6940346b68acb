"""Whose messages the duplicates of one call are (R-ONCE).

JetStream calls an event a duplicate if it remembers the message id, whoever stored that message.
For an id that the relay made itself that can only be this event. For a producer's key the message
at the answer's sequence tells: it is ours if its ``Relay-Event-Id`` is the event's.

    duplicate ──asked──► its message is ours ─────► Stored
                       ├─another's ───────────────► Refused, a collision
                       ├─gone, or we may not look ► Stored, unverified
                       └─nobody answers ──────────► Unknown

    direct get       the headers as they were stored, the payload behind them
    STREAM.MSG.GET   JSON, headers and payload in base64; asked of the leader

A direct get may be answered by a replica that lags, so what it does not find is asked again of the
leader. A second row with a used ``event_id`` is no collision here: only an owner can write such a
row, and it looks like a repeat.
"""

import base64
import binascii
import enum
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from relay.core.checkpoint import Found as StoredMessage
from relay.core.event import Event
from relay.core.outcome import Fault, Outcome, Refused, Stored, Unknown
from relay.jetstream.answers import Json, decode, status_of, whole
from relay.jetstream.options import BusOptions
from relay.jetstream.streams import Stream

NO_MESSAGE_FOUND = 10037

_MOST_BYTES = 48 << 20
_MOST = 48
"""Messages that are asked for at once: the server drops a client that is 64 MiB behind."""

UNDECIDED = Unknown("the stream has its message id, and nobody says of which event")

Concluded = tuple[int, Outcome]
"""A place in the call, and the outcome of its event."""


class Duplicates:
    """The duplicates of producers' keys in one call; ``undecided`` holds them by their place."""

    def __init__(
        self, stream: Stream, events: Sequence[Event], options: BusOptions, max_payload: int
    ) -> None:
        """Begin with none; no message of ``stream`` is larger than ``max_payload``."""
        self.undecided: dict[int, Stored] = {}
        self._stream = stream
        self._events = events
        self._api = options.api
        self._own_ids = options.own_ids
        self._most = max(1, min(_MOST, _MOST_BYTES // max_payload))
        self._unasked: deque[tuple[int, bool]] = deque()
        self._asked: dict[int, bool] = {}

    def concern(self, place: int, stored: Stored) -> bool:
        """Say whether the answer ``stored`` has to be looked into."""
        is_own = self._events[place].message_id.startswith(self._own_ids)
        return bool(stored.duplicate) and not is_own

    def add(self, place: int, stored: Stored) -> Concluded | None:
        """Look into the duplicate at ``place``; return its outcome if that is known at once."""
        self.undecided[place] = stored
        if not self._stream.readable:
            return self._unverified(place)
        self._unasked.append((place, self._stream.direct))
        return None

    def questions(self, inbox: str) -> list[bytes]:
        """Return the frames that ask, not too many at once; answers go below ``inbox``."""
        frames = []
        while self._unasked and len(self._asked) < self._most:
            place, direct = self._unasked.popleft()
            stored = self.undecided[place]
            self._asked[place] = direct
            subject, body = self._subject(stored.stream, direct=direct), f'{{"seq":{stored.seq}}}'
            frames.append(f"PUB {subject} {inbox}{place}.look {len(body)}\r\n{body}\r\n".encode())
        return frames

    def answered(self, place: int, payload: bytes, headers: bytes | None) -> Concluded | None:
        """Take an answer; return the outcome of its event if that is known. Never raises."""
        found = read_message(payload, headers)
        if place not in self._asked or found is None:
            return None
        direct = self._asked.pop(place)
        if isinstance(found, StoredMessage):
            return self._compare(place, found)
        if direct:
            self._unasked.append((place, False))
            return None
        if found is Found.NOT_THERE:
            return self._unverified(place)
        return self._conclude(place, UNDECIDED)

    def denied(self, subject: str) -> list[Concluded]:
        """Where asking on ``subject`` is forbidden, ask in the other way, or give it up."""
        for place, direct in list(self._asked.items()):
            if subject == self._subject(self.undecided[place].stream, direct=direct):
                del self._asked[place]
                self._unasked.append((place, False))
                if direct:
                    self._stream.direct = False
                else:
                    self._stream.readable = False
        if self._stream.readable:
            return []
        given_up = [place for place, _ in self._unasked]
        self._unasked.clear()
        return [self._unverified(place) for place in given_up]

    def _subject(self, stream: str, *, direct: bool) -> str:
        return f"{self._api}.{'DIRECT.GET' if direct else 'STREAM.MSG.GET'}.{stream}"

    def _compare(self, place: int, found: StoredMessage) -> Concluded:
        event, stored = self._events[place], self.undecided[place]
        if found.message_id != event.message_id:
            return self._unverified(place)
        if found.event_id == event.event_id:
            return self._conclude(place, stored)
        whose = f"event {found.event_id}" if found.event_id else "a message of another client"
        reason = (
            f"the message id {event.message_id} is taken: {whose} is stored under it in stream "
            f"{stored.stream}, sequence {stored.seq}"
        )
        return self._conclude(place, Refused(reason, fault=Fault.COLLISION))

    def _unverified(self, place: int) -> Concluded:
        return self._conclude(place, replace(self.undecided[place], unverified=True))

    def _conclude(self, place: int, outcome: Outcome) -> Concluded:
        del self.undecided[place]
        return place, outcome


class Found(enum.Enum):
    """An answer that shows no message."""

    NOT_THERE = "not there"
    NOBODY = "nobody answers"


def read_message(payload: bytes, headers: bytes | None) -> StoredMessage | Found | None:
    """Read an answer of either kind; None if it says nothing. Never raises."""
    if headers is not None:
        status = status_of(headers)
        if status.isdigit():
            return {b"503": Found.NOBODY, b"404": Found.NOT_THERE}.get(status)
        return _of(headers)
    answer = decode(payload)
    if answer is None:
        return None
    error = answer.get("error")
    if isinstance(error, dict):
        gone = whole(error.get("err_code")) == NO_MESSAGE_FOUND
        return Found.NOT_THERE if gone else Found.NOBODY
    return read_stored(answer)


def read_stored(answer: Json) -> StoredMessage | None:
    """Read the answer of STREAM.MSG.GET; None if it shows no message. Never raises."""
    message = answer.get("message")
    encoded = message.get("hdrs", "") if isinstance(message, dict) else None
    try:
        return None if encoded is None else _of(base64.b64decode(encoded, validate=True))
    except (TypeError, ValueError, binascii.Error):
        return None


def _of(headers: bytes) -> StoredMessage:
    found = {"nats-msg-id": "", "relay-event-id": ""}
    for line in headers.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        wanted = name.decode(errors="replace").lower()
        if wanted in found and not found[wanted]:
            found[wanted] = value.strip().decode(errors="replace")
    return StoredMessage(found["nats-msg-id"], found["relay-event-id"])
