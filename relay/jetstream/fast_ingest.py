"""The fast ingest path: a batch of messages with one final PubAck (ADR-50, server 2.14 and later).

    reply     <inbox>.<batch>.500.fail.<k>.<op>.$FI
    sent      1 start   2 append   3 append ...   n commit (op 2), or n+1 which only commits (op 3)
    answered  flow 0               flow 500 ...   PubAck count n

``gap = fail``: once a message is missing the server takes no later one of the batch, so what it
stored is always a prefix, in order; the PubAck's ``count`` says how long. A batch carries every key
at once. Duplicates inside it are skipped, counted as done and not named. So events with a
producer's key never come this way: nobody could find out whose message they are a duplicate of.
Client CPU an event of 256 bytes, 500 keys, a busy machine: by batch 3.4 µs, windowed 9.0, windowed
and each one looked into 21.1. A hot key alone: 62,000 events/s by batch, 3,500 windowed.

R-LOSS: only the final PubAck proves anything, and only as ``answers`` reads it. Flow acks extend
the deadline, up to ten times. R-TERM: each chunk goes through ``Sender``. R-ORDER: ``KeyFence``.

What follows from the other answers, each of which names a message by its number:

* a message refused or not now: it gets that outcome, its key's later ones wait, and the rest goes
  into a new batch with the same ids. A batch after a refusal is short (32) and grows again, so that
  a page full of refusals stays linear;
* a subject that takes nothing, or is forbidden: the same, for all of its events at once;
* the stream as a whole takes nothing: all that is not proven shares that outcome;
* the commit itself fails, so that no PubAck comes: once more, ended by a message of its own;
* the batch ends early and nothing says why: the rest has no outcome, and goes by the windowed path,
  where each message has an answer of its own;
* nothing at all for ``ack_timeout``: see ``LaneResult.timed_out``;
* the connection is lost: outcomes stay None, and the caller raises the outage.
"""

import math
from collections.abc import Iterator, Sequence

import anyio
import anyio.lowlevel

from relay.core.event import Event
from relay.core.order import WAITS, KeyFence
from relay.core.outcome import Held, Outcome, Refused, Stored, Unknown
from relay.failpoints import reach
from relay.jetstream.answers import FORBIDDEN, BatchAck, Elsewhere, Meaning, read_batch, silent
from relay.jetstream.codes import Kind
from relay.jetstream.connection import Sender
from relay.jetstream.diagnosis import LaneResult
from relay.jetstream.frames import CHUNK_BYTES, CHUNK_EVENTS, FIRST_CHUNK_EVENTS, frame_of
from relay.jetstream.streams import Stream

MOST_EVENTS = 50_000
MOST_BYTES = 64 << 20
"""Half of what a stream's inbound queue holds (100,000 messages, 128 MiB) before it drops some."""

AFTER_REFUSAL = 32

_LONGEST = 10
"""Deadlines, after which flow acks extend none any more."""

_OF_ONE_EVENT = frozenset({Kind.THIS_EVENT, Kind.NOT_NOW})
_COMMIT = 2
_PARTS = 5


async def publish_batches(
    sender: Sender, stream: Stream, events: Sequence[Event], max_bytes: int, ack_timeout: float
) -> LaneResult:
    """Publish ``events``, all of ``stream``, in order, in as few batches as the answers allow."""
    page = _Page(stream, events)
    while page.todo:
        batch = Batch(page, max_bytes)
        await batch.run(sender, ack_timeout)
        if not page.conclude(batch):
            break
    return page.result


