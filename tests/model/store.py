"""The memory outbox as one process sees it, with everything in between that can go wrong.

    engine ──► gate ──► away? session ended? ──► late ──► the model ──► late ──► gate ──► engine

What is authoritative are the model (``relay.memory``) and the server's sessions (``lease``); the
faults in force are in ``Faults``. A process that has died has no effect any more, whatever its
tasks still try.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import anyio

from relay.core.storage import OutboxStorage
from relay.errors import StoreOutage
from relay.memory import MemoryBell, MemoryOutbox, MemoryStore
from relay.ports import Backlog, Due, Page, Report, Settlement, Wake
from tests.model.faults import Faults
from tests.model.lease import LIFETIME, MARGIN, Server
from tests.model.ledger import Ledger
from tests.model.process import Process

_Answer = TypeVar("_Answer")

PING_EVERY = 1.0
UNREADABLE = "year out of range"


class FaultyOutbox:
    """``relay.ports.Outbox``."""

    def __init__(
        self,
        inner: MemoryOutbox,
        server: Server,
        process: Process,
        faults: Faults,
        ledger: Ledger,
    ) -> None:
        self._inner = inner
        self._server = server
        self._process = process
        self._faults = faults
        self._ledger = ledger

    async def campaign(self, holder: str) -> "FaultyStore | None":
        await self._process.gate()
        asked_at = anyio.current_time()
        delay = self._faults.delay("campaign")
        await anyio.sleep(delay.before)
        if self._faults.store_away:
            raise StoreOutage("Postgres is away")
        self._server.reap(anyio.current_time())
        inner = await self._inner.campaign(holder)
        if inner is None:
            return None
        store = FaultyStore(
            inner, self._server, self._process, self._faults, self._ledger, asked_at=asked_at
        )
        self._process.on_death = store.break_off
        await anyio.sleep(delay.after)
        await self._process.gate()
        return store

    async def released(self, seconds: float) -> None:
        await self._process.gate()
        await self._inner.released(seconds)

    async def storage(self) -> OutboxStorage | None:
        return None

    async def close(self) -> None:
        await self._process.stand_still()


class FaultyStore:
    """``relay.ports.OutboxStore`` and its parked events, for one term."""

    def __init__(
        self,
        inner: MemoryStore,
        server: Server,
        process: Process,
        faults: Faults,
        ledger: Ledger,
        *,
        asked_at: float,
    ) -> None:
        self.epoch = inner.epoch
        self.parked = self
        self.checkpoints = inner.checkpoints
        self._inner = inner
        self._server = server
        self._process = process
        self._faults = faults
        self._ledger = ledger
        self._session = server.begin(inner, anyio.current_time())
        self._break = faults.session
        self._proof_at = asked_at
        ledger.term_began(self.epoch, process.name)

    def break_off(self) -> None:
        """Let the server notice that the client is gone."""
        self._server.end(self._session)

    # The permit.

    def granted(self) -> bool:
        return anyio.current_time() < self._proof_at + LIFETIME - MARGIN

    async def renew(self) -> None:
        await self._ask("renew", self._inner.renew, term=True)

    async def watch(self) -> None:
        while True:
            await anyio.sleep(PING_EVERY)
            await self._ask("watch", self._ping, term=True)

    async def _ping(self) -> None:
        """Say something on the session."""

    # The outbox.

    async def read(self, limit: int) -> Page:
        page = await self._ask("read", lambda: self._inner.read(limit))
        bad = {e.id: UNREADABLE for e in page.events if e.event_id in self._faults.unreadable}
        page = replace(page, unreadable=bad)
        self._ledger.read(self.epoch, page)
        return page

    async def settle(self, done: Settlement) -> None:
        async def settle() -> None:
            if self._faults.unwilling and (done.parked or done.unparked):
                raise self._faults.unwilling.pop(0)
            before = self._ledger.state()
            try:
                await self._inner.settle(done)
            except Exception:
                self._ledger.unchanged(before)
                raise
            self._ledger.settled(self.epoch, done)
            if self._faults.commits_unheard:
                self._faults.commits_unheard -= 1
                raise StoreOutage("the answer to the commit is lost")

        await self._ask("settle", settle, term=True)

    async def look(self, position: object | None) -> Backlog:
        return await self._ask("look", lambda: self._inner.look(position))

    async def tend(self, retention: float) -> int:
        return await self._ask("tend", lambda: self._inner.tend(retention))

    async def report(self, report: Report) -> None:
        await self._ask("report", lambda: self._inner.report(report))

    async def streams(self) -> Mapping[str, Collection[str]]:
        return await self._ask("streams", self._inner.streams)

    async def keep_streams(self, streams: Mapping[str, Collection[str]]) -> None:
        await self._ask("keep streams", lambda: self._inner.keep_streams(streams))

    async def blocked(self, keys: Collection[str]) -> set[str]:
        return await self._ask("blocked", lambda: self._inner.parked.blocked(keys))

    async def due(self, limit: int, *, without: Collection[str] = ()) -> Sequence[Due]:
        found = await self._ask("due", lambda: self._inner.parked.due(limit, without=without))
        due = [
            replace(each, unreadable=UNREADABLE)
            if each.event.event_id in self._faults.unreadable
            else each
            for each in found
        ]
        self._ledger.fates.due(self.epoch, due)
        return due

    async def close(self) -> None:
        await self._process.stand_still()
        if not self._process.dead:
            self._ledger.term_over(self.epoch)
            self._server.end(self._session)

    async def _ask(
        self, call: str, ask: Callable[[], Awaitable[_Answer]], *, term: bool = False
    ) -> _Answer:
        """Ask over the term's own session, whose answers are proof, or over another one."""
        await self._process.gate()
        asked_at, delay = anyio.current_time(), self._faults.delay(call)
        self._arrive(term=term)
        if delay.before:
            await anyio.sleep(delay.before)
            self._arrive(term=term)
        answer = await ask()
        if term:
            self._session.spoke_at = anyio.current_time()
        if delay.after:
            await anyio.sleep(delay.after)
        await self._process.gate()
        self._check()
        if term:
            self._proof_at = max(self._proof_at, asked_at)
        return answer

    def _arrive(self, *, term: bool) -> None:
        """Reach the server."""
        self._check()
        now = anyio.current_time()
        self._server.reap(now)
        if self._session.ended:
            raise StoreOutage("the server has ended the session")
        if term:
            self._session.spoke_at = now

    def _check(self) -> None:
        if self._faults.store_away or self._break != self._faults.session:
            raise StoreOutage("the session is broken")


class FaultyBell:
    """``relay.ports.WakeSource``: a bell of the process's own."""

    ring_seconds: float | None = 0.0

    def __init__(self, process: Process, faults: Faults) -> None:
        self._inner = MemoryBell()
        self._process = process
        self._faults = faults

    def ring(self) -> None:
        if not self._faults.deaf:
            self._inner.ring()

    async def arm(self) -> int | None:
        await self._process.gate()
        return None if self._faults.deaf else await self._inner.arm()

    async def wait(self, timeout: float) -> Wake:  # noqa: ASYNC109 - the port's
        return await self._inner.wait(timeout)

    def disarm(self) -> None:
        self._inner.disarm()

    async def run(self) -> None:
        await anyio.sleep_forever()
