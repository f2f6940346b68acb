"""What JetStream's answers mean, and which of them prove that an event is stored (R-LOSS).

    one message   {"stream": "S", "domain": "D", "seq": 7, "duplicate": true}
    a batch       {"stream": "S", "domain": "D", "seq": 9, "batch": "B", "count": 5}

A PubAck is proof only if it came to an unguessable token and names the stream that was asked and
its domain. For one message ``seq`` is above 0. For a batch it names our batch and a ``count`` of at
most what was sent; ``seq`` 0 with the full count is proof as well, of a batch of duplicates. A
batch's flow acks name neither stream nor batch: they prove nothing. Everything else is noise. A
duplicate is Stored (R-ONCE); if the id is a producer's, ``duplicates`` asks whose message it is.

Error answers go by ``err_code``, never by HTTP class: 10002 (no space left in the account) is a
400, a full stream is a 503. What each means: ``codes``.

Everything that comes from JetStream as JSON is read in this file, and nothing here raises, whatever
comes.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeGuard

from relay.core.outcome import Held, Refused, Stored, Unknown
from relay.jetstream.codes import NO_RESPONDERS, Kind, code_of

Json = dict[str, Any]

HIDDEN: Final = ""
"""The name of the stream that events go to where the permissions hide which one that is."""

FLOW: Final = "flow"
"""What a flow ack or a gap of a batch means: the server is at work. It proves nothing."""

_MOST = (1 << 64) - 1
_NAME = re.compile(r"[^\x00-\x20\x7f.*>/\\\ud800-\udfff]{1,255}")

# The names of holds, as ``Held.by``.

STREAMS: Final = "streams"
FORBIDDEN: Final = "forbidden subjects"


def out(stream: str) -> str:
    """Name the outage of a whole stream."""
    return f"stream {stream}" if stream != HIDDEN else STREAMS


def silent(stream: str) -> str:
    """Name the silence of single subjects of a stream."""
    return f"silent subjects of {stream}" if stream != HIDDEN else "silent subjects"


def lost(stream: str) -> str:
    """Name the subjects that a stream captured once."""
    return f"lost subjects of {stream}"


# Error answers.


WHOLE_STREAM: Final = frozenset({Kind.STREAM, Kind.STREAM_CHANGED})
"""The kinds after which nothing more is sent to the stream in the same call."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """An error answer, read: the outcome of its event, and how far it reaches."""

    outcome: Refused | Held | Unknown
    kind: Kind


def judge(code: int, text: str, stream: str, expected: str) -> Meaning:
    """Read one error answer by its ``err_code``.

    Where the streams are hidden, an outage is believed only of the subject that met it: its
    neighbour may be another stream's.
    """
    kind = code_of(code, text).kind
    by = out(stream)
    if kind is Kind.SUBJECT:
        by = f"full subjects of {stream}"
    elif kind is Kind.NOBODY:
        by = silent(stream)
    elif expected == HIDDEN and kind in WHOLE_STREAM:
        kind = Kind.SUBJECT
    reason = f"{text} (JetStream error {code})"
    if kind in {Kind.SUBJECT, Kind.STREAM, Kind.NOBODY}:
        return Meaning(Held(by, f"{by}: {reason}", code), kind)
    return Meaning((Refused if kind is Kind.THIS_EVENT else Unknown)(reason, code), kind)


def read_status(headers: bytes, stream: str) -> Meaning | None:
    """Read an answer that is only a status line; only 503 means anything here."""
    if status_of(headers) != b"503":
        return None
    return judge(NO_RESPONDERS, "nobody takes its messages", stream, stream)


def status_of(headers: bytes) -> bytes:
    """Return the three digits of a status line; other bytes if there are none."""
    return headers[9:12]


def read_error(error: object, stream: str, expected: str) -> Meaning | None:
    """Read the ``error`` object of an answer of ``stream``; None if it is none."""
    code = whole(error.get("err_code")) if isinstance(error, dict) else None
    if not isinstance(error, dict) or code is None:
        return None
    text = error.get("description")
    return judge(code, text if isinstance(text, str) else "no description", stream, expected)


# Proof.


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """An answer of another stream, or of another domain's stream. It proves nothing."""

    stream: str
    home: bool  # it says that it is of our own domain: the subject may lead there


@dataclass(frozen=True, slots=True)
class BatchAck:
    """The PubAck of a batch: its first ``count`` messages are stored."""

    count: int
    seq: int  # of the last message that was stored now; 0 if none was
    duplicate: bool  # of a batch of one: the stream had it already


