"""The outbox as a list, its parked events as a dict.

``MemoryOutbox.events`` holds the committed events in the order of their commits; the cursor is a
count of them. Ages are by the wall clock, as in the database; when a parked event is due again is
by anyio's clock, so that tests in virtual time need not wait.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count, takewhile
from uuid import uuid4

import anyio
from anyio.lowlevel import checkpoint

from relay.core.event import Event
from relay.core.order import KeyFence
from relay.core.storage import OutboxStorage
from relay.errors import TermLost
from relay.memory.bell import MemoryBell
from relay.memory.checkpoints import MemoryCheckpoints
from relay.ports import Backlog, Due, Page, Report, Settlement


class MemoryOutbox:
    """``relay.ports.Outbox`` over a list. ``emit`` commits one event, ``commit`` several.

    Attributes:
        events: what has committed and is not pruned.
        pruned: how many events were deleted: ``events`` begins behind these.
        settled: how many events, in the order of their commits, are settled: the cursor.
        leader: the store of the term that lasts, or None.
        reported: what the leader reported last.
        learnt: every stream that was ever learnt, with its subject filters.
    """

    def __init__(self, *, dead_blocks: bool = False) -> None:
        """Begin empty, led by nobody; ``dead_blocks``: a dead event blocks its key."""
        self.events: list[Event] = []
        self.pruned = 0
        self.settled = 0
        self.parked = MemoryParked(dead_blocks=dead_blocks)
        self.bell = MemoryBell()
        self.epoch = 0
        self.leader: MemoryStore | None = None
        self.reported: Report | None = None
        self.learnt: dict[str, set[str]] = {}
        self.ended = anyio.Event()
        self._ids = count(1)
        self.checkpoints = MemoryCheckpoints(self._go_back, self._delivered)

    def draw(
        self,
        subject: str,
        payload: bytes,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
    ) -> Event:
        """Make an event with the next id, not committed yet: as a transaction does."""
        id_, event_id, now = next(self._ids), str(uuid4()), datetime.now(UTC)
        message_id = idempotency_key or f"relay-{event_id}"
        return Event(id_, event_id, message_id, subject, key, now, headers, payload)

    def commit(self, events: Sequence[Event]) -> None:
        """Make drawn events visible, all at once, and ring."""
        self.events.extend(sorted(events))
        self.bell.ring()

    def emit(
        self,
        subject: str,
        payload: bytes,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
    ) -> str:
        """Commit one event; its event_id."""
        event = self.draw(
            subject, payload, key=key, headers=headers, idempotency_key=idempotency_key
        )
        self.commit([event])
        return event.event_id

    async def campaign(self, holder: str) -> "MemoryStore | None":  # noqa: ARG002 - the port's
        """Begin a term unless one lasts."""
        await checkpoint()
        if self.leader is not None:
            return None
        self.epoch += 1
        self.leader = MemoryStore(self)
        return self.leader

    async def released(self, seconds: float) -> None:
        """Wait until a term ends, for at most ``seconds``."""
        with anyio.move_on_after(seconds):
            await self.ended.wait()

    def _go_back(self, position: int) -> int:
        self.epoch, self.leader, was = self.epoch + 1, None, self.settled
        self.settled = min(was, position)
        return was

    def _delivered(self, until: int) -> set[int]:
        return {event.id for event in self.events[: max(0, until - self.pruned)]}

    async def storage(self) -> OutboxStorage | None:
        """Return nothing: no disk is in use."""
        return None

    async def close(self) -> None:
        """Do nothing: there is no connection."""


class MemoryStore:
    """``relay.ports.OutboxStore``: one term over a ``MemoryOutbox``, until another one begins."""

    def __init__(self, outbox: MemoryOutbox) -> None:
        """Read on behind what is settled."""
        self.epoch = outbox.epoch
        self.parked, self.checkpoints = outbox.parked, outbox.checkpoints
        self._outbox = outbox
        self._read = outbox.settled

    def granted(self) -> bool:
        """Say whether the term lasts."""
        return self._outbox.epoch == self.epoch

    async def renew(self) -> None:
        """Raise TermLost if the term is over."""
        await checkpoint()
        self._fence()

    async def watch(self) -> None:
        """Do nothing: a lease here needs no renewal."""
        await anyio.sleep_forever()

    async def read(self, limit: int) -> Page:
        """Return up to ``limit`` events in the order of their commits."""
        await checkpoint()
        begin = self._read - self._outbox.pruned
        events = self._outbox.events[begin : begin + limit]
        self._read += len(events)
        return Page(events, self._read if events else None, full=len(events) == limit)

    async def settle(self, done: Settlement) -> None:
        """Move the cursor and change the parked, while the term lasts."""
        await checkpoint()
        self._fence()
        outbox = self._outbox
        unsettled = outbox.events[outbox.settled - outbox.pruned :]
        outbox.parked.settle(done, {event.event_id: event for event in unsettled})
        if done.position is not None:
            assert isinstance(done.position, int)
            outbox.settled = done.position
        outbox.checkpoints.settle(done, outbox.settled)

    async def look(self, position: object | None) -> Backlog:
        """Count what is not delivered."""
        await checkpoint()
        self._fence()
        assert position is None or isinstance(position, int)
        outbox, now = self._outbox, datetime.now(UTC)
        behind = max(outbox.settled, position or 0)
        waiting, rows = outbox.events[behind - outbox.pruned :], outbox.parked.rows.values()
        live = [row for row in rows if not row.dead]
        held = [row for row in live if row.held_by]
        return Backlog(
            undelivered=len(waiting),
            lag=_age([*waiting, *(row.event for row in live)], now),
            parked=len(rows),
            dead=len(rows) - len(live),
            held=len(held),
            held_lag=_age([row.event for row in held], now),
            blocking=outbox.parked.blocking,
        )

    async def tend(self, retention: float) -> int:
        """Delete what is settled and older than ``retention`` s by the wall clock."""
        await checkpoint()
        outbox, now = self._outbox, datetime.now(UTC)
        settled = outbox.events[: outbox.settled - outbox.pruned]
        old = list(takewhile(lambda event: _age([event], now) > retention, settled))
        del outbox.events[: len(old)]
        outbox.pruned += len(old)
        return len(old)

    async def report(self, report: Report) -> None:
        """Keep the leader's report."""
        await checkpoint()
        self._outbox.reported = report

    async def streams(self) -> Mapping[str, Collection[str]]:
        """Return what was learnt of streams."""
        await checkpoint()
        return self._outbox.learnt

    async def keep_streams(self, streams: Mapping[str, Collection[str]]) -> None:
        """Remember what was learnt of streams."""
        await checkpoint()
        for name, subjects in streams.items():
            self._outbox.learnt.setdefault(name, set()).update(subjects)

    async def close(self) -> None:
        """End the term, if it lasts."""
        if self._outbox.leader is self:
            self._outbox.leader = None
            self._outbox.ended.set()
            self._outbox.ended = anyio.Event()

    def _fence(self) -> None:
        if not self.granted():
            raise TermLost(f"epoch {self.epoch} is over")


