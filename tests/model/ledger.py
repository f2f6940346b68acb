"""What really happened, written down beside the relay, and the promises checked against it.

    R-LOSS      what is settled past is stored, or parked, or a person dropped it
    R-PHANTOM   what is stored was committed, unchanged
    R-ORDER     per key, first copies are in the order of id among what could be seen; only an event
                that was dead (and its key moves on) or dropped may come later
    R-ONCE      a term sends nothing that is settled; an event has one copy, and one more for each
                time that a person asked
    R-TERM      a term that is over changes nothing and sends one chunk at most, which it was
                allowed to send before the next term began
    R-FATE      see ``fates``
    R-BOUND     at most two pages are in a term's hands

Violations are collected, for they are found deep inside the relay's own calls.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from relay.core.event import Event
from relay.core.outcome import Outcome, Stored
from relay.facts import Fact
from relay.memory import MemoryBus, MemoryOutbox
from relay.memory.bus import Message
from relay.ports import Page, Settlement
from tests.model.fates import Fates

PAGES_IN_HAND = 2
STRANGER = "stranger"
"""The event_id of messages that no relay sent."""


class Ledger:
    """Books of one outbox and one broker."""

    def __init__(
        self, outbox: MemoryOutbox, broker: MemoryBus, fates: Fates, *, dead_blocks: bool
    ) -> None:
        self.outbox = outbox
        self.broker = broker
        self.fates = fates
        self.dead_blocks = dead_blocks
        self.violations = fates.violations
        self.committed: list[Event] = []
        self.copies: Counter[str] = Counter()
        self.dropped: set[str] = set()
        self.retries: Counter[str] = Counter()
        self.streams: dict[str, set[str]] = defaultdict(set)
        """By process, those that it learnt."""
        self.robbed: set[int] = set()
        """Epochs that lost their lease before its lifetime was over."""
        self._commit_of: dict[int, int] = {}
        self._by_event_id: dict[str, Event] = {}
        self._seen = 0
        self._overtaken: set[str] = set()
        self._epoch_of: dict[str, int] = {}
        self._over: set[int] = set()
        self._pages: dict[int, list[set[str]]] = defaultdict(list)
        self.changes = 0
        self._granted: dict[str, int] = {}
        self._late_chunks: Counter[int] = Counter()
        self._recalled: dict[str, set[str]] = {}

    # Producers and people.

    def commit(self, events: Sequence[Event]) -> None:
        """Have them visible from now on."""
        number = len(self.committed)
        for event in sorted(events):
            self.committed.append(event)
            self._commit_of[event.id] = number
            self._by_event_id[event.event_id] = event

    def retry(self, event_id: str) -> None:
        """A person asks for a dead event."""
        self.changes += 1
        self.outbox.parked.retry(event_id)
        self.retries[event_id] += 1
        self.fates.retry(event_id)

    def drop(self, event_id: str) -> None:
        """A person forgets a dead event."""
        self.changes += 1
        self.dropped.add(event_id)
        self._overtaken.add(event_id)
        self.outbox.parked.drop(event_id)

    # The relay.

    def complain(self, violation: str) -> None:
        """Note what must not be."""
        self.violations.append(violation)

    def told(self, process: str, fact: Fact) -> None:
        """``process`` tells ``fact`` just now."""
        self.fates.told(self._epoch_of.get(process, 0), fact)

    def term_began(self, epoch: int, process: str) -> None:
        """``process`` leads."""
        self._epoch_of[process] = epoch

    def term_over(self, epoch: int) -> None:
        """The term gave up its lease by itself."""
        self._over.add(epoch)

    def recalled(self, process: str) -> None:
        """``process`` was told which streams were learnt before."""
        self._recalled[process] = set(self.outbox.learnt)

    def learnt_by_the_leader(self, process: str) -> set[str]:
        """Return the streams that ``process`` learnt, if it leads."""
        leads = self.outbox.leader is not None and self._epoch_of.get(process) == self.outbox.epoch
        return self.streams[process] if leads else set()

    def uncaptured(self, process: str, stream: str) -> None:
        """``process`` says that ``stream`` never was."""
        known = stream in self.outbox.learnt and self._epoch_of[process] not in self.robbed
        # What was learnt after the term began is known to whoever learnt it.
        new = stream not in self._recalled.get(process, set())
        self._expect(not known or new, lambda: f"stream {stream} is forgotten")

    def granted(self, process: str) -> None:
        """The permit of ``process`` lets it send one chunk."""
        epoch = self._epoch_of[process]
        self._granted[process] = self.outbox.epoch
        self._expect(
            epoch == self.outbox.epoch or epoch in self.robbed,
            lambda: f"epoch {epoch} may send in epoch {self.outbox.epoch}",
        )
        self._expect(epoch not in self._over, lambda: f"epoch {epoch} is over and sends")

    def wrote(self, process: str) -> None:
        """``process`` writes that chunk."""
        epoch = self._epoch_of[process]
        if self.outbox.epoch not in (epoch, self._granted[process]):
            self._late_chunks[epoch] += 1
            allowed = self._late_chunks[epoch] <= 1 or epoch in self.robbed
            self._expect(allowed, lambda: f"epoch {epoch}, which is over, sent twice")
        self._expect(epoch not in self._over, lambda: f"epoch {epoch} is over and sends")

    def read(self, epoch: int, page: Page) -> None:
        """A page is in the relay's hands."""
        if page.events:
            self._pages[epoch].append({event.event_id for event in page.events})
        in_hand = [ids for ids in self._pages[epoch] if ids]
        self._expect(len(in_hand) <= PAGES_IN_HAND, lambda: f"{len(in_hand)} pages in hand")
        self.fates.read(epoch, page)

    def sending(self, process: str, events: Sequence[Event]) -> None:
        """The relay publishes ``events``."""
        self.fates.sending(self._epoch_of.get(process, 0), events)
        if self._epoch_of.get(process) != self.outbox.epoch:
            return
        done = {event.event_id for event in self.committed[: self.outbox.settled]}
        done -= set(self.outbox.parked.rows) | self.dropped
        again = [event.id for event in events if event.event_id in done]
        self._expect(not again, lambda: f"sent, though settled: {again}")

    def cut(self, process: str, events: Sequence[Event]) -> None:
        """``process`` lost its connection while it sent ``events``."""
        self.fates.cut(process, self._epoch_of.get(process, 0), events)

    def answered(self, process: str, events: Sequence[Event], outcomes: Sequence[Outcome]) -> None:
        """The relay knows the outcomes."""
        epoch = self._epoch_of[process]
        rows = self.outbox.parked.rows
        self.fates.answered(process, epoch, events, outcomes, rows)
        for event, outcome in zip(events, outcomes, strict=True):
            if isinstance(outcome, Stored):
                self._resolve(epoch, event.event_id)

    def stored(self) -> None:
        """The broker may have stored something."""
        new = self.broker.messages[self._seen :]
        self._seen += len(new)
        for message in new:
            if message.event_id != STRANGER:
                self._check_stored(message)

    def settled(self, epoch: int, done: Settlement) -> None:
        """A settlement is committed."""
        self.changes += 1
        self._expect(epoch == self.outbox.epoch, lambda: f"epoch {epoch} settled, but is over")
        for parking in done.parked:
            self._resolve(epoch, parking.event_id)
            self.fates.parked(epoch, parking)
        self.check()

    def unchanged(self, before: Any) -> None:
        """Compare with ``state()`` of before, unless another one or a person came between."""
        others = self.changes != before[0]
        failed = "a settlement failed, but changed something"
        self._expect(others or self.state() == before, lambda: failed)

    def state(self) -> Any:
        """Return what a settlement can change, behind the number of the changes that were due."""
        rows = self.outbox.parked.rows.items()
        parked = {id_: (r.attempts, r.due_at, r.dead, r.held_by, r.retries) for id_, r in rows}
        return self.changes, self.outbox.settled, parked

    # The promises.

    def check(self) -> None:
        """Check all that can be said at any moment."""
        self._note_dead()
        outbox, parked = self.outbox, self.outbox.parked.rows
        self._expect(outbox.pruned <= outbox.settled, lambda: "pruned what is not settled")
        for event in self.committed[: outbox.settled]:
            id_ = event.event_id
            kept = self.copies[id_] or id_ in parked or id_ in self.dropped
            self._expect(bool(kept), lambda event=event: f"lost: {event.id}")

    def missing(self) -> list[int]:
        """Name the committed that are neither stored, nor kept for a person, nor dropped."""
        return [
            event.id
            for event in self.committed
            if not self.copies[event.event_id]
            and event.event_id not in self.dropped
            and not self._is_for_a_person(event)
        ]

    def kept_waiting(self, strikes: Callable[[Event], bool]) -> list[int]:
        """Name what is not stored although nothing strikes it, nor anything before it in its key.

        ``strikes`` says whether a fault in force strikes an event.
        """
        rows, closed, waiting = self.outbox.parked.rows, set[str](), list[int]()
        for event in sorted(self.committed):
            row = rows.get(event.event_id)
            if row is None and (self.copies[event.event_id] or event.event_id in self.dropped):
                continue
            if row is not None and row.dead and not self.dead_blocks:
                continue
            if event.key in closed:
                continue
            if strikes(event) or (row is not None and row.dead):
                if event.key is not None:
                    closed.add(event.key)
            else:
                waiting.append(event.id)
        return waiting

    def _is_for_a_person(self, event: Event) -> bool:
        rows = self.outbox.parked.rows
        row = rows.get(event.event_id)
        if row is None or row.dead or not self.dead_blocks or event.key is None:
            return row is not None and row.dead
        return any(
            r.dead and r.event.key == event.key and r.event.id < event.id for r in rows.values()
        )

    def _check_stored(self, message: Message) -> None:
        event = self._by_event_id.get(message.event_id)
        if event is None:
            self._expect(False, lambda: f"phantom: {message}")
            return
        same = (message.subject, message.key, message.payload)
        self._expect(same == (event.subject, event.key, event.payload), lambda: "corrupt")
        self.copies[event.event_id] += 1
        copies, asked = self.copies[event.event_id], self.retries[event.event_id]
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
            and event.event_id not in self._overtaken
        ]
        self._expect(not missing, lambda: f"order: {late.id} is stored, but not yet {missing}")

    def _note_dead(self) -> None:
        if not self.dead_blocks:
            rows = self.outbox.parked.rows.items()
            self._overtaken.update(id_ for id_, row in rows if row.dead)

    def _resolve(self, epoch: int, event_id: str) -> None:
        for ids in self._pages[epoch]:
            ids.discard(event_id)

    def _expect(self, kept: bool, message: Callable[[], str]) -> None:
        if not kept:
            self.violations.append(message())
