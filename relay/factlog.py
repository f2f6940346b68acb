"""Where facts go: to every sink, and one of the sinks writes log lines.

Sinks are the state, the log, the metrics and an application's observer. What a sink raises is a bug
of its own and must not reach delivery: it is logged once, and that sink gets no more facts.
"""

import logging
from collections.abc import Iterable
from dataclasses import asdict

from relay.core.backoff import State
from relay.core.outcome import Fault
from relay.facts import (
    BreakerChanged,
    Fact,
    FactSink,
    HoldBegan,
    HoldEnded,
    HousekeepingFailed,
    OutageBegan,
    OutageChanged,
    OutageEnded,
    Parked,
    Pruned,
    Repaired,
    RepairEnded,
    Retried,
    StandingBy,
    StreamLost,
    TermBegan,
    TermEnded,
)

log = logging.getLogger("relay")

_LINES: dict[type[Fact], tuple[int, str]] = {
    StandingBy: (logging.INFO, "standing by: another relay leads"),
    TermBegan: (logging.INFO, "leading"),
    TermEnded: (logging.INFO, "term ended"),
    OutageBegan: (logging.WARNING, "outage: waiting and trying again"),
    OutageChanged: (logging.WARNING, "outage: its reason is another one now"),
    OutageEnded: (logging.INFO, "outage is over"),
    Retried: (logging.WARNING, "no clear answer for some events: publishing them again"),
    Parked: (logging.WARNING, "event refused and parked"),
    HoldBegan: (logging.WARNING, "takes nothing now: its events wait, the others flow"),
    HoldEnded: (logging.INFO, "takes events again"),
    Pruned: (logging.DEBUG, "pruned events past their retention"),
    StreamLost: (
        logging.ERROR,
        "a stream has lost messages that it had acknowledged: publishing them again",
    ),
    Repaired: (logging.INFO, "published again what a stream had lost"),
    RepairEnded: (
        logging.WARNING,
        "the repair is over: what the outbox has is published again",
    ),
    HousekeepingFailed: (logging.WARNING, "housekeeping failed, delivery goes on"),
}
"""The facts that a person reads, each with its level; the others are figures only."""


class FactSinks:
    """Hands each fact to every sink. Not for two threads at once."""

    def __init__(self, sinks: Iterable[FactSink] = ()) -> None:
        """Call ``sinks`` in this order."""
        self._sinks: tuple[FactSink, ...] = tuple(sinks)

    def add(self, sink: FactSink) -> None:
        """Call ``sink`` as well, from the next fact on."""
        self._sinks += (sink,)

    def record(self, fact: Fact) -> None:
        """Call every sink. Raises nothing that a sink raises, but for what ends the process."""
        for sink in self._sinks:
            try:
                sink(fact)
            except Exception:
                self._sinks = tuple(each for each in self._sinks if each is not sink)
                name = getattr(sink, "__qualname__", type(sink).__qualname__)
                log.exception(
                    "a sink of facts failed and is left out: delivery goes on without it",
                    extra={"sink": name, "fact": type(fact).__name__},
                )


def record(fact: Fact) -> None:
    """Log ``fact`` if a person reads it."""
    line = _line_of(fact)
    if line is not None and log.isEnabledFor(line[0]):
        log.log(
            line[0], line[1], extra={k: v for k, v in asdict(fact).items() if v not in (None, "")}
        )


def _line_of(fact: Fact) -> tuple[int, str] | None:
    """Return level and text; both can depend on the fact's values."""
    if isinstance(fact, Parked) and (fact.dead or fact.fault is Fault.COLLISION):
        return logging.ERROR, "event is dead: " + (
            "another event is stored under its message id"
            if fact.fault is Fault.COLLISION
            else "refused too often, kept in relay.parked"
        )
    if isinstance(fact, BreakerChanged):
        quiet = {State.CLOSED: logging.INFO, State.HALF_OPEN: logging.DEBUG}
        # an outage of an hour is one change for a person, not 7,200 tries
        again = fact.state is State.OPEN and fact.was is State.HALF_OPEN
        level = logging.DEBUG if again else quiet.get(fact.state, logging.WARNING)
        return level, f"{fact.breaker} breaker is {fact.state}"
    if isinstance(fact, HousekeepingFailed) and fact.again:
        return logging.DEBUG, "housekeeping fails again"
    if isinstance(fact, StreamLost) and (fact.gone or not fact.repairing):
        return logging.ERROR, _lost(fact)
    if isinstance(fact, Repaired) and fact.remembered:
        return logging.ERROR, (
            "JetStream did not store again some of what it had lost: it remembers their message ids"
        )
    return _LINES.get(type(fact))


def _lost(fact: StreamLost) -> str:
    if not fact.repairing:
        return "a stream has lost messages that it had acknowledged; RELAY_REPAIR publishes nothing"
    return (
        "a stream has lost messages that it had acknowledged, and some of these events are no"
        f" longer in the outbox: those of the ids {fact.gone_from} to {fact.gone_to} are lost"
    )
