"""Facts as log lines: one line a fact, the level says who should wake up."""

import logging
from dataclasses import asdict

from relay.facts import (
    Fact,
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
    Parked: (logging.ERROR, "event refused and parked"),
    Pruned: (logging.DEBUG, "pruned events past their retention"),
    HousekeepingFailed: (logging.WARNING, "housekeeping failed, delivery goes on"),
}
"""The facts that a person reads, each with its level; the others are figures only."""


def tell(fact: Fact) -> None:
    """Log ``fact`` if it is one for people."""
    line = _LINES.get(type(fact))
    if line is not None and log.isEnabledFor(line[0]):
        log.log(line[0], line[1], extra={k: v for k, v in asdict(fact).items() if v is not None})