def _age(events: Sequence[Event], now: datetime) -> float:
    oldest = min((event.created_at for event in events), default=now)
    return max(0.0, (now - oldest).total_seconds())


@dataclass(slots=True)
class Row:
    """One parked event; its times are on anyio's clock.

    Attributes:
        event: as it was read; its message id changes with a person's retry.
        attempts, errors: how often it was refused, and every refusal's reason.
        due_at: None is as soon as no earlier event of its key is in the way.
        waits_since, refused_at: when it was tried last, and refused first.
    """

    event: Event
    attempts: int = 0
    due_at: float | None = None
    waits_since: float = 0.0
    refused_at: float | None = None
    dead: bool = False
    held_by: str = ""
    errors: list[str] = field(default_factory=list)
    retries: int = 0


class MemoryParked:
    """``relay.ports.ParkedEvents`` over a dict by event_id. A person does ``retry``, ``drop``."""

    def __init__(self, *, dead_blocks: bool) -> None:
        """Begin empty."""
        self.rows: dict[str, Row] = {}
        self._dead_blocks = dead_blocks

    @property
    def blocking(self) -> bool:
        """Whether any event makes the later ones of its key queue."""
        return bool(self._chains())

    def retry(self, event_id: str) -> None:
        """Have a dead event tried again, under a message id of its own."""
        row = self.rows[event_id]
        row.dead, row.attempts, row.retries, row.refused_at = False, 0, row.retries + 1, None
        row.due_at = row.waits_since = anyio.current_time()
        row.event = row.event._replace(message_id=f"relay-{event_id}-{row.retries}")

    def drop(self, event_id: str) -> None:
        """Forget a parked event."""
        del self.rows[event_id]

    async def blocked(self, keys: Collection[str]) -> set[str]:
        """Return those of ``keys`` whose next event has to queue behind a parked one."""
        await checkpoint()
        fence = KeyFence(key for chain in self._chains() if (key := chain[0].event.key) is not None)
        return {key for key in keys if not fence.passes(key)}

    async def due(self, limit: int, *, without: Collection[str] = ()) -> Sequence[Due]:
        """Return at most ``limit`` events that may be tried now, in the order of id."""
        await checkpoint()
        runs = [list(self._run(chain, without)) for chain in self._chains()]
        # The first of each key before any that is behind one: no key keeps the others waiting.
        places = sorted(
            (place, self.rows[due.event.event_id].waits_since, due.event.id)
            for run in runs
            for place, due in enumerate(run)
        )
        chosen = {id_ for _, _, id_ in places[:limit]}
        found = [due for run in runs for due in run if due.event.id in chosen]
        return sorted(found, key=lambda due: due.event.id)

    def settle(self, done: Settlement, page: Mapping[str, Event]) -> None:
        """Park, park again, and unpark; the events of new ones are in ``page``."""
        for parking in done.parked:
            row = self.rows.get(parking.event_id) or Row(page[parking.event_id])
            self.rows[parking.event_id] = row
            row.attempts, row.dead, row.held_by = parking.attempts, parking.dead, parking.held_by
            now = row.waits_since = anyio.current_time()
            row.due_at = None if parking.delay is None else now + parking.delay
            if parking.attempts and not parking.held_by:
                row.errors.append(parking.error)
                row.refused_at = now if row.refused_at is None else row.refused_at
        for event_id in done.unparked:
            self.rows.pop(event_id, None)

    def _chains(self) -> list[list[Row]]:
        """Sort the rows that count by key; one without a key stands alone."""
        chains: dict[object, list[Row]] = {}
        for row in sorted(self.rows.values(), key=lambda row: row.event.id):
            if self._dead_blocks or not row.dead:
                event = row.event
                chains.setdefault(event.id if event.key is None else event.key, []).append(row)
        return list(chains.values())

    def _run(self, chain: list[Row], without: Collection[str]) -> Iterator[Due]:
        """Yield a chain's events up to the first that may not be tried."""
        now = anyio.current_time()
        for row in chain:
            if row.dead or (row.due_at or 0.0) > now or (row.held_by and row.held_by in without):
                return
            age = 0.0 if row.refused_at is None else now - row.refused_at
            yield Due(row.event, row.attempts, row.held_by, age)