class Batch:
    """One batch: what is sent of it, and what is answered.

    Attributes:
        sent: the places of the messages sent, in order; a message's number is its index here + 1.
        unfit: the events refused here, by place.
        errors: the error answers, by number.
        found: what single subjects came to: full or forbidden.
        ack: the PubAck; None while there is none, and where two contradict each other.
        timed_out: s after which the deadline passed before the batch was over, else 0.0.
    """

    def __init__(self, page: "_Page", max_bytes: int) -> None:
        """Prepare to send what ``page`` has to do."""
        self._stream, self._events, self._most = page.stream, page.events, page.most
        self._end = -1 if page.apart else page.todo[-1]
        self._waiting: Iterator[int] = iter(page.todo)
        self._max_bytes = max_bytes
        self.sent: list[int] = []
        self.unfit: dict[int, Refused] = {}
        self.errors: dict[int, Meaning] = {}
        self.found: dict[str, Held] = {}
        self.foreign_streams: set[str] = set()
        self.ack: BatchAck | None = None
        self.contradicted = self.over = self.lost = self.answered_at_all = False
        self.timed_out = 0.0
        self._patience = 0.0
        self._scope = anyio.CancelScope()
        self._latest = 0.0
        self._token = self._inbox = ""
        self._bytes = 0
        self._fence = KeyFence()
        self._last_number = 0
        self._committed = False
        self._changed = anyio.Event()

    async def run(self, sender: Sender, patience: float) -> None:
        """Write the batch in chunks and wait for its end; stop if it is over before it is out."""
        connection, all_sent = sender.connection, False
        self._patience = patience
        with connection.exchange(self) as self._token, self._scope as scope:
            self._inbox = f"{connection.inbox}.{self._token}.500.fail."
            while not self.over:
                frames = self._frames()
                if frames:
                    await sender.write(frames, scope)
                    self._await_answer()
                    await connection.wire.drain()
                    if not self._committed:
                        await anyio.lowlevel.checkpoint()
                    continue
                if not all_sent:
                    all_sent = True
                    reach("after send")
                await self._changed.wait()
                self._changed = anyio.Event()
        self.timed_out = 0.0 if self.over else patience

    def _await_answer(self) -> None:
        """A chunk was sent: the deadline begins anew, and so does the last one there can be."""
        now = anyio.current_time()
        self._latest = now + _LONGEST * self._patience
        self._scope.deadline = now + self._patience

    # Sending.

    def _frames(self) -> bytes:
        """Build the next chunk; the last message commits the batch. b"" if nothing is left."""
        if self._committed:
            return b""
        if self.found:
            return self._commit_apart()
        events, sent, until = self._events, self.sent, self._bytes + CHUNK_BYTES
        max_bytes, no_ttl, end, most = self._max_bytes, self._stream.no_ttl, self._end, self._most
        inbox, number, fenced = self._inbox, len(sent), bool(self._fence)
        chunk = CHUNK_EVENTS if number else FIRST_CHUNK_EVENTS
        parts: list[bytes] = []
        for place in self._waiting:
            event = events[place]
            if fenced and not self._fence.passes(event.key):
                continue
            op = _COMMIT if place == end or number + 1 == most else 1 if number else 0
            frame = frame_of(event, f"{inbox}{number + 1}.{op}.$FI", max_bytes, no_ttl)
            if isinstance(frame, Refused):
                self.unfit[place] = frame
                self._fence.close(event.key)
                fenced = bool(self._fence)
                continue
            parts.append(frame)
            sent.append(place)
            number += 1
            self._bytes += len(frame)
            if op == _COMMIT:
                self._committed = True
                self._last_number = number
                return b"".join(parts)
            if len(parts) >= chunk or self._bytes >= until:
                if self._bytes >= MOST_BYTES:
                    break
                return b"".join(parts)
        parts.append(self._commit_apart())
        return b"".join(parts)

    def _commit_apart(self) -> bytes:
        """End the batch by a message of its own, which is not stored (op 3)."""
        self._committed = True
        allowed = (self._events[place].subject for place in reversed(self.sent))
        subject = next((each for each in allowed if each not in self.found), None)
        if subject is None:
            self._end_it()
            return b""
        self._last_number = max(self._last_number, len(self.sent)) + 1
        return f"PUB {subject} {self._inbox}{self._last_number}.3.$FI 0\r\n\r\n".encode()

    def _end_it(self) -> None:
        self.over = True
        self._changed.set()

    # Answers.

    def answered(self, rest: bytes, payload: bytes, headers: bytes | None) -> None:
        """See ``Exchange``."""
        parts = rest.split(b".")
        if len(parts) != _PARTS or not parts[2].isdigit():
            return
        number = int(parts[2]) if len(parts[2]) < len(str(1 << 31)) else 0
        answer = read_batch(payload, headers, self._stream.expected, self._token, len(self.sent))
        if not 1 <= number <= max(self._last_number, len(self.sent)) or answer is None:
            return
        if not self.answered_at_all:
            reach("before ack")
        self.answered_at_all = True
        if isinstance(answer, BatchAck):
            self.contradicted = self.ack not in {None, answer}
            self.ack = None if self.contradicted else answer
            self._end_it()
        elif isinstance(answer, tuple):
            self._fail(*answer)
        elif isinstance(answer, Meaning):
            self._fail(number, answer)
        elif isinstance(answer, Elsewhere) and not answer.home:
            self.foreign_streams.add(answer.stream)
        is_last = self._committed and number == self._last_number
        if is_last and isinstance(answer, Meaning | Elsewhere):
            self._end_it()
        if not self.over and self._scope.deadline < math.inf:  # the permit is not being renewed
            self._scope.deadline = min(anyio.current_time() + self._patience, self._latest)

    def _fail(self, number: int, meaning: Meaning) -> None:
        self.errors.setdefault(number, meaning)
        if meaning.kind is Kind.SUBJECT and 1 <= number <= len(self.sent):
            assert isinstance(meaning.outcome, Held)
            subject = self._events[self.sent[number - 1]].subject
            self.found.setdefault(subject, meaning.outcome)

    def denied(self, subject: str, reason: str) -> None:
        """See ``Exchange``: a message is missing in the batch, which must end."""
        events, sent = self._events, self.sent
        if subject in self.found or all(events[place].subject != subject for place in sent):
            return
        self.found[subject] = Held(FORBIDDEN, reason)
        # The server skips the message. If that was the commit, another one has to end the batch.
        self._committed = False
        self._changed.set()

    def dropped(self, reason: str) -> None:
        """See ``Exchange``."""
        del reason
        self.lost = True
        self._end_it()


