"""What publishing one event came to. Values, never exceptions: an outage is an exception.

Stored    JetStream has it                      -> pass over it
Refused   it can't be stored as it is           -> park it; its key's later events queue behind it
Held      its stream or subject takes nothing   -> keep it until that takes events again; the
                                                   others flow, and it costs no attempt
Unknown   nobody can tell                       -> again, with the same message id
"""

import enum
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Stored:
    """JetStream has the event: it acknowledged it now, or it is known to hold it.

    Attributes:
        stream: the stream that has it; "" where the permissions hide its name.
        seq: its stream sequence where the answer told it beyond doubt, as few batches do.
        duplicate: True if the stream held this message id already, None where the answer can't say.
        unverified: a duplicate of a producer's key whose stored message could not be looked at.
        sent: False if the event was passed over, for the stream is known to hold it.
    """

    stream: str = ""
    seq: int | None = None
    duplicate: bool | None = None
    unverified: bool = False
    sent: bool = True


class Fault(enum.StrEnum):
    """What is wrong with a refused event. It decides when the event is dead.

    EVENT       it can't be stored as it is: dead after the last attempt
    UNCAPTURED  no stream ever captured its subject: dead after the last attempt, and not before
                10 minutes, for a person may be about to make the stream
    COLLISION   another event is stored under its message id: dead at once
    """

    EVENT = "event"
    UNCAPTURED = "uncaptured"
    COLLISION = "collision"


@dataclass(frozen=True, slots=True)
class Refused:
    """This event can't be stored as it is; trying again unchanged will not help.

    Attributes:
        reason: one line for a person: which limit or rule, with the figures.
        code: JetStream's err_code, or 0 for a check of our own before the wire.
        fault: what is wrong.
    """

    reason: str
    code: int = 0
    fault: Fault = Fault.EVENT


@dataclass(frozen=True, slots=True)
class Unknown:
    """No answer, or one that decides nothing: publish again with the same message id.

    Attributes:
        reason: one line for a person.
        code: JetStream's err_code, or 0 if there was no answer.
    """

    reason: str
    code: int = 0


@dataclass(frozen=True, slots=True)
class Held:
    """What the event goes to takes nothing now: an outage of one stream, or of a part of it.

    Attributes:
        by: the name of what takes nothing, from a small set: "stream ORDERS", "full subjects of
            ORDERS", "forbidden subjects", and the like. Never longer than 300 characters.
        reason: one line for a person.
        code: JetStream's err_code, or 0 if there was none.
        sent: False if this was known, and the event not sent. It makes no other outcome.
    """

    by: str
    reason: str
    code: int = 0
    sent: bool = field(default=True, compare=False)


Outcome = Stored | Refused | Held | Unknown
