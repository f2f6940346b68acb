"""The outbox as a list: committed events in the order of their commits, one cursor, one epoch."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import count
from uuid import uuid4

import anyio
import anyio.lowlevel

from relay.core.event import Event
from relay.core.outcome import Refused
from relay.errors import TermLost
from relay.ports import Backlog, Page, Settlement, Wake


class MemoryOutbox:
    """``relay.ports.Outbox`` over a list. ``emit`` commits one event, ``commit`` several."""

    def __init__(self) -> None:
        """Begin empty, led by nobody."""
        self.events: list[Event] = []
        self.parked: list[tuple[Event, Refused]] = []
        self.delivered = 0
        self.settled = 0
        """How many of the committed events are settled: the cursor."""
        self.epoch = 0
        self.leader: MemoryStore | None = None
        self.bell = MemoryBell()
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
            idempotency_key or event_id,
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
        self.leader = MemoryStore(self, self.epoch)
        return self.leader

    async def close(self) -> None:
        """Have nothing to give up."""


class MemoryStore:
    """One term over a ``MemoryOutbox``."""

    def __init__(self, outbox: MemoryOutbox, epoch: int) -> None:
        """Read on behind what is settled."""
        self.epoch = epoch
        self._outbox = outbox
        self._read = outbox.settled

    async def read(self, limit: int) -> Page:
        """Return up to ``limit`` events in the order of their commits."""
        await anyio.lowlevel.checkpoint()
        events = self._outbox.events[self._read : self._read + limit]
        if not events:
            return Page((), None, full=False)
        self._read += len(events)
        return Page(events, self._read, full=len(events) == limit)

    async def settle(self, done: Settlement) -> None:
        """Move the cursor and keep what was refused, while the term lasts."""
        await anyio.lowlevel.checkpoint()
        self._fence()
        assert isinstance(done.position, int)
        self._outbox.settled = done.position
        self._outbox.delivered += done.delivered
        self._outbox.parked.extend(done.parked)

    async def prune(self, retention: float) -> int:
        """Keep everything: a test wants to look at it."""
        del retention
        await anyio.lowlevel.checkpoint()
        return 0

    async def backlog(self) -> Backlog:
        """Count what is not settled."""
        await anyio.lowlevel.checkpoint()
        self._fence()
        waiting = self._outbox.events[self._outbox.settled :]
        lag = 0.0
        if waiting:
            oldest = min(event.created_at for event in waiting)
            lag = max(0.0, (datetime.now(UTC) - oldest).total_seconds())
        return Backlog(len(waiting), lag, len(self._outbox.parked))

    async def close(self) -> None:
        """End the term, if it lasts."""
        if self._outbox.leader is self:
            self._outbox.leader = None

    def _fence(self) -> None:
        if self._outbox.epoch != self.epoch:
            raise TermLost(f"epoch {self.epoch} is over")


class MemoryBell:
    """``relay.ports.WakeSource``: rings while armed."""

    def __init__(self) -> None:
        """Begin disarmed."""
        self._rung: anyio.Event | None = None

    def ring(self) -> None:
        """Wake who waits, or will."""
        if self._rung is not None:
            self._rung.set()

    async def arm(self) -> bool:
        """Listen from now on."""
        await anyio.lowlevel.checkpoint()
        self._rung = anyio.Event()
        return True

    async def wait(self, timeout: float) -> Wake:  # noqa: ASYNC109 - the poll interval
        """Sleep until rung or for ``timeout`` s."""
        rung = self._rung or anyio.Event()
        with anyio.move_on_after(timeout):
            await rung.wait()
        return Wake.BELL if rung.is_set() else Wake.POLL

    def disarm(self) -> None:
        """Be silent."""
        self._rung = None

    async def run(self) -> None:
        """Need nothing."""
        await anyio.sleep_forever()
