"""The windowed path: plain publishing with our own answers, one in flight of each key.

Works with any JetStream. Up to ``window`` messages are in flight; their answers come to
``<inbox>.<token>.<place>`` and are parsed as they arrive. What may go next is the decision of
``KeyChains`` (R-ORDER); what an answer proves, that of ``answers`` (R-LOSS); each chunk goes
through ``Sender`` (R-TERM). The rest of this file is bytes and waiting.

    PubAck ──new, or of an id of our own──► Stored: the next event of its key may go
           └─duplicate of a producer's key─► ours? ──► Stored, as above     (R-ONCE)
                                             └─no────► collision: its key's later events wait

On failure:

* an event refused, here or by the server: later events of its key are never sent;
* a subject that takes nothing, or is forbidden: its unsent events share the outcome. A PubAck that
  comes all the same beats the denial;
* nobody takes a subject's messages: the same; if nothing else is answered, a few such subjects end
  the call;
* the stream takes nothing now: nothing more is sent, unsent events share the outcome, and events in
  flight still get their own answer;
* two answers to one token that can't both be true: the event is Unknown;
* no answer at all for ``ack_timeout``: see ``_Window.give_up``;
* the connection is lost: outcomes stay None, and the caller raises the outage.
"""

from collections.abc import Callable, Sequence

import anyio
import anyio.lowlevel

from relay.core.event import Event
from relay.core.order import WAITS, KeyChains
from relay.core.outcome import Held, Outcome, Refused, Stored, Unknown
from relay.failpoints import reach
from relay.jetstream.answers import FORBIDDEN, WHOLE_STREAM, Elsewhere, Meaning, read_puback, silent
from relay.jetstream.codes import Kind
from relay.jetstream.connection import Sender
from relay.jetstream.diagnosis import LaneResult
from relay.jetstream.duplicates import UNDECIDED, Concluded, Duplicates
from relay.jetstream.frames import CHUNK_BYTES, CHUNK_EVENTS, frame_of
from relay.jetstream.options import BusOptions
from relay.jetstream.streams import Stream

_MOST_QUIET = 8
"""Subjects that nobody answers for, and nothing stored, after which no more are tried."""

_LAST_WORD = 1.0
"""s for the stream's own answer where all that is in flight has one by another of its domain."""

_LOOK, _LONGEST_PLACE = b".look", 10


async def publish_windowed(
    sender: Sender,
    stream: Stream,
    events: Sequence[Event],
    max_bytes: int,
    ack_timeout: float,
    *,
    options: BusOptions,
) -> LaneResult:
    """Publish ``events``, all of ``stream``, in order of each key."""
    connection = sender.connection
    duplicates = Duplicates(stream, events, options, connection.wire.max_payload)
    window = _Window(stream, events, max_bytes, duplicates)
    with connection.exchange(window) as token:
        window.inbox = f"{connection.inbox}.{token}."
        with anyio.CancelScope() as scope:
            while window.open:
                frames = window.frames(options.window)
                if frames:
                    await sender.write(frames, scope)
                    scope.deadline = anyio.current_time() + ack_timeout
                    await connection.wire.drain()
                    await anyio.lowlevel.checkpoint()
                    if not window.unsent:
                        reach("after send")
                elif window.open:
                    patience = window.patience(ack_timeout)
                    if patience is not None:
                        scope.deadline = anyio.current_time() + patience
                    await window.progress()
        if scope.cancelled_caught:
            window.give_up(ack_timeout)
    stream.each_stored(events, window.result.outcomes)
    return window.result


