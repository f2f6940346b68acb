"""JetStream's error answers, by one table of ``err_code``; and the names of holds. Pure.

Never by HTTP class: 10002 (no space left in the account) is a 400, a full stream is a 503.

    kind            the outcome                what follows for the others of the same stream
    THIS_EVENT      Refused                    they go on; the event can't be stored as it is
    NOT_NOW         Unknown                    they go on
    SUBJECT         Held "full subjects of X"  the subject's others share it, the rest goes on
    NOBODY          Held "silent subjects …"   the same; if nothing else is stored, ask why
    STREAM          Held "stream X"            nothing more is sent to this stream in this call
    STREAM_CHANGED  Unknown                    the same, and the stream is looked up anew

A code that is not in the table is NOT_NOW: doubt means not delivered.
"""

import enum
from dataclasses import dataclass
from typing import Final

from relay.core.outcome import Held, Refused, Unknown

NO_RESPONDERS: Final = 503
"""Stands in the table for the status that NATS sends when nobody listens on a subject."""

HIDDEN: Final = ""
"""The name of the stream that events go to where the permissions hide which one that is."""

_FULL = 10077


class Kind(enum.Enum):
    """What an error answer means for its event and for the stream."""

    THIS_EVENT = "this event"
    NOT_NOW = "not now"
    SUBJECT = "the subject"
    NOBODY = "nobody"
    STREAM = "the stream"
    STREAM_CHANGED = "the stream changed"


WHOLE_STREAM: Final = frozenset({Kind.STREAM, Kind.STREAM_CHANGED})
"""The kinds after which nothing more is sent to the stream in the same call."""

KINDS: Final[dict[int, Kind]] = {
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
    10168: Kind.STREAM,  # a stream of counters takes no event, whatever the event is
    10169: Kind.STREAM,
    10170: Kind.STREAM,
    10171: Kind.STREAM,
    # No leader, or gone, or the subject leads elsewhere.
    NO_RESPONDERS: Kind.NOBODY,
    10059: Kind.NOBODY,  # not found
    # What we believe of the stream is out of date.
    10205: Kind.STREAM_CHANGED,  # batches were switched off
    10206: Kind.STREAM_CHANGED,
    10207: Kind.STREAM_CHANGED,
    10208: Kind.STREAM_CHANGED,  # batch unknown: the subject is another stream's, or a restart
}


@dataclass(frozen=True, slots=True)
class Meaning:
    """An error answer, read: what its event came to and how far it reaches."""

    outcome: Refused | Held | Unknown
    kind: Kind


def judge(code: int, text: str, stream: str, expected: str) -> Meaning:
    """Read one error answer by its ``err_code``.

    Where the streams are hidden, an outage is believed only of the subject that met it: its
    neighbour may be another stream's.
    """
    kind = KINDS.get(code, Kind.NOT_NOW)
    by = out(stream)
    if code == _FULL and "per subject" in text:
        kind, by = Kind.SUBJECT, f"full subjects of {stream}"
    elif kind is Kind.NOBODY:
        by = silent(stream)
    elif expected == HIDDEN and kind in WHOLE_STREAM:
        kind = Kind.SUBJECT
    if kind in {Kind.SUBJECT, Kind.STREAM, Kind.NOBODY}:
        return Meaning(Held(by, f"{by}: {text} (JetStream error {code})", code), kind)
    reason = f"{text} (JetStream error {code})"
    if kind is Kind.THIS_EVENT:
        return Meaning(Refused(reason, code), kind)
    return Meaning(Unknown(reason, code), kind)


# The names of holds.

STREAMS: Final = "streams"
FORBIDDEN: Final = "forbidden subjects"


def out(stream: str) -> str:
    """Name the outage of a whole stream, as ``Held.by``."""
    return f"stream {stream}" if stream != HIDDEN else STREAMS


def silent(stream: str) -> str:
    """Name the silence of single subjects of a stream, as ``Held.by``."""
    return f"silent subjects of {stream}" if stream != HIDDEN else "silent subjects"


def lost(stream: str) -> str:
    """Name the subjects that a stream captured once, as ``Held.by``."""
    return f"lost subjects of {stream}"
