"""The exchange of one batch of the fast ingest path: what is sent of it, and what is answered.

    reply     <inbox>.<batch>.500.fail.<k>.<op>.$FI
    sent      1 start   2 append   3 append ...   n commit (op 2), or n+1 which only commits (op 3)
    answered  flow 0               flow 500 ...   PubAck count n

R-LOSS: ``proven`` counts by the PubAck alone, as ``answers`` reads it. Flow acks extend the
deadline, up to ``_LONGEST`` times. R-ORDER: an event refused here before it is sent closes its key
for the rest of the batch (``KeyFence``). What follows from answers is ``fast_ingest``'s decision.
"""

import math
from collections.abc import Iterator, Sequence

import anyio

from relay.core.event import Event
from relay.core.order import KeyFence
from relay.core.outcome import Held, Refused
from relay.failpoints import reach
from relay.jetstream.answers import BatchAck, Elsewhere, read_batch
from relay.jetstream.error_codes import FORBIDDEN, Kind, Meaning
from relay.jetstream.frames import CHUNK_BYTES, CHUNK_EVENTS, FIRST_CHUNK_EVENTS, frame_of
from relay.jetstream.streams import Stream

MOST_EVENTS = 50_000
MOST_BYTES = 64 << 20
"""Half of what a stream's inbound queue holds (100,000 messages, 128 MiB) before it drops some."""

_LONGEST = 10
"""Deadlines, after which flow acks extend none any more."""

_COMMIT = 2
_PARTS = 5


