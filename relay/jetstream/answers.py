"""JetStream's answers, read by one table of ``err_code``. Never by HTTP class: 10002 (no space
left in the account) is a 400, a full stream is a 503.

    kind            the outcome                what follows for the others of the same stream
    THIS_EVENT      Refused                    they go on; the event can't be stored as it is
    NOT_NOW         Unknown                    they go on
    SUBJECT         Held "full subjects of X"  the subject's others share it, the rest goes on
    STREAM          Held "stream X"            nothing more is sent to this stream for a while
    NOBODY          Held "stream X"            the same; STREAM.NAMES is asked whether it is gone
    SILENCE         Held "stream X"            the same; JetStream is asked whether it is there
    STREAM_CHANGED  Unknown                    nothing more in this call, then it is looked up anew

A code that is not in the table is NOT_NOW: doubt means not delivered. A duplicate is Stored.

Where the permissions hide the streams, "stream ?" stands for all of them, and an outage is believed
of the subject that met it only: its neighbour may be another stream's.
"""

import enum
import json
import re
from dataclasses import dataclass
from typing import Any

from relay.core.outcome import Held, Outcome, Refused, Stored, Unknown

NO_RESPONDERS = 503
"""Stands in the table for the status that NATS sends when nobody listens on a subject."""

HIDDEN = "?"
"""The name under which events go whose stream the permissions hide."""

_FULL = 10077
_ACK = re.compile(rb'\{"stream":"[^"\\]*", ?"seq":(\d+)(, ?"duplicate": ?true)?\}')


class Kind(enum.Enum):
    """What an error answer means for its event and for the stream."""

    THIS_EVENT = "this event"
    NOT_NOW = "not now"
    SUBJECT = "the subject"
    STREAM = "the stream"
    NOBODY = "nobody"
    SILENCE = "silence"
    STREAM_CHANGED = "the stream changed"


WHOLE_STREAM = frozenset({Kind.STREAM, Kind.NOBODY, Kind.SILENCE, Kind.STREAM_CHANGED})
"""The kinds after which nothing more is sent to the stream in the same call."""

