"""What publishing one event came to. Values, never exceptions: an outage is an exception.

Stored    JetStream has it                      -> pass over it
Refused   it can't be stored as it is           -> park it; its key's later events queue behind it
Held      its stream, or the like, is out       -> keep it until that takes events again; the
                                                   others flow, and it costs no attempt
Unknown   nobody can tell                       -> again, with the same message id
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stored:
    """JetStream acknowledged the event.

    Attributes:
        seq: its stream sequence where the answer told it beyond doubt, as few batches do.
        duplicate: True if the stream held this message id already, None where the answer can't say.
    """

    seq: int | None = None
    duplicate: bool | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """This event can't be stored as it is; trying again unchanged will not help.

    Attributes:
        reason: one line for a person: which limit or rule, with the figures.
        code: JetStream's err_code, or 0 for a check of our own before the wire.
    """

    reason: str
    code: int = 0


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
        by: what takes nothing, from a small set: "stream ORDERS", "permissions", and the like.
        reason: one line for a person.
        code: JetStream's err_code, or 0 if there was none.
        alone: nothing else is known to which events go, so that waiting holds up nobody.
    """

    by: str
    reason: str
    code: int = 0
    alone: bool = False


Outcome = Stored | Refused | Held | Unknown

STORED = Stored()
"""The common answer, made once."""