class Batch:
    """One batch.

    Attributes:
        sent: the places of the messages sent, in order; a message's number is its index here + 1.
        unfit: the events refused here, by place.
        errors: the error answers, by number.
        found: what single subjects came to: full or forbidden.
        ack: the PubAck; None while there is none, and where two of them contradict each other.
        contradicted: there were two such.
        foreign_streams: streams of other domains that answered.
        over: nothing more is to be sent or waited for.
        lost: the connection is lost.
        answered_at_all: the stream, or who pretends to be it, gave any answer.
    """

    def __init__(
        self,
        stream: Stream,
        events: Sequence[Event],
        todo: Sequence[int],
        *,
        max_bytes: int,
        most: int,
        apart: bool,
    ) -> None:
        """Prepare to send those of ``events`` whose places are in ``todo``, at most ``most``.

        Where ``apart``, a message that is not stored ends the batch, and not the last event.
        """
        self.sent: list[int] = []
        self.unfit: dict[int, Refused] = {}
        self.errors: dict[int, Meaning] = {}
        self.found: dict[str, Held] = {}
        self.ack: BatchAck | None = None
        self.lost = False
        self.over = False
        self.answered_at_all = False
        self.contradicted = False
        self.scope = anyio.CancelScope()
        self.patience = 0.0
        self.foreign_streams: set[str] = set()
        self._stream = stream
        self._events = events
        self._max_bytes = max_bytes
        self._most = most
        self._token = ""
        self._inbox = ""
        self._bytes = 0
        self._waiting: Iterator[int] = iter(todo)
        self._end = -1 if apart else todo[-1]
        self._fence = KeyFence()
        self._numbers = 0
        self._committed = False
        self._reached = False
        self._latest = 0.0
        self._changed = anyio.Event()

    @property
    def proven(self) -> int:
        """How many of ``sent`` are stored, from the first on."""
        return 0 if self.ack is None else min(self.ack.count, len(self.sent))

    @property
    def timed_out(self) -> bool:
        """Whether the deadline passed before the batch was over."""
        return self.scope.cancelled_caught and not self.over

    def begin(self, token: str, inbox: str, scope: anyio.CancelScope, patience: float) -> None:
        """Take the exchange's token, its deadline and the s until that."""
        self._token, self._inbox, self.scope, self.patience = token, inbox, scope, patience
        self.written()

    def written(self) -> None:
        """A chunk was sent: the deadline begins anew, and so does the last one there can be."""
        now = anyio.current_time()
        self._latest = now + _LONGEST * self.patience
        self.scope.deadline = now + self.patience

    def postpone(self) -> None:
        """There was an answer: the deadline begins anew, unless the permit is being renewed."""
        if self.scope.deadline < math.inf:
            self.scope.deadline = min(anyio.current_time() + self.patience, self._latest)

    async def progress(self) -> None:
        """Wait until the batch is over, or has to be ended once more."""
        await self._changed.wait()
        self._changed = anyio.Event()

    def verdict(self) -> Meaning | None:
        """Find the first answer that speaks of the stream as a whole."""
        for number in sorted(self.errors):
            if self.errors[number].kind is Kind.STREAM and number > self.proven:
                return self.errors[number]
        return None

    # Sending.

    def frames(self) -> bytes:
        """Build the next chunk; the last message commits the batch. b"" if nothing is left."""
        parts: list[bytes] = []
        if not self._committed:
            self._fill(parts)
        return b"".join(parts)

    def _fill(self, parts: list[bytes]) -> None:
        events, sent, until = self._events, self.sent, self._bytes + CHUNK_BYTES
        max_bytes, end, most = self._max_bytes, self._end, self._most
        inbox, number, fenced = self._inbox, len(sent), bool(self._fence)
        chunk = CHUNK_EVENTS if number else FIRST_CHUNK_EVENTS
        if self.found:
            self._commit_apart(parts)
            return
        for place in self._waiting:
            event = events[place]
            if fenced and not self._fence.passes(event.key):
                continue
            op = _COMMIT if place == end or number + 1 == most else 1 if number else 0
            frame = frame_of(event, f"{inbox}{number + 1}.{op}.$FI", max_bytes)
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
                self._numbers = number
                return
            if len(parts) >= chunk or self._bytes >= until:
                break
        else:
            self._commit_apart(parts)
        if self._bytes >= MOST_BYTES and not self._committed:
            self._commit_apart(parts)

    def _commit_apart(self, parts: list[bytes]) -> None:
        """End the batch by a message of its own, which is not stored (op 3)."""
        self._committed = True
        events, number = self._events, max(self._numbers, len(self.sent)) + 1
        allowed = (events[place].subject for place in reversed(self.sent))
        subject = next((each for each in allowed if each not in self.found), None)
        if subject is None:
            self._end_it()
            return
        self._numbers = number
        parts.append(f"PUB {subject} {self._inbox}{number}.3.$FI 0\r\n\r\n".encode())

    def _end_it(self) -> None:
        self.over = True
        self._changed.set()

    # Answers.

    def answered(self, rest: bytes, payload: bytes, headers: bytes | None) -> None:
        """Take an answer: see ``Exchange``."""
        if not self._reached:
            self._reached = True
            reach("before ack")
        parts = rest.split(b".")
        if len(parts) != _PARTS or not parts[2].isdigit():
            return
        number = int(parts[2]) if len(parts[2]) < len(str(1 << 31)) else 0
        answer = read_batch(payload, headers, self._stream.expected, self._token, len(self.sent))
        if not 1 <= number <= max(self._numbers, len(self.sent)) or answer is None:
            return
        if isinstance(answer, BatchAck):
            self._take(answer)
        elif isinstance(answer, Meaning):
            self._fail(number, answer)
        elif isinstance(answer, tuple):
            self._fail(*answer)
        if isinstance(answer, Elsewhere) and not answer.home:
            self.foreign_streams.add(answer.stream)
        if isinstance(answer, Meaning | Elsewhere) and self._committed and number == self._numbers:
            self._end_it()
        self.answered_at_all = True
        self.postpone()

    def _take(self, ack: BatchAck) -> None:
        self.contradicted = self.ack not in {None, ack}
        self.ack = None if self.contradicted else ack
        self._end_it()

    def _fail(self, number: int, verdict: Meaning) -> None:
        self.errors.setdefault(number, verdict)
        if verdict.kind is Kind.SUBJECT and 1 <= number <= len(self.sent):
            assert isinstance(verdict.outcome, Held)
            subject = self._events[self.sent[number - 1]].subject
            self.found.setdefault(subject, verdict.outcome)

    def denied(self, subject: str, reason: str) -> None:
        """Hear that a subject is forbidden: its message is missing in the batch, which must end."""
        events, sent = self._events, self.sent
        if subject in self.found or all(events[place].subject != subject for place in sent):
            return
        self.found[subject] = Held(FORBIDDEN, reason)
        # The server skips the message. If that was the commit, another one has to end the batch.
        self._committed = False
        self._changed.set()

    def dropped(self, reason: str) -> None:
        """Hear that the connection is lost."""
        del reason
        self.lost = True
        self._end_it()
