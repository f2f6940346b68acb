"""What is so at present: a sink of facts that keeps the gauges of ``instruments``.

They are read when somebody collects, by another thread; so what is kept here is replaced as a
whole, never changed. What only a leader looks at has no point while this relay does not lead.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from relay.core.breakers import State
from relay.core.storage import OutboxStorage, StreamStorage
from relay.facts import (
    BacklogSeen,
    BreakerChanged,
    Fact,
    HoldBegan,
    HoldEnded,
    Looked,
    OutageBegan,
    OutageEnded,
    StandingBy,
    TermBegan,
    TermEnded,
)
from relay.otel import instruments
from relay.ports import Backlog

_STATES: Final = {State.CLOSED: 0, State.HALF_OPEN: 1, State.OPEN: 2}

Points = Iterable[tuple[float, Mapping[str, str]]]
"""Values, each with its attributes."""


class Gauges:
    """Keeps the present. Call ``record`` with each fact; read ``points`` from any thread."""

    def __init__(self) -> None:
        """Begin without a term and without a fault."""
        self.leading = False
        self._epoch = 0
        self._backlog: Backlog | None = None
        self._outbox: OutboxStorage | None = None
        self._streams: tuple[StreamStorage, ...] = ()
        self._holds: frozenset[str] = frozenset()
        self._breakers: Mapping[str, State] = {"lag": State.CLOSED, "bus": State.CLOSED}
        self._outages: Mapping[str, bool] = {"postgres": False, "nats": False}

    def record(self, fact: Fact) -> None:
        """Take note of one fact."""
        match fact:
            case BacklogSeen(backlog=backlog):
                self._backlog = backlog
            case TermBegan(epoch=epoch):
                self.leading, self._epoch = True, epoch
            case TermEnded():
                self.leading = False
                self._backlog = self._outbox = None
                self._streams, self._holds = (), frozenset()
            case Looked(at=OutboxStorage() as outbox):
                self._outbox = outbox if self.leading else None
            case Looked(at=streams) if not isinstance(streams, OutboxStorage):
                self._streams = tuple(streams) if self.leading else ()
            case _:
                self._note_fault(fact)

    def _note_fault(self, fact: Fact) -> None:
        match fact:
            case BreakerChanged(breaker=breaker, state=state):
                self._breakers = {**self._breakers, breaker: state}
            case OutageBegan(side=side):
                self._outages = {**self._outages, side: True}
            case OutageEnded(side=side):
                self._outages = {**self._outages, side: False}
            case StandingBy():  # who leads asks the bus now
                self._outages = {**self._outages, "nats": False}
            case HoldBegan(by=by):
                self._holds |= {by}
            case HoldEnded(by=by):
                self._holds -= {by}
            case _:
                pass

    def points(self) -> dict[str, Callable[[], Points]]:
        """Say how to read each gauge, by its instrument's name."""
        return {
            instruments.BACKLOG.name: self._of_backlog("undelivered"),
            instruments.LAG.name: self._of_backlog("lag"),
            instruments.HELD.name: self._of_backlog("held"),
            instruments.HELD_LAG.name: self._of_backlog("held_lag"),
            instruments.PARKED.name: self._of_backlog("parked"),
            instruments.DEAD.name: self._of_backlog("dead"),
            instruments.LEADER.name: lambda: [(int(self.leading), {})],
            instruments.EPOCH.name: lambda: [(self._epoch, {})] if self._epoch else [],
            instruments.HOLD.name: lambda: [(len(self._holds), {})],
            instruments.BREAKER_STATE.name: lambda: [
                (_STATES[state], {"relay.breaker": breaker})
                for breaker, state in self._breakers.items()
            ],
            instruments.OUTAGE.name: lambda: [
                (int(away), {"relay.side": side}) for side, away in self._outages.items()
            ],
            instruments.OUTBOX_SIZE.name: self._of_outbox("size_bytes"),
            instruments.DEAD_ROWS.name: self._of_outbox("dead_rows"),
            instruments.OLDEST_TRANSACTION.name: self._of_outbox("oldest_transaction"),
            instruments.SESSIONS.name: self._sessions,
            instruments.STREAM_MESSAGES.name: self._of_streams("messages"),
            instruments.STREAM_SIZE.name: self._of_streams("size_bytes"),
        }

    def _of_backlog(self, name: str) -> Callable[[], Points]:
        return lambda: _point(self._backlog, name)

    def _of_outbox(self, name: str) -> Callable[[], Points]:
        return lambda: _point(self._outbox, name)

    def _of_streams(self, name: str) -> Callable[[], Points]:
        return lambda: [
            (getattr(each, name), {"messaging.destination.name": each.stream})
            for each in self._streams
        ]

    def _sessions(self) -> Points:
        outbox = self._outbox
        if outbox is None:
            return []
        return [(count, {"relay.duty": duty}) for duty, count in outbox.sessions.items()]


def _point(seen: object | None, name: str) -> Points:
    value: Any = getattr(seen, name, None)
    return [] if value is None else [(value, {})]
