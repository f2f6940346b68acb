"""The outbox as a list, its bell as an event. Its parked events: ``relay.memory.parked``.

Nothing is refused: what Postgres does not take of a producer (a subject, a header, a size, a key
that begins with ``relay-``) is shown by Postgres alone.

``MemoryOutbox.events`` holds the committed events in the order of their commits; the cursor is a
count of them. Ages are by the wall clock, as in the database.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from itertools import count, takewhile
from uuid import uuid4

import anyio
from anyio.lowlevel import checkpoint

from relay.core.event import Event
from relay.core.storage import OutboxStorage
from relay.errors import TermLost
from relay.memory.checkpoints import MemoryCheckpoints
from relay.memory.parked import MemoryParked
from relay.ports import Backlog, Page, Report, Settlement, Wake


class MemoryOutbox:
    """``relay.ports.Outbox`` over a list. ``emit`` commits one event, ``commit`` several.

    Attributes:
        events: what has committed and is not pruned.
        pruned: how many events were deleted: ``events`` begins behind these.
        settled: how many events, in the order of their commits, are settled: the cursor.
        leader: the store of the term that lasts, or None.
        reported: what the leader reported last.
        replays: how many replays a person has begun.
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
        self.replays = 0
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
        """Commit one event; its event_id. Of an idempotency key that is there: the first one's."""
        for each in self.events if idempotency_key else ():
            if each.message_id == idempotency_key:
                return each.event_id
        event = self.draw(
            subject, payload, key=key, headers=headers, idempotency_key=idempotency_key
        )
        self.commit([event])
        return event.event_id

    def replay(self, event_ids: Collection[str]) -> None:
        """Have delivered events published again, as a person does."""
        self.replays += 1
        delivered = self.events[: self.settled - self.pruned]
        self.parked.replay([each for each in delivered if each.event_id in event_ids], self.replays)

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
        undelivered = [row.event for row in live if row.replay is None]
        held = [row for row in live if row.held_by]
        return Backlog(
            undelivered=len(waiting),
            lag=_age([*waiting, *undelivered], now),
            parked=len(rows) - len(live) + len(undelivered),
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


class MemoryBell:
    """``relay.ports.WakeSource``: rings while armed, at no cost."""

    ring_seconds: float | None = 0.0

    def __init__(self) -> None:
        """Begin disarmed."""
        self._armed = False
        self._rung = anyio.Event()

    def ring(self) -> None:
        """Wake the relay that waits, or will."""
        if self._armed:
            self._rung.set()

    async def arm(self) -> int | None:
        """Listen from now on; no transaction is silent here."""
        await checkpoint()
        self._armed = True
        return 0

    async def wait(self, timeout: float) -> Wake:  # noqa: ASYNC109 - the poll interval
        """Sleep until rung or for ``timeout`` s."""
        with anyio.move_on_after(timeout):
            await self._rung.wait()
        if not self._rung.is_set():
            return Wake.POLL
        self._rung = anyio.Event()
        return Wake.BELL

    def disarm(self) -> None:
        """Be silent."""
        self._armed = False

    async def run(self) -> None:
        """Do nothing: there is no session to keep."""
        await anyio.sleep_forever()