class Expected:
    """Whose answers count: those of one stream. ``HIDDEN``: any stream's answer is believed.

    ``domain`` is "" if the stream has none, and None until an answer names one. ``quick`` matches
    the usual PubAck of one message; groups: seq, duplicate.
    """

    __slots__ = ("domain", "quick", "stream")

    def __init__(self, stream: str, domain: str | None) -> None:
        """Take answers of ``stream`` in ``domain``."""
        self.stream = stream
        self.domain = domain
        self.quick = _quick(stream, domain)

    def by(self, answer: Json) -> "Elsewhere | bool":
        """Say whether ``answer`` is by the stream, by another one, or (False) by nobody.

        An error names no domain, so it is believed of any.
        """
        name, domain = answer.get("stream"), answer.get("domain", "")
        if not is_name(name) or not isinstance(domain, str):
            return False
        if self.domain is None and domain and self.stream in {HIDDEN, name}:
            self.domain = domain
        is_error = not domain and answer.get("error") is not None
        home = self.domain is None or domain == self.domain or is_error
        if home and self.stream in {HIDDEN, name}:
            return True
        return Elsewhere(name, home=home)


def _quick(stream: str, domain: str | None) -> Callable[[bytes], re.Match[bytes] | None]:
    if stream == HIDDEN:
        return re.compile(rb"(?!)").fullmatch
    where = rb'"domain":"%b", ?' % re.escape(domain.encode()) if domain else b""
    return re.compile(
        rb'\{"stream":"%b", ?%b"seq":([1-9]\d{0,18})(, ?"duplicate": ?true)?\}'
        % (re.escape(stream.encode()), where)
    ).fullmatch


def decode(payload: bytes) -> Json | None:
    """Read a JSON object; None if it is none."""
    try:
        answer = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    return answer if isinstance(answer, dict) else None


def is_name(value: object) -> TypeGuard[str]:
    """Say whether ``value`` can be a stream's name: it becomes a hold's, and stands in SQL."""
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def whole(value: object) -> int | None:
    """Return ``value`` if it is a whole number of 0 to 2^64 - 1, else None."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST:
        return value
    return None


def read_puback(
    payload: bytes, headers: bytes | None, expected: Expected
) -> Stored | Meaning | Elsewhere | None:
    """Read the answer to one message; None if it says nothing.

    The usual answer is found by ``expected.quick`` before, which costs one regular expression.
    """
    if not payload and headers is not None:
        return read_status(headers, expected.stream)
    answer = decode(payload)
    if answer is None:
        return None
    by, error = expected.by(answer), answer.get("error")
    if isinstance(by, Elsewhere):
        return by
    name = str(answer["stream"]) if by else expected.stream
    if error is not None:
        return read_error(error, name, expected.stream)
    seq = whole(answer.get("seq"))
    if not by or not seq:
        return None
    return Stored(name, seq, duplicate=answer.get("duplicate") is True)


def read_batch(
    payload: bytes, headers: bytes | None, expected: Expected, batch: str, sent: int
) -> BatchAck | Meaning | tuple[int, Meaning] | Elsewhere | str | None:
    """Read an answer to a message of ``batch``, of which ``sent`` messages were sent.

    A tuple names the number of the message that the error is about; a bare ``Meaning`` is about
    the message that was answered. ``FLOW`` says that the server is at work. None says nothing.
    """
    if not payload and headers is not None:
        return read_status(headers, expected.stream)
    answer = decode(payload) or {}
    kind, error = answer.get("type"), answer.get("error")
    if isinstance(kind, str):
        return _read_progress(kind, answer, expected.stream)
    by = expected.by(answer)
    if isinstance(by, Elsewhere):
        return by
    if error is not None:
        return read_error(error, expected.stream, expected.stream)
    seq, count = whole(answer.get("seq")), whole(answer.get("count"))
    if not by or answer.get("batch") != batch or seq is None or not count or count > sent:
        return None
    return BatchAck(count, seq, duplicate=answer.get("duplicate") is True)


def _read_progress(kind: str, answer: Json, stream: str) -> tuple[int, Meaning] | str | None:
    if kind in {"ack", "gap"}:
        return FLOW
    number, meaning = whole(answer.get("seq")), read_error(answer.get("error"), stream, stream)
    return None if kind != "err" or number is None or meaning is None else (number, meaning)
