"""The state in a headline and a few sentences, for a person: is it healthy, and if not, why.

    outage     nothing gets through: Postgres or NATS is away
    degraded   it delivers, but late, not everywhere, or some events wait for a person
    starting   too early to tell
    healthy    delivering, or standing by

The headline changes only when the state does, so that a screen reader does not repeat it every
second. What changes every second, such as the length of an outage, stands in the sentences.
"""

import enum
from collections.abc import Iterator
from typing import Final, NamedTuple

from relay.http.health import LEASE, Health, reason_of
from relay.state import Role

_SIDES: Final = {"postgres": "Postgres", "nats": "NATS"}


class Level(enum.StrEnum):
    """How bad the state is."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    OUTAGE = "outage"
    STARTING = "starting"


class LeaderReport(NamedTuple):
    """What a standby knows of the leader's breakers, from the database."""

    lag_is_high: bool = False
    nats_is_away: bool = False


class OutboxSize(NamedTuple):
    """What the outbox takes up, in bytes, and its growth in bytes/s; None if not known yet."""

    size: int
    growth: float | None


class Summary(NamedTuple):
    """A level, a headline of a few words, and whole sentences."""

    level: Level
    headline: str
    reasons: tuple[str, ...]


def summarize(
    health: Health,
    *,
    dead: int,
    parked: int = 0,
    report: LeaderReport | None = None,
    outbox: OutboxSize | None = None,
    repaired: int = 0,
    lost: int = 0,
) -> Summary:
    """Sum up this relay's health, the parked events, and what a standby knows of the leader.

    ``dead`` is a part of ``parked``; ``outbox`` is None if not known; ``repaired`` and ``lost`` are
    of streams that lost messages, since this relay started.
    """
    report = report or LeaderReport()
    level, headline = _headline(health, report, dead)
    sentences = (
        *_of_relay(health),
        *_of_leader(report),
        *_of_growth(health, report, outbox),
        *_of_events(dead, parked - dead),
        *_of_repairs(repaired, lost),
    )
    return Summary(level, headline, sentences)


def _headline(health: Health, report: LeaderReport, dead: int) -> tuple[Level, str]:
    if health.state.outages and health.state.role is not Role.STOPPING:
        return Level.OUTAGE, f"Outage: {_of_outages(health)}"
    match health.state.role:
        case Role.STOPPING:
            return Level.STARTING, "Stopping"
        case Role.STARTING:
            return Level.STARTING, "Starting"
        case Role.BETWEEN:
            return Level.DEGRADED, "Between two terms"
        case Role.STANDBY:
            return _of_standby(report)
        case Role.LEADER:
            return _of_delivery(health, dead)


def _of_outages(health: Health) -> str:
    if health.lease_is_taken and len(health.state.outages) == 1:
        return "a stranger holds the lease"
    sides = [_SIDES[side] for side in sorted(health.state.outages, reverse=True)]
    return f"{' and '.join(sides)} {'are' if sides[1:] else 'is'} away"


def _of_standby(report: LeaderReport) -> tuple[Level, str]:
    if report.nats_is_away:
        return Level.OUTAGE, "Outage: NATS is away from the leader"
    if report.lag_is_high:
        return Level.DEGRADED, "Degraded: the leader is late"
    return Level.HEALTHY, "Standing by"


def _of_delivery(health: Health, dead: int) -> tuple[Level, str]:
    if health.state.holds:
        return Level.DEGRADED, "Degraded: a stream takes nothing"
    if health.state.repairs:
        return Level.DEGRADED, "Degraded: a stream lost messages"
    if health.lag_is_high:
        return Level.DEGRADED, "Degraded: events are late"
    if dead:
        return Level.DEGRADED, "Degraded: dead events wait for you"
    if health.state.housekeeping:
        return Level.DEGRADED, "Degraded: housekeeping fails"
    return Level.HEALTHY, "Healthy"


_OF_ROLE: Final = {
    Role.STARTING: "This relay has neither led nor stood by yet.",
    Role.LEADER: "This relay leads and delivers.",
    Role.STANDBY: "Another relay leads; this one takes over when that one ends.",
    Role.BETWEEN: "This relay's term has ended; it tries again at once.",
    Role.STOPPING: "It was told to stop.",
}


def _of_relay(health: Health) -> Iterator[str]:
    if health.lease_is_taken:
        yield f"Nobody can lead: {LEASE}."
    for side in sorted(health.state.outages, reverse=True):
        if side != "postgres" or not health.lease_is_taken:
            yield f"{_SIDES[side]} is {health.away(side)}."
    if health.state.outages:
        yield "Nothing is lost: events wait in the outbox, and delivery goes on by itself."
    else:
        yield _OF_ROLE[health.state.role]
    for by, hold in health.state.holds.items():
        yield f"{by[:1].upper()}{by[1:]} takes nothing for {health.time_of(hold)}: {hold.reason}"
    for stream, repair in health.state.repairs.items():
        since = health.time_of(repair)
        yield f"Stream {stream} had lost messages, which are published again, for {since} now."
    if health.lag_is_high:
        yield f"The oldest undelivered event waits for {health.state.backlog.lag:.1f} s."
    if health.state.housekeeping:
        reason = reason_of(health.state.housekeeping.reason)
        yield f"Housekeeping fails, delivery goes on: {reason}."


def _of_leader(report: LeaderReport) -> Iterator[str]:
    if report.nats_is_away:
        yield "The leader reports that it does not reach NATS."
    elif report.lag_is_high:
        yield "The leader reports that its oldest event is too old."


def _of_growth(health: Health, report: LeaderReport, outbox: OutboxSize | None) -> Iterator[str]:
    """Say how long the disk will do, where events pile up."""
    late = health.state.outages or health.state.holds or health.lag_is_high
    if outbox is None or not (late or report.lag_is_high or report.nats_is_away):
        return
    takes = f"The outbox takes {in_bytes(outbox.size)}"
    if outbox.growth is None:
        yield f"{takes}; how fast it grows is known in some seconds."
    elif outbox.growth <= 0:
        yield f"{takes} and has not grown lately."
    else:
        a_minute, hence = outbox.growth * 60, outbox.size + outbox.growth * 3600
        yield f"{takes} and grows by {in_bytes(a_minute)} a minute: {in_bytes(hence)} in an hour."


def in_bytes(count: float) -> str:
    """Write a number of bytes in decimal units, as disks are sold."""
    units = ["B", "kB", "MB", "GB"]
    while units and count >= 1000:  # noqa: PLR2004 - the next unit
        del units[0]
        count /= 1000
    return f"{count:,.1f} {units[0] if units else 'TB'}"


def _of_events(dead: int, alive: int) -> Iterator[str]:
    if dead:
        events, wait = ("1 event is", "waits") if dead == 1 else (f"{dead:,} events are", "wait")
        yield f"{events} dead and {wait} for a person: retry or drop."
    if alive > 0:
        parked = "1 parked event is" if alive == 1 else f"{alive:,} parked events are"
        yield f"{parked} tried again without a person."


def _of_repairs(repaired: int, lost: int) -> Iterator[str]:
    if repaired:
        events = "1 event was" if repaired == 1 else f"{repaired:,} events were"
        yield f"{events} published again: a stream had lost them."
    if lost:
        yield f"Up to {lost:,} events that a stream lost are no longer in the outbox: see the log."
