"""Facts as log lines: one line a fact, the level says who should wake up."""

import logging
from dataclasses import asdict

from relay.core.breakers import State
from relay.core.outcome import Fault
from relay.facts import (
    BreakerChanged,
    Fact,
    HoldBegan,
    HoldEnded,
    HousekeepingFailed,
    OutageBegan,
    OutageEnded,
    Parked,
    Pruned,
    Retried,
    StandingBy,
    TermBegan,
    TermEnded,
)

log = logging.getLogger("relay")

_LINES: dict[type[Fact], tuple[int, str]] = {
    StandingBy: (logging.INFO, "standing by: another relay leads"),
    TermBegan: (logging.INFO, "leading"),
    TermEnded: (logging.INFO, "term ended"),
    OutageBegan: (logging.WARNING, "outage: waiting and trying again"),
    OutageEnded: (logging.INFO, "outage is over"),
    Retried: (logging.WARNING, "no clear answer for some events: publishing them again"),
    Parked: (logging.WARNING, "event refused and parked"),
    HoldBegan: (logging.WARNING, "takes nothing now: its events wait, the others flow"),
    HoldEnded: (logging.INFO, "takes events again"),
    Pruned: (logging.DEBUG, "pruned events past their retention"),
    HousekeepingFailed: (logging.WARNING, "housekeeping failed, delivery goes on"),
}
"""The facts that a person reads, each with its level; the others are figures only."""


def record(fact: Fact) -> None:
    """Log ``fact`` if it is one for people."""
    line = _line_of(fact)
    if line is not None and log.isEnabledFor(line[0]):
        log.log(line[0], line[1], extra={k: v for k, v in asdict(fact).items() if v is not None})


def _line_of(fact: Fact) -> tuple[int, str] | None:
    """Find the fact's line; its level can depend on what it says."""
    if isinstance(fact, Parked) and fact.fault is Fault.COLLISION:
        return logging.ERROR, "event is dead: another event is stored under its message id"
    if isinstance(fact, Parked) and fact.dead:
        return logging.ERROR, "event is dead: refused too often, kept in relay.parked"
    if isinstance(fact, BreakerChanged):
        quiet = {State.CLOSED: logging.INFO, State.HALF_OPEN: logging.DEBUG}
        # an outage of an hour is one change for a person, not 7,200 tries
        again = fact.state is State.OPEN and fact.was is State.HALF_OPEN
        level = logging.DEBUG if again else quiet.get(fact.state, logging.WARNING)
        return level, f"{fact.breaker} breaker is {fact.state}"
    return _LINES.get(type(fact))