class _Window:
    """The exchange of one call: what was answered, what is in flight, what may go next."""

    def __init__(
        self, stream: Stream, events: Sequence[Event], max_bytes: int, duplicates: Duplicates
    ) -> None:
        self._outcomes: list[Outcome | None] = [None] * len(events)
        self.result = LaneResult(self._outcomes)
        self.inbox = ""
        self.unsent = len(events)  # those that may still be sent, now or at their key's turn
        self.answered: Callable[[bytes, bytes, bytes | None], None] = self._first_answer
        self._stream = stream
        self._name = stream.name
        self._events = events
        self._max_bytes = max_bytes
        self._duplicates = duplicates
        self._quick = stream.expected.quick
        self._chains = KeyChains([event.key for event in events])
        self._in_flight: set[int] = set()
        self._stop: dict[str, Outcome] = {}
        self._denied: set[int] = set()
        self._elsewhere: dict[int, str] = {}
        self._stored_any = False
        self._lost = False
        self._halted = False
        self._changed: anyio.Event | None = None
        self._waiting = (-1, -1, False)

    @property
    def open(self) -> bool:
        undecided = self._duplicates.undecided
        return not self._lost and bool(self._in_flight or self._chains.ready or undecided)

    def patience(self, usual: float) -> float | None:
        """Return the s to wait for the next answer; None if the last one settled nothing."""
        others, undecided = self._elsewhere.keys(), self._duplicates.undecided
        only_others = bool(others) and self._in_flight <= others and not undecided
        before = self._waiting
        self._waiting = len(self._in_flight), len(undecided), only_others
        if self._waiting == before:
            return None
        return min(usual, _LAST_WORD) if only_others else usual

    # Sending.

    def frames(self, window: int) -> bytes:
        """Take what may be sent now, at most a chunk, as bytes; b"" if the window is full."""
        ready, events, inbox, stop = self._chains.ready, self._events, self.inbox, self._stop
        max_bytes, no_ttl, in_flight = self._max_bytes, self._stream.no_ttl, self._in_flight
        parts = self._duplicates.questions(inbox) if self._duplicates.undecided else []
        questions = len(parts)
        room, size = min(CHUNK_EVENTS, window - len(in_flight)), 0
        while ready and room > 0 and size < CHUNK_BYTES:
            place = ready.popleft()
            event = events[place]
            if stop and event.subject in stop:
                self._end(place, stop[event.subject])
                continue
            frame = frame_of(event, f"{inbox}{place}", max_bytes, no_ttl)
            if isinstance(frame, Refused):
                self._end(place, frame)
                continue
            parts.append(frame)
            in_flight.add(place)
            room -= 1
            size += len(frame)
        self.unsent -= len(parts) - questions
        return b"".join(parts)

    async def progress(self) -> None:
        self._changed = anyio.Event()
        await self._changed.wait()
        self._changed = None

    def give_up(self, seconds: float) -> None:
        """Give an outcome to all that has none: no answer came for ``seconds``.

        If another event of the subject was answered, Unknown; else the subject is silent. If no
        event at all was answered, the stream is silent, and ``diagnosis`` asks why.
        """
        self.result.timed_out = seconds
        events, outcomes = self._events, self._outcomes
        if self.result.stream_error is not None:
            self.result.fill(self.result.stream_error.outcome)
            return
        answered = {
            events[place].subject
            for place, outcome in enumerate(outcomes)
            if isinstance(outcome, Stored) or (outcome is not None and outcome.code)
        }
        undecided = self._duplicates.undecided
        waiting = {*self._in_flight, *undecided}
        self._in_flight = set()
        why = Held(silent(self._stream.name), f"no answer within {seconds:g} s")
        unknown = Unknown(f"no answer within {seconds:g} s, though others of its subject have one")
        for place in sorted(waiting):
            subject = events[place].subject
            if place in undecided or subject in answered:
                self._settle(place, UNDECIDED if place in undecided else unknown)
            else:
                if place in self._elsewhere:
                    self.result.moved[subject] = self._elsewhere[place]
                self.result.quiet[subject] = why
                self._settle(place, why)
        self.result.fill(
            Unknown("not sent: others of the stream had no answer") if answered else why
        )

    # Answers.

    def _first_answer(self, rest: bytes, payload: bytes, headers: bytes | None) -> None:
        reach("before ack")
        self.answered = self._answer
        self._answer(rest, payload, headers)

    def _answer(self, rest: bytes, payload: bytes, headers: bytes | None) -> None:
        if not rest.isdigit() or len(rest) >= _LONGEST_PLACE:
            if rest.endswith(_LOOK):
                self._message(rest[: -len(_LOOK)], payload, headers)
            return
        place = int(rest)
        ack = self._quick(payload)
        if ack is not None and place in self._in_flight:
            self._stored(place, Stored(self._name, int(ack[1]), ack[2] is not None))
        else:
            answer = read_puback(payload, headers, self._stream.expected)
            if answer is None:
                return
            if isinstance(answer, Elsewhere):
                self._note_elsewhere(place, answer)
            elif place not in self._in_flight:
                self._second(place, answer)
            elif isinstance(answer, Stored):
                self._stored(place, answer)
            else:
                self._take_error(place, answer)
        if self._changed is not None:
            self._changed.set()

    def _stored(self, place: int, stored: Stored) -> None:
        self._in_flight.discard(place)
        self._stored_any = True
        if stored.duplicate and self._duplicates.concern(place, stored):
            self._decide(self._duplicates.add(place, stored))
        else:
            self._release(place, stored)

    def _release(self, place: int, stored: Stored) -> None:
        self._outcomes[place] = stored
        if not self._halted:
            self._chains.release(place)

    def _note_elsewhere(self, place: int, answer: Elsewhere) -> None:
        if not answer.home:
            self.result.foreign_streams.add(answer.stream)
        elif place in self._in_flight:
            self._elsewhere[place] = answer.stream

    def _second(self, place: int, answer: Stored | Meaning) -> None:
        """Compare a second answer to one token with the first."""
        if place >= len(self._events):
            return
        before = self._outcomes[place]
        if place in self._denied and isinstance(answer, Stored):
            self._denied.discard(place)
            self._outcomes[place] = answer
        elif (isinstance(before, Stored) and _at(before) != _at(answer)) or (
            isinstance(answer, Stored) and isinstance(before, Refused | Held)
        ):
            self.result.contradicted = True
            why = "two answers that can't both be true: two streams of that name capture it"
            self._outcomes[place] = Unknown(why)

    def denied(self, subject: str, reason: str) -> None:
        for concluded in self._duplicates.denied(subject):
            self._decide(concluded)
        events = self._events
        outcome = Held(FORBIDDEN, reason)
        for place in [p for p in self._in_flight if events[p].subject == subject]:
            self._in_flight.discard(place)
            self._denied.add(place)
            self._stop[subject] = self.result.found[subject] = outcome
            self._settle(place, outcome)
        self._wake()

    def dropped(self, reason: str) -> None:
        del reason
        self._lost = True
        self._wake()

    def _message(self, at: bytes, payload: bytes, headers: bytes | None) -> None:
        place = int(at) if at.isdigit() and len(at) < _LONGEST_PLACE else -1
        self._decide(self._duplicates.answered(place, payload, headers))
        self._wake()

    def _decide(self, concluded: Concluded | None) -> None:
        place, outcome = concluded or (-1, None)
        if isinstance(outcome, Stored):
            self._release(place, outcome)
        elif outcome is not None:
            self._settle(place, outcome)

    # Conclusions.

    def _take_error(self, place: int, error: Meaning) -> None:
        subject, kind, outcome = self._events[place].subject, error.kind, error.outcome
        self._in_flight.discard(place)
        self._settle(place, outcome)
        if kind in {Kind.SUBJECT, Kind.NOBODY}:
            assert isinstance(outcome, Held)
            self._stop[subject] = outcome
            (self.result.found if kind is Kind.SUBJECT else self.result.quiet)[subject] = outcome
            new = self.result.quiet.keys() - self._stream.found.keys()
            if not self._stored_any and len(new) >= _MOST_QUIET:
                self._halt(error)
        elif kind in WHOLE_STREAM:
            self.result.changed = self.result.changed or kind is Kind.STREAM_CHANGED
            self._halt(error)

    def _end(self, place: int, outcome: Outcome) -> None:
        self.unsent -= 1
        self._settle(place, outcome)

    def _settle(self, place: int, outcome: Outcome) -> None:
        """Write down that an event was not stored; those behind it of its key are not sent."""
        outcomes = self._outcomes
        outcomes[place] = outcome
        if not self._halted:
            behind = self._chains.block(place)
            for each in behind:
                outcomes[each] = WAITS
            self.unsent -= len(behind)

    def _halt(self, error: Meaning) -> None:
        """Send nothing more: all that is not in flight shares the first such error."""
        if self._halted:
            return
        self._halted = True
        self.result.stream_error = error
        self.unsent = 0
        self._chains.ready.clear()
        outcomes, undecided = self._outcomes, self._duplicates.undecided
        for place, outcome in enumerate(outcomes):
            if outcome is None and not (place in self._in_flight or place in undecided):
                outcomes[place] = error.outcome

    def _wake(self) -> None:
        if self._changed is not None:
            self._changed.set()


def _at(answer: object) -> tuple[str, int | None] | None:
    return (answer.stream, answer.seq) if isinstance(answer, Stored) else None
