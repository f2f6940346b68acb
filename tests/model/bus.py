"""The memory broker as one process sees it, with everything in between that can go wrong.

    engine ──► gate ──► may I? ──► gate ──► away? ──► mood ──► the model ──► answer lost? ──► gate

The streams are the first tokens of the subjects: "a" and "b". With one stream configured all
subjects are of that one.
"""

from collections.abc import Collection, Mapping, Sequence

import anyio

from relay.core.event import Event
from relay.core.order import WAITS
from relay.core.outcome import Fault, Held, Outcome, Refused, Stored, Unknown
from relay.core.storage import StreamStorage
from relay.errors import BusOutage
from relay.memory import MemoryBus
from relay.memory.checkpoints import MemoryReconciling
from relay.ports import Permit
from tests.model.faults import Faults, Wire
from tests.model.ledger import Ledger
from tests.model.process import Process

CALL = 3
"""Events that go to the broker between two looks at the permit."""


def stream_of(subject: str) -> str:
    """Name the stream that captures ``subject``, if any does."""
    return subject.partition(".")[0]


class FaultyBus:
    """``relay.ports.EventBus``: each process's own connection to the one broker."""

    paths: Mapping[str, str] = {}
    server: tuple[str, int] | None = None

    def __init__(
        self,
        broker: MemoryBus,
        process: Process,
        faults: Faults,
        ledger: Ledger,
        *,
        sole_hold: str | None,
    ) -> None:
        self.sole_hold = sole_hold
        self.duplicate_window: float | None = None
        self.reconciling = MemoryReconciling("none", list)
        self._broker = broker
        self._process = process
        self._faults = faults
        self._ledger = ledger
        self._connected = False
        self._publishing = False
        self._known: dict[str, set[str]] = {}
        self._new: dict[str, set[str]] = {}

    async def connect(self) -> None:
        await self._process.gate()
        await anyio.sleep(self._faults.delay("connect").before)
        self._check()
        self._connected = True

    async def publish(
        self, events: Sequence[Event], permit: Permit, *, closed: Collection[str] = ()
    ) -> Sequence[Outcome]:
        if self._publishing:
            self._ledger.complain("two calls to the bus overlap")
        self._publishing = True
        self._ledger.sending(self._process.name, events)
        try:
            await self.connect()
            outcomes: list[Outcome] = []
            stopped: set[str] = set()
            for first in range(0, len(events), CALL):
                chunk = events[first : first + CALL]
                outcomes += await self._publish(chunk, permit, closed, stopped)
        except BusOutage:
            self._ledger.cut(self._process.name, events)
            raise
        finally:
            self._publishing = False
        self._ledger.answered(self._process.name, events, outcomes)
        return outcomes

    async def _publish(
        self, chunk: Sequence[Event], permit: Permit, closed: Collection[str], stopped: set[str]
    ) -> list[Outcome]:
        """Send one chunk, and of each key nothing behind what was not stored."""
        while not permit.granted():
            await permit.renew()
        self._ledger.granted(self._process.name)
        delay = self._faults.delay("publish")
        await anyio.sleep(delay.before)
        await self._process.gate()  # here it may stand still, the look at the permit behind it
        self._check()
        self._ledger.wrote(self._process.name)
        outcomes: list[Outcome] = []
        for event in chunk:
            outcome: Outcome = WAITS
            if event.key not in stopped:
                outcome = self._closed(event, closed) or self._send(event)
            outcomes.append(outcome)
            if event.key is not None and not isinstance(outcome, Stored):
                stopped.add(event.key)
        await anyio.sleep(delay.after)
        await self._process.gate()
        self._check()
        if not self._connected:
            raise BusOutage("the connection was dropped")
        return outcomes

    def recall(self, streams: Mapping[str, Collection[str]]) -> None:
        for name, subjects in streams.items():
            self._known.setdefault(name, set()).update(subjects)
        self._ledger.recalled(self._process.name)

    def learnt(self) -> Mapping[str, Collection[str]]:
        new, self._new = self._new, {}
        return new

    async def storage(self) -> Sequence[StreamStorage]:
        return []

    async def close(self) -> None:
        self._connected = False

    def _check(self) -> None:
        if self._faults.bus_away:
            raise BusOutage("NATS is away")

    def _closed(self, event: Event, closed: Collection[str]) -> Held | None:
        """Say of a whole stream that takes nothing what is known without asking."""
        by = self.sole_hold or f"stream {stream_of(event.subject)}"
        return Held(by, "takes nothing, as it seems", 10077) if by in closed else None

    def _send(self, event: Event) -> Outcome:
        wire = self._faults.wire.pop(0) if self._faults.wire else Wire.FINE
        if wire is Wire.LATE:
            self._faults.late.append(event)
        if wire is Wire.CUT:
            raise BusOutage("the connection broke")
        if wire in (Wire.LOST, Wire.LATE):
            return Unknown("no answer")
        outcome = self._take(event)
        if wire is Wire.CUT_BEHIND:
            raise BusOutage("the connection broke")
        if wire is Wire.DENIED:
            return Held(f"silent subjects of {stream_of(event.subject)}", "no answer")
        return Unknown("no answer") if wire is Wire.UNACKED else outcome

    def _take(self, event: Event) -> Outcome:
        stream = stream_of(event.subject)
        mood = self._faults.moods.get(event.subject)
        if mood is not None and mood.nowhere:
            if stream in self._known:
                return Held("subjects without a stream", "no stream captures it any more", 503)
            self._ledger.uncaptured(self._process.name, stream)
            return Refused("no stream captures it", 503, Fault.UNCAPTURED)
        outcome = take(self._broker, event, self._faults, self._ledger)
        if isinstance(outcome, Stored) and stream not in self._known:
            self._known[stream] = {event.subject}
            self._new.setdefault(stream, set()).add(event.subject)
            self._ledger.streams[self._process.name].add(stream)
        return outcome


def take(broker: MemoryBus, event: Event, faults: Faults, ledger: Ledger) -> Outcome:
    """Let ``event`` arrive at the broker."""
    mood = faults.moods.get(event.subject)
    answer = mood.next() if mood is not None else None
    if answer is not None:
        return answer
    outcome = broker.store(event)
    ledger.stored()
    return outcome
