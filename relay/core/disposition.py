"""What becomes of an event by its outcome: passed over, tried again later, queued, held, or dead.

    Stored                              done
    Refused                             parked, an attempt more; its key's later events behind it
    Held for long, others could flow    parked, no attempt; its key's later events behind it
    Held, else                          published again
    Unknown                             published again; after a few tries as if held by that error

How a parked event goes on (R-FATE: one event's fault is one event's fate):

    refused ──attempts left──► parked, due after a pause that grows
            ├─none left──────► dead: kept, and tried again only when a person says so
            └─a collision, or a replayed event─► dead at once
    behind a parked event of its key ──► parked, due when that one is gone
    held by an outage of its stream  ──► parked, due when the ledger of holds asks again

Only a refusal counts as an attempt. Chance is an argument.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Final

from relay.core.backoff import delay
from relay.core.event import Event
from relay.core.holds import PUZZLED
from relay.core.order import WAITS, KeyFence
from relay.core.outcome import Fault, Held, Outcome, Refused, Stored, Unknown

RETRY_FIRST: Final = 1.0
"""s: the ceiling of the pause after the first refusal."""

UNCAPTURED_LEAST: Final = 600.0
"""s: no event dies for want of a stream before then."""

BEHIND: Final = "waits for an earlier event of its key"

REASON_LONGEST: Final = 1024
"""Characters of a reason that are kept."""


def cleaned(reason: str) -> str:
    """Return a text from outside as the database keeps it: no NUL, no surrogate, bounded."""
    text = reason.replace("\0", "�").encode("utf-8", "replace").decode()
    return text if len(text) <= REASON_LONGEST else text[: REASON_LONGEST - 1] + "…"


@dataclass(frozen=True, slots=True)
class Parking:
    """How one event is parked.

    Attributes:
        id: the outbox row's.
        event_id: the event's own, by which it is known among the parked.
        attempts: how often it was refused, this time included.
        delay: s until it may be tried; None if an earlier event of its key has to go first.
        dead: no further attempt is made by itself.
        held_by: the outage that holds it up, as ``Held.by``; "" if none does.
        error: the reason, for a person; cleaned.
        code: JetStream's err_code, or 0.
    """

    id: int
    event_id: str
    attempts: int
    delay: float | None
    dead: bool = False
    held_by: str = ""
    error: str = ""
    code: int = 0


@dataclass(frozen=True, slots=True)
class Limits:
    """The settings that decide on a refused event.

    Attributes:
        max_attempts: refusals after which an event is dead.
        max_retry_delay: s, the highest ceiling of the pause between two tries.
    """

    max_attempts: int = 10
    max_retry_delay: float = 30.0


def refused(
    event: Event,
    outcome: Refused,
    *,
    attempts: int,
    age: float,
    limits: Limits,
    jitter: float,
    once: bool = False,
) -> Parking:
    """Park an event refused for the ``attempts``-th time; decide whether it is dead.

    The pause is jittered in full, doubles from 1 s and has ``max_retry_delay`` as its highest
    ceiling. ``age`` is in s since the first refusal. ``once``: it is replayed, and dead at once,
    for a person looks on, and live events of its key wait behind it.
    """
    dead = attempts >= limits.max_attempts
    if outcome.fault is Fault.UNCAPTURED:
        dead = dead and age >= UNCAPTURED_LEAST
    elif outcome.fault is Fault.COLLISION:
        dead = True
    dead = dead or once
    longest = limits.max_retry_delay
    pause = delay(attempts - 1, base=min(RETRY_FIRST, longest), cap=longest, jitter=jitter)
    return Parking(
        event.id,
        event.event_id,
        attempts,
        None if dead else pause,
        dead,
        error=cleaned(outcome.reason),
        code=outcome.code,
    )


def behind(event: Event) -> Parking:
    """Park an event whose key's earlier event is parked."""
    return Parking(event.id, event.event_id, 0, None, error=BEHIND)


def held(event: Event, outcome: Held, *, attempts: int = 0, pause: float = 0.0) -> Parking:
    """Park an event that an outage holds up; it may be tried after ``pause`` s."""
    return Parking(
        event.id,
        event.event_id,
        attempts,
        pause,
        held_by=outcome.by,
        error=cleaned(outcome.reason),
        code=outcome.code,
    )


PUZZLED_AFTER: Final = 5
"""Tries after which events without a clear answer are set aside: they must not stop the others."""


