"""What JetStream's answers mean, and which of them prove that an event is stored (R-LOSS).

    one message   {"stream": "S", "domain": "D", "seq": 7, "duplicate": true}
    a batch       {"stream": "S", "domain": "D", "seq": 9, "batch": "B", "count": 5}

A PubAck is proof only if it came to an unguessable token and names the stream that was asked and
its domain. For one message ``seq`` is above 0. For a batch it names our batch and a ``count`` of at
most what was sent; ``seq`` 0 with the full count is proof as well, of a batch of duplicates. A
batch's flow acks name neither stream nor batch: they prove nothing. Everything else is noise,
whoever sent it.

Everything that comes from a server as JSON is read in this file, and nothing here raises, whatever
comes. What an error answer means is the table of ``error_codes``. A duplicate is Stored (R-ONCE);
whose it is, if the id is a producer's, is asked by ``duplicates``.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeGuard

from relay.core.outcome import Stored
from relay.jetstream.error_codes import HIDDEN, NO_RESPONDERS, Meaning, judge

Json = dict[str, Any]

_MOST = (1 << 64) - 1
_NAME = re.compile(r"[^\x00-\x20\x7f.*>/\\\ud800-\udfff]{1,255}")


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """An answer of another stream, or of another domain's stream. It proves nothing.

    Attributes:
        stream: its name.
        home: whether it says that it is of our own domain: the subject may lead there.
    """

    stream: str
    home: bool


@dataclass(frozen=True, slots=True)
class BatchAck:
    """The PubAck of a batch: its first ``count`` messages are stored.

    Attributes:
        count: how many.
        seq: the stream sequence of the last message that was stored now; 0 if none was.
        duplicate: of a batch of one, whether the stream had it already.
    """

    count: int
    seq: int
    duplicate: bool


FLOW: Final = "flow"
"""What a flow ack or a gap of a batch means: the server is at it. It proves nothing."""


class Expected:
    """Whose answers count: those of one stream. Kept as long as what is known of it.

    Attributes:
        stream: its name; ``HIDDEN`` where any stream's answer has to be believed.
        domain: its JetStream domain, "" if it has none; None until an answer says.
        quick: matches the usual PubAck of one message; groups: seq, duplicate.
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
        unsaid = not domain and answer.get("error") is not None
        home = self.domain is None or domain == self.domain or unsaid
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


# Reading.


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
    if error is not None:
        return read_error(error, _name(answer) if by else expected.stream, expected.stream)
    seq = whole(answer.get("seq"))
    if not by or not seq:
        return None
    return Stored(_name(answer), seq, duplicate=answer.get("duplicate") is True)


def read_batch(
    payload: bytes, headers: bytes | None, expected: Expected, batch: str, sent: int
) -> BatchAck | Meaning | tuple[int, Meaning] | Elsewhere | str | None:
    """Read an answer to a message of ``batch``, of which ``sent`` messages were sent.

    A tuple names the number of the message that the error is about; a bare ``Meaning`` is about
    the one that was answered. ``FLOW`` says that the server is at it. None says nothing.
    """
    if not payload and headers is not None:
        return read_status(headers, expected.stream)
    answer = decode(payload) or {}
    kind = answer.get("type")
    if isinstance(kind, str):
        return _progress(kind, answer, expected.stream)
    by = expected.by(answer)
    if isinstance(by, Elsewhere):
        return by
    if answer.get("error") is not None:
        return read_error(answer["error"], expected.stream, expected.stream)
    seq, count = whole(answer.get("seq")), whole(answer.get("count"))
    if not by or answer.get("batch") != batch or seq is None or not count or count > sent:
        return None
    return BatchAck(count, seq, duplicate=answer.get("duplicate") is True)


def _progress(kind: str, answer: Json, stream: str) -> tuple[int, Meaning] | str | None:
    """Read what a server says of a batch under way."""
    if kind in {"ack", "gap"}:
        return FLOW
    number, verdict = whole(answer.get("seq")), read_error(answer.get("error"), stream, stream)
    return None if kind != "err" or number is None or verdict is None else (number, verdict)


def read_status(headers: bytes, stream: str) -> Meaning | None:
    """Read an answer that is only a status line; only ``NATS/1.0 503`` means anything here."""
    if status_of(headers) != b"503":
        return None
    return judge(NO_RESPONDERS, "nobody takes its messages", stream, stream)


def status_of(headers: bytes) -> bytes:
    """Return the three digits of a status line; other bytes if there are none."""
    return headers[9:12]


def read_error(error: object, stream: str, expected: str) -> Meaning | None:
    """Read the ``error`` object of an answer of ``stream``; None if it is none."""
    if not isinstance(error, dict):
        return None
    text = error.get("description")
    code = whole(error.get("err_code"))
    if code is None:
        return None
    return judge(code, text if isinstance(text, str) else "no description", stream, expected)


def _name(answer: Json) -> str:
    name: str = answer["stream"]
    return name


# What JetStream's own API says.


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """A STREAM.INFO, with nothing in it but what is as it should be.

    Attributes:
        name: the stream's.
        config: its configuration: ``_CONFIG`` says which fields of which type.
        state: messages, bytes, first_seq, last_seq, consumer_count.
        domain: its JetStream domain, "" if it has none.
    """

    name: str
    config: Json
    state: dict[str, int]
    domain: str

    @property
    def subjects(self) -> tuple[str, ...]:
        """The subject filters."""
        return tuple(self.config.get("subjects", ()))


_CONFIG: Final[dict[str, type]] = {
    **dict.fromkeys(("storage", "retention", "discard", "persist_mode"), str),
    **dict.fromkeys(
        ("no_ack", "sealed", "allow_batched", "allow_direct", "allow_msg_counter"), bool
    ),
    **dict.fromkeys(
        ("max_msgs", "max_bytes", "max_age", "max_msgs_per_subject", "max_msg_size"), int
    ),
    **dict.fromkeys(("num_replicas", "duplicate_window"), int),
    "mirror": dict,
}
_STATE: Final = ("messages", "bytes", "first_seq", "last_seq", "consumer_count")


def read_stream_info(answer: object) -> StreamInfo | None:
    """Read a STREAM.INFO, or one of a STREAM.LIST; None if it is none."""
    if not isinstance(answer, dict):
        return None
    config, state = answer.get("config"), answer.get("state")
    name = config.get("name") if isinstance(config, dict) else None
    if not is_name(name) or not isinstance(config, dict):
        return None
    kept = {
        field: config[field] for field, kind in _CONFIG.items() if type(config.get(field)) is kind
    }
    subjects = config.get("subjects")
    if isinstance(subjects, list):
        kept["subjects"] = [each for each in subjects if isinstance(each, str)]
    state = state if isinstance(state, dict) else {}
    domain = answer.get("domain", "")
    return StreamInfo(
        name,
        kept,
        {field: whole(state.get(field)) or 0 for field in _STATE},
        domain if isinstance(domain, str) else "",
    )
