"""The windowed path: plain publishing with our own answers, one in flight of each key.

Works with any JetStream. Up to ``window`` messages are in flight; their answers come to
``<inbox>.<token>.<place>`` and are parsed as they arrive. What may go next is ``KeyOrder``'s
decision; the rest of this file is bytes and waiting.

Authoritative: the PubAck of each message. On failure:

* an answer that says "the stream takes nothing now": nothing more is sent, what is unsent is
  Unknown, and what is in flight still gets its own answer;
* no answer at all for ``ack_timeout``: what is in flight is Unknown and the connection is dropped;
* the connection is lost: the outcomes not yet known stay None, and the caller raises the outage.
"""

from collections.abc import Sequence

import anyio
import anyio.lowlevel

from relay.core.event import Event
from relay.core.ordering import KeyOrder
from relay.core.outcome import Outcome, Refused, Stored, Unknown
from relay.jetstream.answers import Kind, Verdict, read_puback
from relay.jetstream.connection import Connection
from relay.jetstream.frames import CHUNK_BYTES, CHUNK_EVENTS, frame_of


async def publish_windowed(
    connection: Connection,
    events: Sequence[Event],
    *,
    max_bytes: int,
    window: int,
    ack_timeout: float,
) -> tuple[list[Outcome | None], bool]:
    """Publish ``events`` of one stream, in order of each key.

    Returns the outcomes, None where the connection was lost first, and whether an answer said that
    what is believed of the stream is out of date.
    """
    exchange = _Window(connection, events, max_bytes)
    with connection.exchange(exchange) as token:
        exchange.inbox = f"{connection.inbox}.{token}."
        with anyio.CancelScope() as scope:
            while exchange.open:
                scope.deadline = anyio.current_time() + ack_timeout
                frames = exchange.frames(window)
                if frames:
                    connection.wire.write(frames)
                    await connection.wire.drain()
                    await anyio.lowlevel.checkpoint()
                elif exchange.open:
                    await exchange.progress()
        if scope.cancelled_caught:
            reason = f"no answer from JetStream within {ack_timeout:g} s"
            exchange.give_up(Unknown(reason))
            connection.drop(reason)
    return exchange.outcomes, exchange.stream_changed


class _Window:
    """The exchange of one call: what was answered, what is in flight, what may go next."""

    def __init__(self, connection: Connection, events: Sequence[Event], max_bytes: int) -> None:
        self.outcomes: list[Outcome | None] = [None] * len(events)
        self.stream_changed = False
        self.inbox = ""
        self._connection = connection
        self._events = events
        self._max_bytes = max_bytes
        self._order = KeyOrder([event.key for event in events])
        self._in_flight: set[int] = set()
        self._lost = False
        self._halted = False
        self._changed: anyio.Event | None = None

    @property
    def open(self) -> bool:
        """Whether anything is left to send or to wait for."""
        return not self._lost and bool(self._in_flight or self._order.ready)

    def frames(self, window: int) -> bytes:
        """Take what may be sent now, at most a chunk, as bytes; b"" if the window is full."""
        ready, events, inbox = self._order.ready, self._events, self.inbox
        max_bytes = self._max_bytes
        parts: list[bytes] = []
        room, size = min(CHUNK_EVENTS, window - len(self._in_flight)), 0
        while ready and room > 0 and size < CHUNK_BYTES:
            place = ready.popleft()
            frame = frame_of(events[place], f"{inbox}{place}", max_bytes)
            if isinstance(frame, Refused):
                self._settle(place, frame)
                continue
            parts.append(frame)
            self._in_flight.add(place)
            room -= 1
            size += len(frame)
        return b"".join(parts)

    async def progress(self) -> None:
        """Wait for the next answers."""
        self._changed = anyio.Event()
        await self._changed.wait()
        self._changed = None

    def give_up(self, verdict: Unknown) -> None:
        """Nothing more will come: whatever has no outcome gets this one."""
        self.outcomes = [verdict if outcome is None else outcome for outcome in self.outcomes]
        self._in_flight.clear()
        self._order.ready.clear()

    def answered(self, rest: bytes, payload: bytes, headers: bytes | None) -> None:
        place = int(rest)
        if place not in self._in_flight:
            return
        answer = read_puback(payload, headers)
        if answer is None:
            return
        self._in_flight.discard(place)
        if isinstance(answer, Stored):
            self.outcomes[place] = answer
            if not self._halted:
                self._order.release(place)
        else:
            self._take_verdict(place, answer)
        if self._changed is not None:
            self._changed.set()

    def denied(self, subject: str, reason: str) -> None:
        verdict = Unknown(reason)
        for place in [p for p in self._in_flight if self._events[p].subject.lower() == subject]:
            self._in_flight.discard(place)
            self._settle(place, verdict)
        self._wake()

    def dropped(self, reason: str) -> None:
        del reason
        self._lost = True
        self._wake()

    def _take_verdict(self, place: int, answer: Verdict) -> None:
        self._settle(place, answer.outcome)
        if answer.kind is Kind.STREAM_CHANGED:
            self.stream_changed = True
        if answer.kind in {Kind.STREAM, Kind.STREAM_CHANGED}:
            assert isinstance(answer.outcome, Unknown)
            self._halt(answer.outcome)

    def _settle(self, place: int, outcome: Outcome) -> None:
        self.outcomes[place] = outcome
        if not isinstance(outcome, Unknown):
            if not self._halted:
                self._order.release(place)
            return
        for behind in self._order.block(place):
            self.outcomes[behind] = Unknown(
                f"waits for an earlier event of its key: {outcome.reason}"
            )

    def _halt(self, verdict: Unknown) -> None:
        """Send nothing more: all that is not in flight shares the verdict."""
        self._halted = True
        self._order.ready.clear()
        for place, outcome in enumerate(self.outcomes):
            if outcome is None and place not in self._in_flight:
                self.outcomes[place] = verdict

    def _wake(self) -> None:
        if self._changed is not None:
            self._changed.set()
