"""The outbox as a list: committed events in the order of their commits, one cursor, one epoch."""

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from itertools import count
from uuid import uuid4

import anyio
import anyio.lowlevel

from relay.core.event import Event
from relay.core.storage import OutboxStorage
from relay.errors import TermLost
from relay.memory.bell import MemoryBell
from relay.memory.parked import MemoryParked
from relay.ports import Backlog, Page, Report, Settlement


class MemoryOutbox:
    """``relay.ports.Outbox`` over a list. ``emit`` commits one event, ``commit`` several."""

    def __init__(self, *, dead_blocks: bool = False) -> None:
        """Begin empty, led by nobody; ``dead_blocks``: a dead event blocks its key."""
        self.events: list[Event] = []
        """What has committed and is not pruned."""
        self.parked = MemoryParked(dead_blocks=dead_blocks)
        self.settled = 0
        """How many events, in the order of their commits, are settled: the cursor."""
        self.pruned = 0
        """How many of them are deleted again: ``events`` begins behind these."""
        self.epoch = 0
        self.leader: MemoryStore | None = None
        self.bell = MemoryBell()
        self.reported: Report | None = None
        """What the leader reported last."""
        self.learnt: dict[str, set[str]] = {}
        """Every stream that was ever learnt, with its subject filters."""
        self._ids = count(1)

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
        event_id = str(uuid4())
        return Event(
            next(self._ids),
            event_id,
            idempotency_key or f"relay-{event_id}",
            subject,
            key,
            datetime.now(UTC),
            headers,
            payload,
        )

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
        await anyio.lowlevel.checkpoint()
        if self.leader is not None:
            return None
        self.epoch += 1
        self.parked.promote()
        self.leader = MemoryStore(self, self.epoch)
        return self.leader

    async def storage(self) -> OutboxStorage | None:
        """Take up nothing that could be seen."""
        return None

    async def close(self) -> None:
        """Have nothing to give up."""


class MemoryStore:
    """One term over a ``MemoryOutbox``."""

    def __init__(self, outbox: MemoryOutbox, epoch: int) -> None:
        """Read on behind what is settled."""
        self.epoch = epoch
        self.parked = outbox.parked
        self._outbox = outbox
        self._read = outbox.settled

    def granted(self) -> bool:
        """Hold the lease until another term begins."""
        return self._outbox.epoch == self.epoch

    async def renew(self) -> None:
        """Find that the lease is held, or lost."""
        await anyio.lowlevel.checkpoint()
        self._fence()

    async def watch(self) -> None:
        """Need nothing."""
        await anyio.sleep_forever()

    async def read(self, limit: int) -> Page:
        """Return up to ``limit`` events in the order of their commits."""
        await anyio.lowlevel.checkpoint()
        begin = self._read - self._outbox.pruned
        events = self._outbox.events[begin : begin + limit]
        if not events:
            return Page((), None, full=False)
        self._read += len(events)
        return Page(events, self._read, full=len(events) == limit)

    async def settle(self, done: Settlement) -> None:
        """Move the cursor and change the parked, while the term lasts."""
        await anyio.lowlevel.checkpoint()
        self._fence()
        outbox = self._outbox
        unsettled = outbox.events[outbox.settled - outbox.pruned :]
        outbox.parked.settle(done, {event.event_id: event for event in unsettled})
        if done.position is not None:
            assert isinstance(done.position, int)
            outbox.settled = done.position

    async def look(self, position: object | None) -> Backlog:
        """Count what is not delivered."""
        await anyio.lowlevel.checkpoint()
        self._fence()
        outbox = self._outbox
        place = outbox.settled if position is None else max(outbox.settled, _index(position))
        waiting = outbox.events[place - outbox.pruned :]
        rows = outbox.parked.rows.values()
        live = [row for row in rows if not row.dead]
        held = [row for row in live if row.held_by]
        now = datetime.now(UTC)
        return Backlog(
            len(waiting),
            _age([*waiting, *(row.event for row in live)], now),
            len(rows),
            len(rows) - len(live),
            len(held),
            _age([row.event for row in held], now),
            outbox.parked.blocking,
        )

    async def tend(self, retention: float) -> int:
        """Delete what is settled and older than ``retention`` s by the wall clock."""
        await anyio.lowlevel.checkpoint()
        outbox, now = self._outbox, datetime.now(UTC)
        outbox.parked.promote()
        settled = outbox.events[: outbox.settled - outbox.pruned]
        old = 0
        for event in settled:
            if (now - event.created_at).total_seconds() <= retention:
                break
            old += 1
        del outbox.events[:old]
        outbox.pruned += old
        return old

    async def report(self, report: Report) -> None:
        """Keep the leader's word."""
        await anyio.lowlevel.checkpoint()
        self._outbox.reported = report

    async def streams(self) -> Mapping[str, Collection[str]]:
        """Return what was learnt of streams."""
        await anyio.lowlevel.checkpoint()
        return self._outbox.learnt

    async def keep_streams(self, streams: Mapping[str, Collection[str]]) -> None:
        """Remember what was learnt of streams."""
        await anyio.lowlevel.checkpoint()
        for name, subjects in streams.items():
            self._outbox.learnt.setdefault(name, set()).update(subjects)

    async def close(self) -> None:
        """End the term, if it lasts."""
        if self._outbox.leader is self:
            self._outbox.leader = None

    def _fence(self) -> None:
        if self._outbox.epoch != self.epoch:
            raise TermLost(f"epoch {self.epoch} is over")


def _index(position: object) -> int:
    assert isinstance(position, int)
    return position


def _age(events: Sequence[Event], now: datetime) -> float:
    if not events:
        return 0.0
    oldest = min(event.created_at for event in events)
    return max(0.0, (now - oldest).total_seconds())