class _Page:
    def __init__(self, stream: Stream, events: Sequence[Event]) -> None:
        self.result = LaneResult([None] * len(events))
        self.todo: Sequence[int] = range(len(events))
        self.most = MOST_EVENTS
        self.apart = False  # whether a message that is not stored ends the batch
        self.stream = stream
        self.events = events
        self._fence = KeyFence()

    def conclude(self, batch: Batch) -> bool:
        """Write down what a batch came to; say whether another one is to follow."""
        result = self.result
        proven = 0 if batch.ack is None else min(batch.ack.count, len(batch.sent))
        result.foreign_streams |= batch.foreign_streams
        stored: Outcome = self.stream.stored
        for place in batch.sent[:proven]:
            result.outcomes[place] = stored
        if batch.ack is not None:
            self._place_seq(batch, batch.ack)
        if batch.lost or proven == len(self.todo):
            return False
        judged = self._judge(batch)
        self.todo = [place for place in self.todo if result.outcomes[place] is None]
        unproven = [error for number, error in sorted(batch.errors.items()) if number > proven]
        stream_error = next((error for error in unproven if error.kind is Kind.STREAM), None)
        if batch.timed_out:
            self._give_up(batch)
        elif stream_error is not None:
            result.halt(stream_error)
        elif batch.ack is not None:
            self.most = AFTER_REFUSAL if judged else min(MOST_EVENTS, self.most * 4)
            return judged or proven == len(batch.sent)
        elif batch.contradicted:
            result.contradicted = True
            result.fill(Unknown("two answers to one batch that can't both be true"))
        else:
            result.changed = Kind.STREAM_CHANGED in {each.kind for each in batch.errors.values()}
            once_more, self.apart = not self.apart and not result.changed, True
            return once_more
        return False

    def _place_seq(self, batch: Batch, ack: BatchAck) -> None:
        """Give the PubAck's ``seq``, of the last message *stored*, to an event.

        The last one *sent* may be a duplicate: it counts where the stream moved by the whole batch.
        """
        name, stream = self.stream.name, self.stream
        if ack.count == 1 and len(batch.sent) == 1:
            outcome = Stored(name, ack.seq or None, duplicate=ack.duplicate)
            self.result.outcomes[batch.sent[0]] = outcome
        elif ack.seq == stream.last_seq + ack.count and ack.count <= len(batch.sent):
            last = batch.sent[ack.count - 1]
            self.result.outcomes[last] = Stored(name, ack.seq, duplicate=False)
        if not ack.duplicate:
            stream.batch_stored(ack, self.events[batch.sent[ack.count - 1]].message_id)
        stream.last_seq = max(stream.last_seq, ack.seq)

    def _judge(self, batch: Batch) -> bool:
        """Give outcomes to what the answers speak of; say whether they speak of anything.

        An answer counts only if all events before it in its key have an outcome.
        """
        judged, ahead = False, KeyFence()
        found, outcomes = batch.found, self.result.outcomes
        numbers = {place: number for number, place in enumerate(batch.sent, 1)}
        for place in self.todo:
            if outcomes[place] is not None:
                continue
            event = self.events[place]
            if not self._fence.passes(event.key):
                outcomes[place] = WAITS
                continue
            if not ahead.passes(event.key):
                continue
            meaning = batch.errors.get(numbers.get(place, 0))
            outcome: Outcome | None = batch.unfit.get(place) or found.get(event.subject)
            if outcome is None and meaning is not None and meaning.kind in _OF_ONE_EVENT:
                outcome = meaning.outcome
            if outcome is None:
                ahead.close(event.key)
                continue
            judged = True
            outcomes[place] = outcome
            self._fence.close(event.key)
        self.result.found.update(found)
        return judged

    def _give_up(self, batch: Batch) -> None:
        seconds = self.result.timed_out = batch.timed_out
        if batch.answered_at_all:
            why = f"no final answer to a batch within {seconds:g} s: each event is asked about next"
            self.result.fill(Unknown(why))
            return
        held = Held(silent(self.stream.name), f"no answer within {seconds:g} s")
        self.result.quiet.update({self.events[place].subject: held for place in self.todo})
        self.result.fill(held)
