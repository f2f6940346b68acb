"""What becomes of an event that could not be stored: tried again later, queued, held, or dead.

    refused ──attempts left──► parked, due after a pause that grows
            └─none left──────► dead: kept, and tried again only when a person says so
    behind a parked event of its key ──► parked, due when that one is gone
    held by an outage of its stream  ──► parked, due when the stream takes events again

Only a refusal counts as an attempt. Chance is an argument.
"""

from dataclasses import dataclass
from typing import Final

from relay.core.backoff import delay
from relay.core.outcome import Held, Refused

RETRY_FIRST: Final = 1.0
"""s: the ceiling of the pause after the first refusal."""


@dataclass(frozen=True, slots=True)
class Parking:
    """How one event is parked.

    Attributes:
        id: the event's.
        attempts: how often it was refused, this time included.
        delay: s until it may be tried; None if an earlier event of its key has to go first.
        dead: no further attempt is made by itself.
        held_by: the outage that holds it up, as ``Held.by``; "" if none does.
        error: the reason, for a person.
        code: JetStream's err_code, or 0.
    """

    id: int
    attempts: int
    delay: float | None
    dead: bool = False
    held_by: str = ""
    error: str = ""
    code: int = 0


def refused(
    id_: int, outcome: Refused, *, attempts: int, most: int, longest: float, jitter: float
) -> Parking:
    """Park an event refused for the ``attempts``-th time; dead if that is ``most``.

    The pause is jittered in full, doubles from 1 s and has ``longest`` s as its highest ceiling.
    """
    dead = attempts >= most
    pause = delay(attempts - 1, base=min(RETRY_FIRST, longest), cap=longest, jitter=jitter)
    return Parking(
        id_, attempts, None if dead else pause, dead, error=outcome.reason, code=outcome.code
    )


def behind(id_: int) -> Parking:
    """Park an event whose key's earlier event is parked."""
    return Parking(id_, 0, None, error="waits for an earlier event of its key")


def held(id_: int, outcome: Held, *, attempts: int = 0, pause: float = 0.0) -> Parking:
    """Park an event that an outage holds up; it may be tried after ``pause`` s."""
    return Parking(
        id_, attempts, pause, held_by=outcome.by, error=outcome.reason, code=outcome.code
    )
