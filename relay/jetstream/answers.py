"""JetStream's answers, read by one table of ``err_code``. Never by HTTP class: 10002 (no space
left in the account) is a 400, a full stream is a 503.

    kind            the outcome   what follows for the others of the same stream
    THIS_EVENT      Refused       they go on; the event can't be stored as it is
    NOT_NOW         Unknown       its key waits, the other keys go on
    STREAM          Unknown       nothing more is sent to this stream in this call
    STREAM_CHANGED  Unknown       the same, and what we know of the stream is looked up anew

A code that is not in the table is NOT_NOW: doubt means not delivered. A duplicate is Stored.
"""

import enum
import json
import re
from dataclasses import dataclass
from typing import Any

from relay.core.outcome import Refused, Stored, Unknown

NO_RESPONDERS = 503
"""Stands in the table for the status that NATS sends when nobody listens on a subject."""

_ACK = re.compile(rb'\{"stream":"[^"\\]*", ?"seq":(\d+)(, ?"duplicate": ?true)?\}')


class Kind(enum.Enum):
    """What an error answer means for its event and for the stream."""

    THIS_EVENT = "this event"
    NOT_NOW = "not now"
    STREAM = "the stream"
    STREAM_CHANGED = "the stream changed"


_KINDS: dict[int, Kind] = {
    # The event itself: stored by no retry.
    10054: Kind.THIS_EVENT,  # over max_msg_size, headers included
    10097: Kind.THIS_EVENT,  # headers over 65,535 bytes
    10071: Kind.THIS_EVENT,  # wrong last sequence: control headers that only Nats-* names can carry
    10164: Kind.THIS_EVENT,
    10070: Kind.THIS_EVENT,
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
    10193: Kind.THIS_EVENT,
    10203: Kind.THIS_EVENT,
    10212: Kind.THIS_EVENT,
    10223: Kind.THIS_EVENT,
    10227: Kind.THIS_EVENT,
    # This id only, and only for now.
    10158: Kind.NOT_NOW,  # a copy of it is just being stored
    10163: Kind.NOT_NOW,
    # The stream takes nothing now.
    10002: Kind.STREAM,  # account limit
    10008: Kind.STREAM,  # JetStream temporarily unavailable
    10009: Kind.STREAM,  # not the leader
    10023: Kind.STREAM,  # insufficient resources
    10028: Kind.STREAM,
    10047: Kind.STREAM,
    10063: Kind.STREAM,
    10077: Kind.STREAM,  # full; "per subject" is told apart below
    10109: Kind.STREAM,  # sealed
    10118: Kind.STREAM,  # offline
    10194: Kind.STREAM,
    10167: Kind.STREAM,  # too many requests
    10210: Kind.STREAM,
    10211: Kind.STREAM,
    10035: Kind.STREAM,  # JetStream not enabled
    10039: Kind.STREAM,
    10076: Kind.STREAM,
    # What we believe of the stream is out of date.
    NO_RESPONDERS: Kind.STREAM_CHANGED,  # no leader, or gone, or its subjects have changed
    10059: Kind.STREAM_CHANGED,  # not found
    10060: Kind.STREAM_CHANGED,  # another stream than expected
    10205: Kind.STREAM_CHANGED,  # batches were switched off
    10206: Kind.STREAM_CHANGED,
    10207: Kind.STREAM_CHANGED,
    10208: Kind.STREAM_CHANGED,  # batch unknown: the subject is another stream's, or a restart
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """An error answer, read: what its event came to and how far it reaches."""

    outcome: Refused | Unknown
    kind: Kind


def judge(code: int, text: str) -> Verdict:
    """Read one error answer by its ``err_code``."""
    kind = _KINDS.get(code, Kind.NOT_NOW)
    if code == 10077 and "per subject" in text:  # noqa: PLR2004 - one subject is full, not the stream
        kind = Kind.NOT_NOW
    reason = f"{text} (JetStream error {code})"
    if kind is Kind.THIS_EVENT:
        return Verdict(Refused(reason, code), kind)
    return Verdict(Unknown(reason, code), kind)


def judge_error(error: dict[str, Any]) -> Verdict:
    """Read the ``error`` object of an answer."""
    return judge(int(error.get("err_code", 0)), str(error.get("description", "no description")))


def judge_status(headers: bytes) -> Verdict | None:
    """Read an answer that is only a status line; only ``NATS/1.0 503`` means anything here."""
    if headers[9:12] != b"503":
        return None
    return judge(
        NO_RESPONDERS, "no responders: the stream is gone, has no leader, or JetStream is off"
    )


def read_puback(payload: bytes, headers: bytes | None) -> Stored | Verdict | None:
    """Read the answer to one plainly published message.

    None if it is none of JetStream's: whoever else subscribes to the subject may reply as well, and
    says nothing about what is stored. The usual answer costs one regular expression.
    """
    ack = _ACK.fullmatch(payload)
    if ack is not None:
        return Stored(int(ack[1]), ack[2] is not None)
    if not payload and headers is not None:
        return judge_status(headers)
    try:
        answer = json.loads(payload)
        if "error" in answer:
            return judge_error(answer["error"])
        return Stored(int(answer["seq"]), bool(answer.get("duplicate", False)))
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
