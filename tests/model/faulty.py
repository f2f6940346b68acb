"""The memory adapters as one process sees them, with everything in between that can go wrong.

    engine ──► gate ──► away? ──► the model ──► answer lost? ──► gate ──► engine

What is authoritative are the models (``relay.memory``); the faults in force are in ``Faults``.
A process that has died has no effect any more, whatever its tasks still try.
"""

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeVar

import anyio

from relay.core.breakers import Breakers
from relay.core.event import Event
from relay.core.outcome import Outcome, Stored, Unknown
from relay.errors import BusOutage, StoreOutage
from relay.memory import MemoryBell, MemoryBus, MemoryOutbox, MemoryStore
from relay.ports import Backlog, Due, Page, Settlement, Wake
from tests.model.ledger import Ledger
from tests.model.process import Process

_Answer = TypeVar("_Answer")

CALL = 3
"""Events that go to the broker between two gates."""


class Wire(Enum):
    """What becomes of one event on its way to the broker and back."""

    FINE = "stored and acknowledged"
    UNACKED = "stored, but the answer is lost"
    LOST = "the message is lost"
    LATE = "the message arrives some time later"
    CUT = "the connection breaks: this message and all behind it are lost"
    CUT_BEHIND = "the connection breaks behind this message"


@dataclass
class Faults:
    """What is broken now.

    Attributes:
        store_away: Postgres answers nothing.
        session: changes when every session breaks; older ones stay broken.
        commits_unheard: so many settlements are committed, but their answers are lost.
        bus_away: NATS answers nothing.
        wire: what becomes of the next events that are sent, one each.
        moods: what the broker answers for a subject instead of storing it.
        late: messages on their way.
        deaf: nobody's commit rings.
    """

    store_away: bool = False
    session: int = 0
    commits_unheard: int = 0
    bus_away: bool = False
    wire: list[Wire] = field(default_factory=list)
    moods: dict[str, Outcome] = field(default_factory=dict)
    late: list[Event] = field(default_factory=list)
    deaf: bool = False


class FaultyOutbox:
    """``relay.ports.Outbox``."""

    def __init__(
        self, inner: MemoryOutbox, process: Process, faults: Faults, ledger: Ledger
    ) -> None:
        self._inner = inner
        self._process = process
        self._faults = faults
        self._ledger = ledger

    async def campaign(self, holder: str) -> "FaultyStore | None":
        await self._process.gate()
        if self._faults.store_away:
            raise StoreOutage("Postgres is away")
        inner = await self._inner.campaign(holder)
        if inner is None:
            return None
        store = FaultyStore(inner, self._process, self._faults, self._ledger)
        self._process.on_death = store.break_off
        await self._process.gate()
        return store

    async def close(self) -> None:
        await self._process.stand_still()


class FaultyStore:
    """``relay.ports.OutboxStore`` and its parked events, over one session."""

    def __init__(
        self, inner: MemoryStore, process: Process, faults: Faults, ledger: Ledger
    ) -> None:
        self.epoch = inner.epoch
        self.parked = self
        self._inner = inner
        self._process = process
        self._faults = faults
        self._ledger = ledger
        self._session = faults.session
        ledger.term_began(self.epoch, process.name)

    def break_off(self) -> None:
        """Let the server notice that the client is gone."""
        if self._inner is self._ledger.outbox.leader:
            self._ledger.outbox.leader = None

    async def read(self, limit: int) -> Page:
        page = await self._ask(lambda: self._inner.read(limit))
        self._ledger.read(self.epoch, page)
        return page

    async def settle(self, done: Settlement) -> None:
        async def settle() -> None:
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

        await self._ask(settle)

    async def prune(self, retention: float) -> int:
        return await self._ask(lambda: self._inner.prune(retention))

    async def backlog(self, breakers: Breakers | None = None) -> Backlog:
        return await self._ask(lambda: self._inner.backlog(breakers))

    async def blocked(self, keys: Collection[str]) -> set[str]:
        return await self._ask(lambda: self._inner.parked.blocked(keys))

    async def due(self, limit: int, *, without: Collection[str] = ()) -> Sequence[Due]:
        return await self._ask(lambda: self._inner.parked.due(limit, without=without))

    async def close(self) -> None:
        await self._process.stand_still()
        if not self._process.dead:
            await self._inner.close()

    async def _ask(self, ask: Callable[[], Awaitable[_Answer]]) -> _Answer:
        await self._process.gate()
        self._check()
        answer = await ask()
        await self._process.gate()
        self._check()
        return answer

    def _check(self) -> None:
        if self._faults.store_away or self._session != self._faults.session:
            raise StoreOutage("the session is broken")


class FaultyBus:
    """``relay.ports.EventBus``: each process's own connection to the one broker."""

    def __init__(self, broker: MemoryBus, process: Process, faults: Faults, ledger: Ledger) -> None:
        self._broker = broker
        self._process = process
        self._faults = faults
        self._ledger = ledger
        self._connected = False

    async def connect(self) -> None:
        await self._process.gate()
        self._check()
        self._connected = True

    async def publish(self, events: Sequence[Event]) -> Sequence[Outcome]:
        await self.connect()
        self._ledger.sending(self._process.name, events)
        outcomes: list[Outcome] = []
        stopped: set[str] = set()
        for first in range(0, len(events), CALL):
            for event in events[first : first + CALL]:
                if event.key in stopped:
                    outcomes.append(Unknown("waits for an earlier event of its key"))
                    continue
                outcome = await self._send(event)
                outcomes.append(outcome)
                if event.key is not None and not isinstance(outcome, Stored):
                    stopped.add(event.key)
            await self._process.gate()
            self._check()
            if not self._connected:
                raise BusOutage("the connection was dropped")
        self._ledger.answered(self._process.name, events, outcomes)
        return outcomes

    async def close(self) -> None:
        self._connected = False

    def _check(self) -> None:
        if self._faults.bus_away:
            raise BusOutage("NATS is away")

    async def _send(self, event: Event) -> Outcome:
        wire = self._faults.wire.pop(0) if self._faults.wire else Wire.FINE
        if wire is Wire.LATE:
            self._faults.late.append(event)
        if wire is Wire.CUT:
            raise BusOutage("the connection broke")
        if wire in (Wire.LOST, Wire.LATE):
            return Unknown("no answer")
        outcome = await take(self._broker, event, self._faults, self._ledger)
        if wire is Wire.CUT_BEHIND:
            raise BusOutage("the connection broke")
        return Unknown("no answer") if wire is Wire.UNACKED else outcome


async def take(broker: MemoryBus, event: Event, faults: Faults, ledger: Ledger) -> Outcome:
    """Let ``event`` arrive at the broker."""
    mood = faults.moods.get(event.subject)
    if mood is not None:
        return mood
    (outcome,) = await broker.publish([event])
    ledger.stored()
    return outcome


class FaultyBell:
    """``relay.ports.WakeSource``: a bell of the process's own."""

    def __init__(self, process: Process, faults: Faults) -> None:
        self._inner = MemoryBell()
        self._process = process
        self._faults = faults

    def ring(self) -> None:
        if not self._faults.deaf:
            self._inner.ring()

    async def arm(self) -> bool:
        await self._process.gate()
        return await self._inner.arm() and not self._faults.deaf

    async def wait(self, timeout: float) -> Wake:  # noqa: ASYNC109 - the port's
        return await self._inner.wait(timeout)

    def disarm(self) -> None:
        self._inner.disarm()

    async def run(self) -> None:
        await anyio.sleep_forever()
