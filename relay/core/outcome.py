"""What publishing one event came to. Values, never exceptions: an outage is an exception.

Stored    JetStream has it                      -> pass over it
Refused   it can't be stored as it is           -> park it, the others flow
Unknown   nobody can tell, or not now           -> again, with the same message id
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
    """No answer, or an answer that says "not now": publish again with the same message id.

    Attributes:
        reason: one line for a person.
        code: JetStream's err_code, or 0 if there was no answer.
    """

    reason: str
    code: int = 0


Outcome = Stored | Refused | Unknown

STORED = Stored()
"""The common answer, made once."""
