"""What a person at 3 a.m. wants to know first: is it healthy, and if not, why.

    outage     nothing gets through: Postgres or NATS is away
    degraded   it delivers, but late, not everywhere, or some events wait for a person
    starting   too early to tell
    healthy    delivering, or standing by

The headline changes only when the state does, so that a screen reader is not told the same thing
every second; what counts on, such as the length of an outage, stands in the reasons.
"""

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from relay.http import reasons
from relay.http.health import NAMES, Health, Role


class Level(enum.StrEnum):
    """How bad it is."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    OUTAGE = "outage"
    STARTING = "starting"


@dataclass(frozen=True, slots=True)
class LeaderReport:
    """What a standby knows of the leader's breakers, from the database."""

    lag_is_high: bool = False
    nats_is_away: bool = False


@dataclass(frozen=True, slots=True)
class Summary:
    """The answer: a level, a headline of a few words, and whole sentences."""

    level: Level
    headline: str
    reasons: tuple[str, ...] = ()


Finding = tuple[Level, str]


def summarize(
    health: Health, *, dead: int, parked: int = 0, report: LeaderReport | None = None
) -> Summary:
    """Judge by this relay's own health, the events set aside, and what a standby has seen.

    ``dead`` is a part of ``parked``.
    """
    seen = report or LeaderReport()
    level, headline = (
        _by_outages(health)
        or _by_role(health, seen)
        or _by_delivery(health, dead)
        or (Level.HEALTHY, "Healthy")
    )
    sentences = (*_of_this(health), *_of_others(seen), *_of_events(dead, parked - dead))
    return Summary(level, headline, sentences)


def _by_outages(health: Health) -> Finding | None:
    if not health.outages or health.role is Role.STOPPING:
        return None
    if health.lease_is_taken and len(health.outages) == 1:
        return Level.OUTAGE, "Outage: a stranger holds the lease"
    sides = [NAMES.get(side, side) for side in sorted(health.outages, reverse=True)]
    return Level.OUTAGE, f"Outage: {' and '.join(sides)} {'are' if sides[1:] else 'is'} away"


def _by_role(health: Health, seen: LeaderReport) -> Finding | None:
    match health.role:
        case Role.STOPPING:
            return Level.STARTING, "Stopping"
        case Role.STARTING:
            return Level.STARTING, "Starting"
        case Role.BETWEEN:
            return Level.DEGRADED, "Between two terms"
        case Role.STANDBY:
            return _standing_by(seen)
        case Role.LEADER:
            return None


def _standing_by(seen: LeaderReport) -> Finding:
    if seen.nats_is_away:
        return Level.OUTAGE, "Outage: NATS is away from the leader"
    if seen.lag_is_high:
        return Level.DEGRADED, "Degraded: the leader is late"
    return Level.HEALTHY, "Standing by"


def _by_delivery(health: Health, dead: int) -> Finding | None:
    if health.holds:
        return Level.DEGRADED, "Degraded: a stream takes nothing"
    if health.lag_is_high:
        return Level.DEGRADED, "Degraded: events are late"
    if dead:
        return Level.DEGRADED, "Degraded: dead events wait for you"
    if health.housekeeping:
        return Level.DEGRADED, "Degraded: housekeeping fails"
    return None


_OF_ROLE: Final = {
    Role.STARTING: "This relay has neither led nor stood by yet.",
    Role.LEADER: "This relay leads and delivers.",
    Role.STANDBY: "Another relay leads; this one takes over when that one ends.",
    Role.BETWEEN: "This relay's term has ended; it tries again at once.",
    Role.STOPPING: "It was told to stop.",
}


def _of_this(health: Health) -> Iterator[str]:
    if health.lease_is_taken:
        yield f"Nobody can lead: {reasons.LEASE}."
    for side in sorted(health.outages, reverse=True):
        if side == "postgres" and health.lease_is_taken:
            continue
        yield f"{NAMES.get(side, side)} is {health.away(side)}."
    if health.outages:
        yield "Nothing is lost: events wait in the outbox, and delivery goes on by itself."
    else:
        yield _OF_ROLE[health.role]
    for by, hold in health.holds.items():
        yield f"{by[:1].upper()}{by[1:]} takes nothing for {health.seconds(hold)}: {hold.why}"
    if health.lag_is_high:
        yield f"The oldest undelivered event waits for {health.lag:.1f} s."
    if health.housekeeping:
        yield f"Housekeeping fails, delivery goes on: {health.housekeeping.why}."


def _of_others(seen: LeaderReport) -> Iterator[str]:
    if seen.nats_is_away:
        yield "The leader reports that it does not reach NATS."
    elif seen.lag_is_high:
        yield "The leader reports that its oldest event is too old."


def _of_events(dead: int, alive: int) -> Iterator[str]:
    if dead:
        events, wait = ("1 event is", "waits") if dead == 1 else (f"{dead:,} events are", "wait")
        yield f"{events} dead and {wait} for a person: retry or drop."
    if alive > 0:
        parked = "1 parked event is" if alive == 1 else f"{alive:,} parked events are"
        yield f"{parked} tried again without a person."
