"""The windowed path: plain publishing with our own answers, one in flight of each key.

Works with any JetStream. Up to ``window`` messages are in flight; their answers come to
``<inbox>.<token>.<place>`` and are parsed as they arrive. What may go next is ``KeyOrder``'s
decision; the rest of this file is bytes and waiting.

Authoritative: the PubAck of each message. On failure:

* an event refused, here or by the server: those behind it of its key are never sent;
* a subject that takes nothing: what is unsent of it shares the outcome;
* an answer that says "the stream takes nothing now": nothing more is sent, what is unsent shares
  the outcome, and what is in flight still gets its own answer;
* no answer at all for ``ack_timeout``: a verdict of silence on what is in flight and unsent;
* the connection is lost: the outcomes not yet known stay None, and the caller raises the outage.
"""

from collections.abc import Callable, Sequence

import anyio
import anyio.lowlevel

from relay.core.event import Event
from relay.core.ordering import WAITS, KeyOrder
from relay.core.outcome import Outcome, Refused, Stored
from relay.failpoints import reach
from relay.jetstream.answers import (
    WHOLE_STREAM,
    Kind,
    Sent,
    Verdict,
    forbidden,
    read_puback,
    silence,
)
from relay.jetstream.connection import Connection
from relay.jetstream.frames import CHUNK_BYTES, CHUNK_EVENTS, frame_of
from relay.jetstream.known import Stream


async def publish_windowed(
    connection: Connection,
    stream: Stream,
    events: Sequence[Event],
    *,
    max_bytes: int,
    window: int,
    ack_timeout: float,
) -> Sent:
    """Publish ``events``, all of ``stream``, in order of each key."""
    exchange = _Window(stream.name, events, max_bytes)
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
                    if not exchange.unsent:
                        reach("after send")
                elif exchange.open:
                    await exchange.progress()
        if scope.cancelled_caught:
            exchange.give_up(silence(stream.name, ack_timeout))
    return Sent(exchange.outcomes, exchange.verdict, exchange.verdict_on)


class _Window:
    """The exchange of one call: what was answered, what is in flight, what may go next.

    ``unsent`` counts the events that may still be sent, now or once their key's turn comes.
    """

    def __init__(self, stream: str, events: Sequence[Event], max_bytes: int) -> None:
        self.outcomes: list[Outcome | None] = [None] * len(events)
        self.verdict: Verdict | None = None
        self.verdict_on = ""
        self.inbox = ""
        self.unsent = len(events)
        self.answered: Callable[[bytes, bytes, bytes | None], None] = self._first_answer
        self._stream = stream
        self._events = events
        self._max_bytes = max_bytes
        self._order = KeyOrder([event.key for event in events])
        self._in_flight: set[int] = set()
        self._out: dict[str, Outcome] = {}
        self._lost = False
        self._changed: anyio.Event | None = None

    @property
    def open(self) -> bool:
        """Whether anything is left to send or to wait for."""
        return not self._lost and bool(self._in_flight or self._order.ready)

    def frames(self, window: int) -> bytes:
        """Take what may be sent now, at most a chunk, as bytes; b"" if the window is full."""
        ready, events, inbox, out = self._order.ready, self._events, self.inbox, self._out
        max_bytes = self._max_bytes
        parts: list[bytes] = []
        room, size = min(CHUNK_EVENTS, window - len(self._in_flight)), 0
        while ready and room > 0 and size < CHUNK_BYTES:
            place = ready.popleft()
            if out and events[place].subject in out:
                self._end(place, out[events[place].subject])
                continue
            frame = frame_of(events[place], f"{inbox}{place}", max_bytes)
            if isinstance(frame, Refused):
                self._end(place, frame)
                continue
            parts.append(frame)
            self._in_flight.add(place)
            room -= 1
            size += len(frame)
        self.unsent -= len(parts)
        return b"".join(parts)

    async def progress(self) -> None:
        """Wait for the next answers."""
        self._changed = anyio.Event()
        await self._changed.wait()
        self._changed = None

    def give_up(self, verdict: Verdict) -> None:
        """Nothing more will come: whatever has no outcome gets this one."""
        self._in_flight.clear()
        if self.verdict is None:
            self._halt(verdict, "")
        self.outcomes = [each or verdict.outcome for each in self.outcomes]

    def _first_answer(self, rest: bytes, payload: bytes, headers: bytes | None) -> None:
        reach("before ack")
        self.answered = self._answer
        self._answer(rest, payload, headers)

    def _answer(self, rest: bytes, payload: bytes, headers: bytes | None) -> None:
        place = int(rest)
        if place not in self._in_flight:
            return
        answer = read_puback(payload, headers, self._stream)
        if answer is None:
            return
        self._in_flight.discard(place)
        if isinstance(answer, Stored):
            self.outcomes[place] = answer
            if self.verdict is None:
                self._order.release(place)
        else:
            self._take_verdict(place, answer)
        if self._changed is not None:
            self._changed.set()

    def denied(self, subject: str, reason: str) -> None:
        events = self._events
        for place in [p for p in self._in_flight if events[p].subject.lower() == subject]:
            self._in_flight.discard(place)
            outcome = self._out[events[place].subject] = forbidden(reason)
            self._settle(place, outcome)
        self._wake()

    def dropped(self, reason: str) -> None:
        del reason
        self._lost = True
        self._wake()

    def _take_verdict(self, place: int, answer: Verdict) -> None:
        self._settle(place, answer.outcome)
        if answer.kind is Kind.SUBJECT:
            self._out[self._events[place].subject] = answer.outcome
        elif answer.kind in WHOLE_STREAM:
            self._halt(answer, self._events[place].subject)

    def _end(self, place: int, outcome: Outcome) -> None:
        """Settle an event that is not sent at all."""
        self.unsent -= 1
        self._settle(place, outcome)

    def _settle(self, place: int, outcome: Outcome) -> None:
        """Write down that an event was not stored; those behind it of its key are not sent."""
        self.outcomes[place] = outcome
        if self.verdict is None:
            behind = self._order.block(place)
            for each in behind:
                self.outcomes[each] = WAITS
            self.unsent -= len(behind)

    def _halt(self, verdict: Verdict, subject: str) -> None:
        """Send nothing more: all that is not in flight shares the first such verdict."""
        if self.verdict is not None:
            return
        self.verdict, self.verdict_on = verdict, subject
        self.unsent = 0
        self._order.ready.clear()
        for place, outcome in enumerate(self.outcomes):
            if outcome is None and place not in self._in_flight:
                self.outcomes[place] = verdict.outcome

    def _wake(self) -> None:
        if self._changed is not None:
            self._changed.set()
