"""The broker as a list of messages and a dict of the message ids that it remembers."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import anyio
import anyio.lowlevel

from relay.core.event import Event
from relay.core.order import WAITS, KeyFence
from relay.core.outcome import Fault, Held, Outcome, Refused, Stored, Unknown
from relay.core.storage import StreamStorage
from relay.errors import BusOutage
from relay.memory.checkpoints import MemoryReconciling
from relay.ports import Permit

STREAM = "memory"


@dataclass(frozen=True, slots=True)
class Message:
    """What a consumer would receive. ``headers`` are the producer's own."""

    seq: int
    subject: str
    message_id: str
    event_id: str
    key: str | None
    payload: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


class MemoryBus:
    """``relay.ports.EventBus`` over a list.

    Faults are set by attributes, or by overriding ``answer``. An event whose message id another
    event has is a collision.

    Attributes:
        away: every call is an outage.
        refuse: subjects, each with the reason of its refusal.
        hold: subjects, each with the outage that holds it up.
        lost_messages: so many of the next events are not stored, and the outcome is unknown.
        lost_acks: so many of the next events are stored, and the outcome is unknown.
        window: how many of the newest message ids are remembered; None remembers all.
        sole_hold, duplicate_window: as in the port.
    """

    paths: Mapping[str, str] = {STREAM: "memory"}
    server: tuple[str, int] | None = None

    def __init__(self) -> None:
        """Begin empty and reachable."""
        self.messages: list[Message] = []
        self.away = False
        self.refuse: dict[str, str] = {}
        self.hold: dict[str, Held] = {}
        self.lost_messages = 0
        self.lost_acks = 0
        self.window: int | None = None
        self.sole_hold: str | None = None
        self.duplicate_window: float | None = None
        self._seqs: dict[str, int] = {}
        self.reconciling = MemoryReconciling(STREAM, self._all)

    async def connect(self) -> None:
        """Raise BusOutage while ``away``, StreamBehind where messages were lost."""
        await anyio.lowlevel.checkpoint()
        if self.away:
            self.reconciling.dropped()
            raise BusOutage("the memory bus is away")
        self.reconciling.connected()

    def lose(self, count: int) -> None:
        """Lose the newest messages and their ids, as a server with an older disk has."""
        self.reconciling.dropped()
        for message in self.messages[len(self.messages) - count :]:
            self._seqs.pop(message.message_id, None)
        del self.messages[len(self.messages) - count :]

    def _all(self) -> list[tuple[int, str, str]]:
        return [(each.seq, each.message_id, each.event_id) for each in self.messages]

    async def publish(
        self, events: Sequence[Event], permit: Permit, *, closed: Collection[str] = ()
    ) -> Sequence[Outcome]:
        """Store each event once, and none of a key behind one that was not stored."""
        await self.connect()
        outcomes: list[Outcome] = []
        fence = KeyFence()
        for event in events:
            if not fence.passes(event.key):
                outcomes.append(WAITS)
                continue
            held = self.hold.get(event.subject)
            outcome: Outcome
            known = self.reconciling.known(event)
            if known is not None:
                outcome = known
            elif held is not None and held.by in closed:
                outcome = replace(held, sent=False)
            else:
                if not permit.granted():
                    await permit.renew()
                outcome = self.answer(event)
            outcomes.append(outcome)
            if not isinstance(outcome, Stored):
                fence.close(event.key)
        return outcomes

    def recall(self, streams: Mapping[str, Collection[str]]) -> None:
        """Do nothing: there is one stream."""

    def learnt(self) -> Mapping[str, Collection[str]]:
        """Return nothing: there is one stream."""
        return {}

    async def storage(self) -> Sequence[StreamStorage]:
        """Count the messages and the bytes of their payloads."""
        size = sum(len(message.payload) for message in self.messages)
        return [StreamStorage(STREAM, len(self.messages), size)]

    async def close(self) -> None:
        """Compare again on the next connection."""
        self.reconciling.dropped()

    def answer(self, event: Event) -> Outcome:
        """Return the outcome of one event, and store it if that says so."""
        if event.subject in self.refuse:
            return Refused(self.refuse[event.subject])
        if event.subject in self.hold:
            return self.hold[event.subject]
        if self.lost_messages > 0:
            self.lost_messages -= 1
            return Unknown("no answer")
        stored = self.store(event)
        if self.lost_acks > 0:
            self.lost_acks -= 1
            return Unknown("no answer")
        return stored

    def store(self, event: Event) -> Stored | Refused:
        """Store one event, unless its message id is remembered."""
        seq = self._seqs.get(event.message_id)
        if seq is not None and self.messages[seq - 1].event_id != event.event_id:
            return Refused(f"another event is stored as {event.message_id}", fault=Fault.COLLISION)
        if seq is not None:
            return Stored(STREAM, seq, duplicate=True)
        seq = self._seqs[event.message_id] = len(self.messages) + 1
        while self.window is not None and len(self._seqs) > self.window:
            del self._seqs[next(iter(self._seqs))]
        id_, headers = event.event_id, dict(event.headers or {})
        message = Message(
            seq, event.subject, event.message_id, id_, event.key, event.payload, headers
        )
        self.messages.append(message)
        return Stored(STREAM, seq, duplicate=False)
