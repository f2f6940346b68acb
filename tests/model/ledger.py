"""What really happened, written down beside the relay, and the promises checked against it.

    no loss       what is settled past is stored, or parked, or a person dropped it
    no phantom    what is stored was committed, unchanged
    order         per key, first occurrences are in the order of id among what could be seen; only
                  an event that was dead (and its key moves on) or dropped may come later
    no repeats    a term sends nothing that is settled; an event has one copy, and one more for
                  each time that a person asked
    attempts      only refusals that the bus really answered count; dead after the most of them
    bounded       at most two pages are in a term's hands
    fenced        a term that is over changes nothing

Violations are collected, for they are found deep inside the relay's own calls.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from relay.core.event import Event
from relay.core.outcome import Outcome, Refused, Stored
from relay.memory import MemoryBus, MemoryOutbox
from relay.memory.bus import Message
from relay.ports import Page, Settlement

PAGES_IN_HAND = 2


class Ledger:
    """Books of one outbox and one broker."""

    def __init__(
        self, outbox: MemoryOutbox, broker: MemoryBus, *, max_attempts: int, dead_blocks: bool
    ) -> None:
        self.outbox = outbox
        self.broker = broker
        self.max_attempts = max_attempts
        self.dead_blocks = dead_blocks
        self.violations: list[str] = []
        self.committed: list[Event] = []
        self.copies: Counter[str] = Counter()
        self.dropped: set[int] = set()
        self.retries: Counter[int] = Counter()
        self._commit_of: dict[int, int] = {}
        self._by_event_id: dict[str, Event] = {}
        self._seen = 0
        self._overtaken: set[int] = set()
        self._refusals: Counter[int] = Counter()
        self._forgiven: dict[int, int] = {}
        self._epoch_of: dict[str, int] = {}
        self._pages: dict[int, list[set[int]]] = defaultdict(list)

    # Producers and people.

    def commit(self, events: Sequence[Event]) -> None:
        """Have them visible from now on."""
        number = len(self.committed)
        for event in sorted(events):
            self.committed.append(event)
            self._commit_of[event.id] = number
            self._by_event_id[event.event_id] = event

    def retry(self, id_: int) -> None:
        """A person asks for a dead event."""
        self.outbox.parked.retry(id_)
        self.retries[id_] += 1
        self._forgiven[id_] = self._refusals[id_]

    def drop(self, id_: int) -> None:
        """A person forgets a dead event."""
        self.dropped.add(id_)
        self._overtaken.add(id_)
        self.outbox.parked.drop(id_)

    # The relay.

    def term_began(self, epoch: int, process: str) -> None:
        """``process`` leads."""
        self._epoch_of[process] = epoch

    def read(self, epoch: int, page: Page) -> None:
        """A page is in the relay's hands."""
        if page.events:
            self._pages[epoch].append({event.id for event in page.events})
        in_hand = [ids for ids in self._pages[epoch] if ids]
        self._expect(len(in_hand) <= PAGES_IN_HAND, lambda: f"{len(in_hand)} pages in hand")

    def sending(self, process: str, events: Sequence[Event]) -> None:
        """The relay publishes ``events``."""
        if self._epoch_of.get(process) != self.outbox.epoch:
            return
        done = {event.id for event in self.committed[: self.outbox.settled]}
        done -= set(self.outbox.parked.rows)
        again = [event.id for event in events if event.id in done]
        self._expect(not again, lambda: f"sent, though settled: {again}")

    def answered(self, process: str, events: Sequence[Event], outcomes: Sequence[Outcome]) -> None:
        """The relay knows the outcomes."""
        for event, outcome in zip(events, outcomes, strict=True):
            if isinstance(outcome, Refused):
                self._refusals[event.id] += 1
            if isinstance(outcome, Stored):
                self._resolve(self._epoch_of[process], event.id)

    def stored(self) -> None:
        """The broker may have stored something."""
        new = self.broker.messages[self._seen :]
        self._seen += len(new)
        for message in new:
            self._check_stored(message)

    def settled(self, epoch: int, done: Settlement) -> None:
        """A settlement is committed."""
        self._expect(epoch == self.outbox.epoch, lambda: f"epoch {epoch} settled, but is over")
        for parking in done.parked:
            self._resolve(epoch, parking.id)
        self.check()

    def unchanged(self, before: Any) -> None:
        """Compare with ``state()`` of before."""
        self._expect(self.state() == before, lambda: "a settlement failed, but changed something")

    def state(self) -> Any:
        """Return what a settlement can change."""
        rows = self.outbox.parked.rows.items()
        parked = {id_: (r.attempts, r.due_at, r.dead, r.held_by, r.retries) for id_, r in rows}
        return self.outbox.settled, self.outbox.delivered, parked

    # The promises.

    def check(self) -> None:
        """Check all that can be said at any moment."""
        self._note_dead()
        outbox, parked = self.outbox, self.outbox.parked.rows
        self._expect(outbox.pruned <= outbox.settled, lambda: "pruned what is not settled")
        for event in self.committed[: outbox.settled]:
            kept = self.copies[event.event_id] or event.id in parked or event.id in self.dropped
            self._expect(bool(kept), lambda event=event: f"lost: {event.id}")
        for id_, row in parked.items():
            refusals = self._refusals[id_] - self._forgiven.get(id_, 0)
            self._expect(
                row.attempts <= refusals,
                lambda id_=id_, row=row, n=refusals: (
                    f"{id_}: {row.attempts} attempts, {n} refusals"
                ),
            )
            self._expect(
                row.dead == (row.attempts >= self.max_attempts),
                lambda id_=id_, row=row: f"{id_}: dead={row.dead} after {row.attempts} attempts",
            )

    def missing(self) -> list[int]:
        """Name the committed that are neither stored, nor kept for a person, nor dropped."""
        return [
            event.id
            for event in self.committed
            if not self.copies[event.event_id]
            and event.id not in self.dropped
            and not self._is_for_a_person(event)
        ]

    def _is_for_a_person(self, event: Event) -> bool:
        rows = self.outbox.parked.rows
        row = rows.get(event.id)
        if row is None or row.dead or not self.dead_blocks or event.key is None:
            return row is not None and row.dead
        return any(
            r.dead and r.event.key == event.key and id_ < event.id for id_, r in rows.items()
        )

    def _check_stored(self, message: Message) -> None:
        event = self._by_event_id.get(message.event_id)
        if event is None:
            self._expect(False, lambda: f"phantom: {message}")
            return
        same = (message.subject, message.key, message.payload)
        self._expect(same == (event.subject, event.key, event.payload), lambda: "corrupt")
        self.copies[event.event_id] += 1
        copies, asked = self.copies[event.event_id], self.retries[event.id]
        if copies == 1:
            self._check_order(event)
        self._expect(copies <= 1 + asked, lambda: f"{copies} copies of {event.id}")

    def _check_order(self, late: Event) -> None:
        """Nothing that had to come before ``late``, stored just now, may be missing."""
        self._note_dead()
        if late.key is None:
            return
        missing = [
            event.id
            for event in self.committed
            if event.key == late.key
            and event.id < late.id
            and self._commit_of[event.id] <= self._commit_of[late.id]
            and not self.copies[event.event_id]
            and event.id not in self._overtaken
        ]
        self._expect(not missing, lambda: f"order: {late.id} is stored, but not yet {missing}")

    def _note_dead(self) -> None:
        if not self.dead_blocks:
            rows = self.outbox.parked.rows.items()
            self._overtaken.update(id_ for id_, row in rows if row.dead)

    def _resolve(self, epoch: int, id_: int) -> None:
        for ids in self._pages[epoch]:
            ids.discard(id_)

    def _expect(self, kept: bool, message: Callable[[], str]) -> None:
        if not kept:
            self.violations.append(message())
