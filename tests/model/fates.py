"""R-FATE: what a single event may come to, by the answers that the relay was given. By hand.

an attempt   a refusal; a row that can't be read; three lost connections in a row with the event
             alone in the call; silence about the event, again, while another one of its subject
             was stored
dead         after the most attempts, not before its time if no stream captured it; at once if
             another event is stored under its id; never by an outage
held         by the outage that was answered last; a single stream's events wait in hand
a hold       is over because an event of it was stored, or nothing waits for it any more
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import anyio

from relay.core.disposition import Parking
from relay.core.event import Event
from relay.core.order import WAITS
from relay.core.outcome import Fault, Held, Outcome, Refused, Stored
from relay.facts import Fact, HoldBegan, HoldEnded
from relay.memory.parked import Row
from relay.ports import Due, Page

CUTS_ALONE = 3


@dataclass
class _Story:
    """What happened to one event.

    Attributes:
        strikes: what may count as an attempt.
        forgiven: those before a person asked for a retry.
        struck_at: when the first was.
        silent_at: the number of the call that was silent about it last.
    """

    strikes: int = 0
    forgiven: int = 0
    struck_at: float = 0.0
    silent_at: int | None = None
    ever_uncaptured: bool = False


@dataclass
class _Term:
    """What one term was told: by event_id, and by the names of holds."""

    last: dict[str, Outcome] = field(default_factory=dict)
    in_hand: dict[str, str] = field(default_factory=dict)
    """Held, and neither answered otherwise nor parked since."""
    through: set[str] = field(default_factory=set)
    """Holds of which an event was stored since they began."""
    unreadable: set[str] = field(default_factory=set)
    """What was handed out as a row that can't be read."""


