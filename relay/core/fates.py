"""What one call's outcomes mean for its events: stored, parked, or to be published again.

    Stored                              done
    Refused                             parked, an attempt more; its key's later events behind it
    Held for long, others could flow    parked, no attempt; its key's later events behind it
    Held, else                          again
    Unknown                             again; once the broker has answered so a few times with an
                                        error that we do not know, as if it were held by that error

Who decides that an event goes behind another is the first of its key that was not stored: order is
kept by never passing it.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from relay.core import parking
from relay.core.event import Event
from relay.core.outcome import Held, Outcome, Refused, Stored, Unknown
from relay.core.parking import Parking

PUZZLED_AFTER = 5
"""Tries after which an error that we do not know is set aside: it must not stop the others."""


@dataclass(slots=True)
class Fates:
    """What became of the events of one call.

    Attributes:
        stored: how many are stored.
        duplicates: those of them that the stream held already.
        parkings: how the others that leave are parked, in the order of ``events``.
        refused: the refused ones among them, for telling.
        held: the outages met, each once.
        left: to be published again, in order.
        why: the first reason among those left that no outage explains, or "".
    """

    stored: int = 0
    duplicates: int = 0
    parkings: list[Parking] = field(default_factory=list)
    refused: list[tuple[Event, Parking]] = field(default_factory=list)
    held: dict[str, Held] = field(default_factory=dict)
    left: list[Event] = field(default_factory=list)
    why: str = ""


@dataclass(frozen=True, slots=True)
class Limits:
    """The settings that decide on a refused event: see ``parking.refused``."""

    max_attempts: int
    max_retry_delay: float


def all_stored(outcomes: Sequence[Outcome]) -> Fates | None:
    """Read the common answer, at a tenth of the cost; None if it is another."""
    if set(map(type, outcomes)) != {Stored}:
        return None
    duplicates = sum([outcome.duplicate is True for outcome in outcomes])  # type: ignore[union-attr]
    return Fates(len(outcomes), duplicates)


def sort(
    events: Sequence[Event],
    outcomes: Sequence[Outcome],
    limits: Limits,
    *,
    tries: int,
    aside: Collection[str],
    jitter: float,
) -> Fates:
    """Sort the events of a page by their ``outcomes``.

    Args:
        events: as they were published.
        outcomes: one an event.
        limits: how often a refused event is tried, and how late.
        tries: how often these events were published, this time included.
        aside: the outages whose events are parked, where others could flow meanwhile.
        jitter: chance in [0, 1).
    """
    fates = Fates()
    parked: set[str] = set()
    waiting: set[str] = set()
    for event, outcome in zip(events, outcomes, strict=True):
        verdict = _unpuzzled(outcome, tries)
        if isinstance(verdict, Stored):
            fates.stored += 1
            fates.duplicates += verdict.duplicate is True
            continue
        if isinstance(verdict, Held):
            fates.held.setdefault(verdict.by, verdict)
        if event.key is not None and event.key in parked:
            fates.parkings.append(parking.behind(event.id))
        elif event.key is not None and event.key in waiting:
            fates.left.append(event)
        elif isinstance(verdict, Refused):
            _refuse(fates, event, verdict, limits, jitter)
            _note(parked, event)
        elif isinstance(verdict, Held) and verdict.by in aside and not verdict.alone:
            fates.parkings.append(parking.held(event.id, verdict))
            _note(parked, event)
        else:
            fates.left.append(event)
            _note(waiting, event)
            if isinstance(verdict, Unknown):
                fates.why = fates.why or verdict.reason
    return fates


def _refuse(fates: Fates, event: Event, verdict: Refused, limits: Limits, jitter: float) -> None:
    parked = parking.refused(
        event.id,
        verdict,
        attempts=1,
        most=limits.max_attempts,
        longest=limits.max_retry_delay,
        jitter=jitter,
    )
    fates.parkings.append(parked)
    fates.refused.append((event, parked))


def _note(keys: set[str], event: Event) -> None:
    if event.key is not None:
        keys.add(event.key)


def _unpuzzled(outcome: Outcome, tries: int) -> Outcome:
    if isinstance(outcome, Unknown) and outcome.code and tries >= PUZZLED_AFTER:
        return Held(f"error {outcome.code}", outcome.reason, outcome.code)
    return outcome