KINDS: dict[int, Kind] = {
    # The event itself: stored by no retry.
    10054: Kind.THIS_EVENT,  # over max_msg_size, headers included
    10097: Kind.THIS_EVENT,  # headers over 65,535 bytes
    10060: Kind.THIS_EVENT,  # expectations, which only Nats-* headers of its own can carry
    10070: Kind.THIS_EVENT,
    10071: Kind.THIS_EVENT,
    10164: Kind.THIS_EVENT,
    10193: Kind.THIS_EVENT,
    10111: Kind.THIS_EVENT,  # roll-up not permitted
    10165: Kind.THIS_EVENT,  # TTL
    10166: Kind.THIS_EVENT,
    10168: Kind.THIS_EVENT,  # counters
    10169: Kind.THIS_EVENT,
    10170: Kind.THIS_EVENT,
    10171: Kind.THIS_EVENT,
    10188: Kind.THIS_EVENT,  # schedules
    10189: Kind.THIS_EVENT,
    10190: Kind.THIS_EVENT,
    10191: Kind.THIS_EVENT,
    10192: Kind.THIS_EVENT,
    10203: Kind.THIS_EVENT,
    10212: Kind.THIS_EVENT,
    10223: Kind.THIS_EVENT,
    10227: Kind.THIS_EVENT,  # Nats-Stream-Source
    # This id only, and only for now.
    10158: Kind.NOT_NOW,  # a copy of it is just being stored
    10163: Kind.NOT_NOW,  # an expectation can't be checked yet
    # The stream takes nothing now.
    _FULL: Kind.STREAM,  # "per subject" is told apart below
    10002: Kind.STREAM,  # the account's limits
    10120: Kind.STREAM,  # the account has none that applies
    10023: Kind.STREAM,  # the server's limits
    10028: Kind.STREAM,  # its memory
    10047: Kind.STREAM,  # its disk
    10008: Kind.STREAM,  # JetStream temporarily unavailable
    10009: Kind.STREAM,  # not the leader
    10063: Kind.STREAM,  # a follower that is behind
    10109: Kind.STREAM,  # sealed
    10118: Kind.STREAM,  # offline
    10194: Kind.STREAM,
    10167: Kind.STREAM,  # too many requests
    10210: Kind.STREAM,  # too many batches
    10211: Kind.STREAM,
    10035: Kind.STREAM,  # JetStream not enabled, for nobody or not for this account
    10039: Kind.STREAM,
    10076: Kind.STREAM,
    # No leader, or gone, or its subjects have changed.
    NO_RESPONDERS: Kind.NOBODY,
    10059: Kind.NOBODY,  # not found
    # What we believe of the stream is out of date.
    10205: Kind.STREAM_CHANGED,  # batches were switched off
    10206: Kind.STREAM_CHANGED,
    10207: Kind.STREAM_CHANGED,
    10208: Kind.STREAM_CHANGED,  # batch unknown: the subject is another stream's, or a restart
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """An error answer, read: what its event came to and how far it reaches."""

    outcome: Refused | Held | Unknown
    kind: Kind


@dataclass(frozen=True, slots=True)
class Sent:
    """What came of sending some events of one stream.

    Attributes:
        outcomes: one an event; None where the connection was lost first.
        verdict: the first answer of a kind in ``WHOLE_STREAM``; None if there was none.
        subject: that of the event which got this answer.
    """

    outcomes: list[Outcome | None]
    verdict: Verdict | None = None
    subject: str = ""


def out(stream: str) -> str:
    """Name the outage of a whole stream, as ``Held.by``."""
    return f"stream {stream}"


def judge(code: int, text: str, stream: str) -> Verdict:
    """Read one error answer of ``stream`` by its ``err_code``."""
    kind = KINDS.get(code, Kind.NOT_NOW)
    by = out(stream)
    if code == _FULL and "per subject" in text:
        kind, by = Kind.SUBJECT, f"full subjects of {stream}"
    elif stream == HIDDEN and kind in WHOLE_STREAM:
        kind = Kind.SUBJECT
    reason = f"{by}: {text} (JetStream error {code})"
    if kind in {Kind.SUBJECT, Kind.STREAM, Kind.NOBODY}:
        return Verdict(Held(by, reason, code), kind)
    reason = f"{text} (JetStream error {code})"
    if kind is Kind.THIS_EVENT:
        return Verdict(Refused(reason, code), kind)
    return Verdict(Unknown(reason, code), kind)


def judge_error(error: dict[str, Any], stream: str) -> Verdict:
    """Read the ``error`` object of an answer."""
    text = str(error.get("description", "no description"))
    return judge(int(error.get("err_code", 0)), text, stream)


def judge_status(headers: bytes, stream: str) -> Verdict | None:
    """Read an answer that is only a status line; only ``NATS/1.0 503`` means anything here."""
    if headers[9:12] != b"503":
        return None
    return judge(NO_RESPONDERS, "no responders: no leader, gone, or JetStream is off", stream)


def silence(stream: str, seconds: float) -> Verdict:
    """Make the verdict on a stream that has not answered for so long."""
    by = out(stream)
    return Verdict(Held(by, f"{by}: no answer within {seconds:g} s"), Kind.SILENCE)


def forbidden(reason: str) -> Held:
    """Make the outcome of an event to whose subject the permissions allow no publishing."""
    return Held("permissions", reason)


def read_puback(payload: bytes, headers: bytes | None, stream: str) -> Stored | Verdict | None:
    """Read the answer to one message plainly published to ``stream``.

    None if it is none of JetStream's: whoever else subscribes to the subject may reply as well, and
    says nothing about what is stored. The usual answer costs one regular expression.
    """
    ack = _ACK.fullmatch(payload)
    if ack is not None:
        return Stored(int(ack[1]), ack[2] is not None)
    if not payload and headers is not None:
        return judge_status(headers, stream)
    try:
        answer = json.loads(payload)
        if "error" in answer:
            return judge_error(answer["error"], stream)
        return Stored(int(answer["seq"]), bool(answer.get("duplicate", False)))
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