@dataclass(slots=True)
class Fates:
    """What became of the events of one call.

    Attributes:
        stored: how many are stored.
        duplicates: those of them that the stream held already.
        unverified: those of the duplicates whose stored message could not be looked at.
        parkings: how the others that leave are parked, in the order of the events.
        refused: the refused ones among them, for telling.
        held: the outages met, each once.
        left: to be published again, in order.
        left_by: the outages for which those left wait.
        why: the first reason among those left that no outage explains, or "".
    """

    stored: int = 0
    duplicates: int = 0
    unverified: int = 0
    parkings: list[Parking] = field(default_factory=list)
    refused: list[tuple[Event, Parking, Refused]] = field(default_factory=list)
    held: dict[str, Held] = field(default_factory=dict)
    left: list[Event] = field(default_factory=list)
    left_by: set[str] = field(default_factory=set)
    why: str = ""


@dataclass(slots=True)
class Tries:
    """What came of the parked events of one look.

    Attributes:
        total: how many are stored.
        fence: the keys of the others.
        freed, held: the outages of which an event was stored, and was not.
        cut_short: not all of a batch was sent.
    """

    total: Fates = field(default_factory=Fates)
    fence: KeyFence = field(default_factory=KeyFence)
    freed: set[str] = field(default_factory=set)
    held: set[str] = field(default_factory=set)
    cut_short: bool = False


def all_stored(outcomes: Sequence[Outcome]) -> Fates | None:
    """Read the common answer, at a tenth of the cost; None if it is another."""
    if set(map(type, outcomes)) != {Stored}:
        return None
    duplicates = sum([outcome.duplicate is True for outcome in outcomes])  # type: ignore[union-attr]
    unverified = sum([outcome.unverified for outcome in outcomes])  # type: ignore[union-attr]
    return Fates(len(outcomes), duplicates, unverified)


def sort(
    events: Sequence[Event],
    outcomes: Sequence[Outcome],
    limits: Limits,
    *,
    fence: KeyFence,
    tries: int,
    aside: Collection[str],
    jitter: float,
) -> Fates:
    """Sort the events of a page by their ``outcomes``.

    Args:
        events: as they were published.
        outcomes: one an event.
        limits: how often a refused event is tried, and how late.
        fence: the keys of which an event is parked; those of this call are added.
        tries: how often these events were published without progress, this time included.
        aside: the outages whose events are parked, where others could flow meanwhile.
        jitter: chance in [0, 1).
    """
    fates = Fates()
    waiting = KeyFence()
    for event, outcome in zip(events, outcomes, strict=True):
        fate = puzzled(outcome) if tries >= PUZZLED_AFTER else outcome
        if isinstance(fate, Stored):
            fates.stored += 1
            fates.duplicates += fate.duplicate is True
            fates.unverified += fate.unverified
            continue
        if isinstance(fate, Held):
            fates.held.setdefault(fate.by, fate)
        if not fence.passes(event.key):
            fates.parkings.append(behind(event))
        elif not waiting.passes(event.key):
            fates.left.append(event)
        elif isinstance(fate, Refused):
            parking = refused(event, fate, attempts=1, age=0.0, limits=limits, jitter=jitter)
            fates.parkings.append(parking)
            fates.refused.append((event, parking, fate))
            fence.close(event.key)
        elif isinstance(fate, Held) and (fate.by in aside or fate is not outcome):
            fates.parkings.append(held(event, fate))
            fence.close(event.key)
        else:
            fates.left.append(event)
            waiting.close(event.key)
            if isinstance(fate, Held):
                fates.left_by.add(fate.by)
            elif isinstance(fate, Unknown):
                fates.why = fates.why or fate.reason
    return fates


def puzzled(outcome: Outcome) -> Outcome:
    """Return an answer that decides nothing, again and again, as a hold of its own."""
    if not isinstance(outcome, Unknown) or outcome is WAITS:
        return outcome
    by = f"{PUZZLED}{outcome.code}" if outcome.code else f"{PUZZLED}unanswered"
    return Held(by, outcome.reason, outcome.code)


def subjects_stored(events: Sequence[Event], outcomes: Sequence[Outcome]) -> set[str]:
    """Return the subjects of which something was stored."""
    return {
        event.subject
        for event, outcome in zip(events, outcomes, strict=True)
        if isinstance(outcome, Stored)
    }


def stored_since(
    before: set[str], events: Sequence[Event], outcomes: Sequence[Outcome]
) -> set[str]:
    """Return the subjects of which something was stored after, or when, one was held last.

    Args:
        before: the same, as it was before this call.
        events: those of the call.
        outcomes: one an event.
    """
    held = {
        event.subject
        for event, outcome in zip(events, outcomes, strict=True)
        if not isinstance(outcome, Stored)
    }
    return (before - held) | subjects_stored(events, outcomes)


def is_alone(subject: str, held_by: str, fate: Outcome, answered: Collection[str]) -> bool:
    """Say whether an event gets no answer again while another one of its subject is stored.

    An answer with a code speaks of more than this event: a full stream may have room for a small
    one.
    """
    return isinstance(fate, Held) and not fate.code and fate.by == held_by and subject in answered
