"""What JetStream's error codes mean for delivery: the one table, for the relay and for people.

    kind            the outcome                what follows for the others of the same stream
    THIS_EVENT      Refused                    they go on; the event can't be stored as it is
    NOT_NOW         Unknown                    they go on
    SUBJECT         Held "full subjects of X"  the subject's others share it, the rest goes on
    NOBODY          Held "silent subjects …"   the same; if nothing else is stored, ask why
    STREAM          Held "stream X"            nothing more is sent to this stream in this call
    STREAM_CHANGED  Unknown                    the same, and the stream is looked up anew

A code that is not in the table is NOT_NOW: doubt means not delivered. ``answers`` goes by the kind;
``dead show``, ``status`` and ``doctor`` print the sentences.
"""

import enum
from collections.abc import Mapping
from typing import Final, NamedTuple


class Kind(enum.Enum):
    """What an error answer means for its event and for the stream; the value: what the relay does.

    A sentence without a subject, such as "holds the stream's events …".
    """

    THIS_EVENT = (
        "refuses the event: tries it again with growing pauses until RELAY_MAX_ATTEMPTS, then it is"
        " dead; its key waits until then"
    )
    NOT_NOW = "tries it again under the same message id, up to RELAY_MAX_RETRY_DELAY apart"
    SUBJECT = "holds the events of this subject, without an attempt counted; all others flow"
    NOBODY = "holds the events of this subject, without an attempt counted, and asks why"
    STREAM = "holds the events of this stream, without an attempt counted; other streams' flow"
    STREAM_CHANGED = "looks the stream up anew, and sends again under the same message ids"


class Code(NamedTuple):
    """One row.

    Attributes:
        kind: what it means for the event and its stream.
        meaning: what is wrong, as a sentence without a subject.
        remedy: what a person does about it.
    """

    kind: Kind
    meaning: str
    remedy: str

    def in_words(self) -> dict[str, str]:
        """Return what is wrong, what the relay does and what a person does, by label."""
        return {"meaning": self.meaning, "relay": self.kind.value, "remedy": self.remedy}


NO_RESPONDERS: Final = 503
"""Stands in the table for the status that NATS sends when nobody listens on a subject."""

STREAM_NOT_FOUND: Final = 10059
STREAM_FULL: Final = 10077

_WAIT: Final = "nothing, unless it lasts"
_LEADER: Final = "look at the servers of the stream's cluster: a majority has to be up"

_OWN_HEADERS: Final = Code(
    Kind.THIS_EVENT,
    "a Nats-… header of the event asks for what the stream does not do",
    "drop the event, and have its producer write it again without that header",
)
_NO_LEADER: Final = Code(Kind.STREAM, "the stream has no leader that is up to date", _LEADER)
_ACCOUNT: Final = Code(
    Kind.STREAM,
    "the account has used up its JetStream storage",
    "raise the account's limit, or delete or limit streams of it",
)
_SERVER: Final = Code(
    Kind.STREAM,
    "the server has no memory or disk left for JetStream",
    "give the server more, or raise max_memory_store or max_file_store",
)
_OFFLINE: Final = Code(
    Kind.STREAM,
    "the stream is offline",
    "look at the server's log: it is often of an older release than the stream needs",
)
_BUSY: Final = Code(Kind.STREAM, "the stream has too much in hand", _WAIT)
_OFF: Final = Code(
    Kind.STREAM,
    "JetStream is off for this account or server",
    "switch it on: jetstream {} in the server's configuration, and for the account",
)
_COUNTER: Final = Code(
    Kind.STREAM,
    "the stream counts (allow_msg_counter) and takes no event",
    "publish to another stream",
)
_BATCHES: Final = Code(Kind.STREAM_CHANGED, "the stream takes no such batch any more", _WAIT)

CODES: Final[Mapping[int, Code]] = {
    10054: Code(
        Kind.THIS_EVENT,
        "the message is larger than the stream's max_msg_size, headers included",
        "raise max_msg_size and retry the event, or drop it",
    ),
    10097: Code(
        Kind.THIS_EVENT,
        "the headers are larger than 65,535 bytes",
        "drop the event, and have its producer write smaller headers",
    ),
    # What only Nats-* headers of the event's own can ask for: expectations, roll-up, schedules,
    # Nats-Stream-Source.
    **dict.fromkeys((10060, 10070, 10071, 10164, 10193, 10111), _OWN_HEADERS),
    **dict.fromkeys((10188, 10189, 10190, 10191, 10192, 10203), _OWN_HEADERS),
    **dict.fromkeys((10212, 10223, 10227), _OWN_HEADERS),
    10165: Code(
        Kind.THIS_EVENT,
        "the event's ttl is none that the server takes",
        "drop the event, and have its producer write it again with a ttl of whole seconds",
    ),
    10166: Code(
        Kind.THIS_EVENT,
        "the event has a ttl, and the stream removes no messages by a ttl of their own",
        "set allow_msg_ttl on the stream and retry the event, or drop it",
    ),
    10158: Code(Kind.NOT_NOW, "a copy of the event is just being stored", _WAIT),
    10163: Code(Kind.NOT_NOW, "an expectation can't be checked yet", _WAIT),
    STREAM_FULL: Code(  # but see ``FULL_SUBJECT``
        Kind.STREAM,
        "the stream is full, and discards what is new",
        "let its consumers catch up, purge it, or raise max_msgs or max_bytes",
    ),
    **dict.fromkeys((10002, 10120), _ACCOUNT),  # it has no limit that applies
    **dict.fromkeys((10023, 10028, 10047), _SERVER),
    10008: Code(Kind.STREAM, "JetStream is not available for a moment", _LEADER),
    **dict.fromkeys((10009, 10063), _NO_LEADER),  # a follower that is behind
    10109: Code(
        Kind.STREAM,
        "the stream is sealed and takes no message",
        "let another stream capture the subjects",
    ),
    **dict.fromkeys((10118, 10194), _OFFLINE),
    **dict.fromkeys((10167, 10210, 10211), _BUSY),
    **dict.fromkeys((10035, 10039, 10076), _OFF),
    # A stream of counters takes no event, whatever the event is.
    **dict.fromkeys((10168, 10169, 10170, 10171), _COUNTER),
    NO_RESPONDERS: Code(
        Kind.NOBODY,
        "nobody takes messages on this subject: its stream is gone or has no leader, or gave the"
        " subject away",
        "make the stream, or add the subject to it; else " + _LEADER,
    ),
    STREAM_NOT_FOUND: Code(
        Kind.NOBODY, "the stream is gone", "make it again, with the subjects that it had"
    ),
    # Batches were switched off; 10208, batch unknown: another stream's subject, or a restart.
    **dict.fromkeys((10205, 10206, 10207, 10208), _BATCHES),
}

UNKNOWN: Final = Code(
    Kind.NOT_NOW,
    "the relay does not know this code",
    "look it up in the release notes of nats-server; an upgrade of the relay may know it",
)


FULL_SUBJECT: Final = Code(
    Kind.SUBJECT,
    "the stream holds as many messages of this subject as it may, and discards what is new",
    "let its consumers catch up, purge the subject, or raise max_msgs_per_subject",
)
"""``STREAM_FULL`` as well: only the text tells the two apart."""


def code_of(number: int, text: str) -> Code:
    """Return the row of an ``err_code`` with this description; ``UNKNOWN`` if it has none."""
    if number == STREAM_FULL and "per subject" in text:
        return FULL_SUBJECT
    return CODES.get(number, UNKNOWN)
