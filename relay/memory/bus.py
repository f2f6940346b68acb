"""The broker as a list of messages and a dictionary of the ids that it remembers."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import anyio
import anyio.lowlevel

from relay.core.event import Event
from relay.core.order import WAITS, KeyFence
from relay.core.outcome import Held, Outcome, Refused, Stored, Unknown
from relay.core.storage import StreamStorage
from relay.errors import BusOutage
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

    What goes wrong is said by its attributes, or by overriding ``answer``:

    Attributes:
        away: every call is an outage.
        refuse: subjects, each with the reason of its refusal.
        hold: subjects, each with the outage that holds it up.
        lost_messages: so many of the next events don't arrive, and nobody can tell.
        lost_acks: so many of the next events are stored, and nobody can tell.
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

    async def connect(self) -> None:
        """Be there, or not."""
        await anyio.lowlevel.checkpoint()
        if self.away:
            raise BusOutage("the memory bus is away")

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
            if held is not None and held.by in closed:
                outcome = held
            else:
                if not permit.granted():
                    await permit.renew()
                outcome = self.answer(event)
            outcomes.append(outcome)
            if not isinstance(outcome, Stored):
                fence.close(event.key)
        return outcomes

    def recall(self, streams: Mapping[str, Collection[str]]) -> None:
        """Know of no stream but the one."""

    def learnt(self) -> Mapping[str, Collection[str]]:
        """Have nothing to remember."""
        return {}

    async def storage(self) -> Sequence[StreamStorage]:
        """Count the messages and the bytes of their payloads."""
        size = sum(len(message.payload) for message in self.messages)
        return [StreamStorage(STREAM, len(self.messages), size)]

    async def close(self) -> None:
        """Drop nothing: there is nothing."""

    def answer(self, event: Event) -> Outcome:
        """Say what becomes of one event."""
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

    def store(self, event: Event) -> Stored:
        """Take one event, unless its message id is remembered."""
        if event.message_id in self._seqs:
            return Stored(STREAM, self._seqs[event.message_id], duplicate=True)
        seq = self._seqs[event.message_id] = len(self.messages) + 1
        while self.window is not None and len(self._seqs) > self.window:
            del self._seqs[next(iter(self._seqs))]
        self.messages.append(
            Message(
                seq,
                event.subject,
                event.message_id,
                event.event_id,
                event.key,
                event.payload,
                dict(event.headers or {}),
            )
        )
        return Stored(STREAM, seq, duplicate=False)
