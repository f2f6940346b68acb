"""The broker as a list of messages, with a duplicate window as long as its life."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import anyio
import anyio.lowlevel

from relay.core.event import Event
from relay.core.outcome import Outcome, Refused, Stored
from relay.errors import BusOutage


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

    ``away`` makes every call an outage; ``refuse`` maps a subject to the reason of its refusal.
    """

    def __init__(self) -> None:
        """Begin empty and reachable."""
        self.messages: list[Message] = []
        self.away = False
        self.refuse: dict[str, str] = {}
        self._seqs: dict[str, int] = {}

    async def connect(self) -> None:
        """Be there, or not."""
        await anyio.lowlevel.checkpoint()
        if self.away:
            raise BusOutage("the memory bus is away")

    async def publish(self, events: Sequence[Event]) -> Sequence[Outcome]:
        """Store each event once."""
        await self.connect()
        return [self._store(event) for event in events]

    async def close(self) -> None:
        """Drop nothing: there is nothing."""

    def _store(self, event: Event) -> Outcome:
        if event.subject in self.refuse:
            return Refused(self.refuse[event.subject])
        if event.message_id in self._seqs:
            return Stored(self._seqs[event.message_id], duplicate=True)
        seq = self._seqs[event.message_id] = len(self.messages) + 1
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
        return Stored(seq, duplicate=False)