class Fates:
    """The book of answers, of both processes."""

    def __init__(
        self, rows: Mapping[str, Row], *, max_attempts: int, uncaptured: float, sole: str | None
    ) -> None:
        self.violations: list[str] = []
        self._rows = rows
        self._max_attempts = max_attempts
        self._uncaptured = uncaptured
        self._sole = sole
        self._stories: dict[str, _Story] = defaultdict(_Story)
        self._terms: dict[int, _Term] = defaultdict(_Term)
        self._cuts: Counter[str] = Counter()
        self._ever_parked: set[str] = set()
        self._calls = 0
        self._stored_in_call: dict[str, int] = {}

    def retry(self, event_id: str) -> None:
        """A person asks for it."""
        story = self._stories[event_id]
        story.forgiven = story.strikes
        story.ever_uncaptured = False

    def read(self, epoch: int, page: Page) -> None:
        """Some rows of a page can't be read."""
        for event in page.events:
            if event.id in page.unreadable:
                self._strike(epoch, event.event_id, Refused("unreadable"))
                self._terms[epoch].unreadable.add(event.event_id)

    def due(self, epoch: int, due: Sequence[Due]) -> None:
        """Some parked rows can't be read."""
        for each in due:
            if each.unreadable:
                self._strike(epoch, each.event.event_id, Refused("unreadable"))
                self._terms[epoch].unreadable.add(each.event.event_id)
            else:
                self._terms[epoch].unreadable.discard(each.event.event_id)

    def sending(self, epoch: int, events: Sequence[Event]) -> None:
        """``events`` go to the bus."""
        bad = [event.id for event in events if event.event_id in self._terms[epoch].unreadable]
        self._expect(not bad, lambda: f"sent, though nobody can read them: {bad}")

    def cut(self, process: str, epoch: int, events: Sequence[Event]) -> None:
        """The connection was lost while ``events`` were sent."""
        if len(events) != 1:
            return
        self._cuts[process] += 1
        if self._cuts[process] % CUTS_ALONE == 0:
            self._strike(epoch, events[0].event_id, Refused("the connection was lost"))

    def answered(
        self,
        process: str,
        epoch: int,
        events: Sequence[Event],
        outcomes: Sequence[Outcome],
        rows: Mapping[str, Row],
    ) -> None:
        """The relay knows the outcomes of one call."""
        self._cuts[process] = 0
        self._calls += 1
        term = self._terms[epoch]
        for event, outcome in zip(events, outcomes, strict=True):
            if isinstance(outcome, Stored):
                self._stored_in_call[event.subject] = self._calls
                row = rows.get(event.event_id)
                by = term.in_hand.get(event.event_id) if row is None else row.held_by
                term.through |= {by} if by else set()
        for event, outcome in zip(events, outcomes, strict=True):
            term.last[event.event_id] = outcome
            term.in_hand.pop(event.event_id, None)
            if isinstance(outcome, Stored):
                continue
            if isinstance(outcome, Refused):
                self._strike(epoch, event.event_id, outcome)
            elif outcome is not WAITS and not outcome.code:
                self._silent(event)
            if isinstance(outcome, Held):
                term.in_hand[event.event_id] = outcome.by

    def parked(self, epoch: int, parking: Parking) -> None:
        """A settlement parks an event, or parks it again; called behind the commit."""
        term, story = self._terms[epoch], self._stories[parking.event_id]
        term.in_hand.pop(parking.event_id, None)
        last, name = term.last.get(parking.event_id), f"{parking.id}"
        strikes = story.strikes - story.forgiven
        self._expect(
            parking.attempts <= strikes,
            lambda: f"{name}: {parking.attempts} attempts, {strikes} strikes",
        )
        fault = last.fault if isinstance(last, Refused) else None
        if parking.dead:
            full = parking.attempts >= self._max_attempts or fault is Fault.COLLISION
            self._expect(full, lambda: f"{name}: dead after {parking.attempts} attempts")
            age = anyio.current_time() - story.struck_at
            old = fault is not Fault.UNCAPTURED or age >= self._uncaptured
            self._expect(old, lambda: f"{name}: dead for want of a stream after {age} s")
            self._expect(bool(parking.error), lambda: f"{name}: dead without a reason")
        else:
            alive = parking.attempts < self._max_attempts or story.ever_uncaptured
            self._expect(alive, lambda: f"{name}: lives after {parking.attempts} attempts")
            tried = parking.delay is not None
            self._expect(
                not (tried and fault is Fault.COLLISION), lambda: f"{name}: collided, and lives"
            )
        if parking.held_by:
            by = last.by if isinstance(last, Held) else parking.held_by
            self._expect(by == parking.held_by, lambda: f"{name}: parked as held by {by}")
            self._expect(
                parking.event_id in self._ever_parked or parking.held_by != self._sole,
                lambda: f"{name}: parked, though nothing can flow past {self._sole}",
            )
        self._ever_parked.add(parking.event_id)

    def told(self, epoch: int, fact: Fact) -> None:
        """A term tells of its holds."""
        term = self._terms[epoch]
        if isinstance(fact, HoldBegan):
            term.through.discard(fact.by)
        elif isinstance(fact, HoldEnded) and "stored" in fact.reason:
            self._expect(fact.by in term.through, lambda: f"{fact} without a stored event")
        elif isinstance(fact, HoldEnded) and "nothing waits" in fact.reason:
            parked = [row for row in self._rows.values() if row.held_by == fact.by and not row.dead]
            waits = parked or fact.by in term.in_hand.values()
            self._expect(not waits, lambda: f"{fact}, but something does")

    def _strike(self, epoch: int, event_id: str, refused: Refused) -> None:
        story = self._stories[event_id]
        if not story.strikes:
            story.struck_at = anyio.current_time()
        story.strikes += 1
        story.ever_uncaptured |= refused.fault is Fault.UNCAPTURED
        self._terms[epoch].last[event_id] = refused

    def _silent(self, event: Event) -> None:
        """Nothing is said of the event itself; again, while others of its subject are stored?"""
        story = self._stories[event.event_id]
        before, story.silent_at = story.silent_at, self._calls
        stored = self._stored_in_call.get(event.subject)
        if before is not None and stored is not None and stored >= before:
            story.strikes += 1

    def _expect(self, kept: bool, message: Callable[[], str]) -> None:
        if not kept:
            self.violations.append(message())
