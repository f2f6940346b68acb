"""The fast ingest path: a batch of messages with one final PubAck (ADR-50, server 2.14 and later).

    reply   <inbox>.<batch>.500.fail.<k>.<op>.$FI
    sent    1 start   2 append   3 append ...   n commit
    heard   ack 0              ack 500 ...      PubAck count n

``gap = fail``: once a message is missing the server takes no later one of the batch, so what it
stored is always a prefix, in order; the PubAck's ``count`` says how long. A batch carries every key
at once. Duplicates inside it are skipped and counted as done: exactly what a retry needs.

Authoritative: ``count`` and the flow acks, both "1 to here is stored". Errors name a message by the
number in the reply subject. What follows from them:

* a message refused or not now: it gets that outcome, its key's later ones wait, and the rest goes
  into a new batch with the same ids. A batch after a refusal is short (32) and grows again, so that
  a page full of refusals stays linear;
* a subject that takes nothing: the same, for all of its events at once;
* the stream as a whole takes nothing: all that is not confirmed shares that outcome;
* error 10208 after a gap is noise: the batch is already over;
* no answer at all for ``ack_timeout``: a verdict of silence on all that is not confirmed;
* the connection is lost: outcomes stay None, and the caller raises the outage.

The PubAck's ``seq`` is that of the last message *stored*, which is not the last one *sent* if that
was a duplicate (seen: new, duplicate -> the new one's). So an outcome carries it only where it can
be told: a batch of one, or a batch that moved the stream by exactly its own length.
"""

import contextlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import anyio
import anyio.lowlevel

from relay.core.event import Event
from relay.core.ordering import WAITS
from relay.core.outcome import STORED, Outcome, Refused, Stored, Unknown
from relay.failpoints import reach
from relay.jetstream.answers import (
    WHOLE_STREAM,
    Kind,
    Sent,
    Verdict,
    forbidden,
    judge_error,
    judge_status,
    silence,
)
from relay.jetstream.connection import Connection
from relay.jetstream.frames import CHUNK_BYTES, CHUNK_EVENTS, FIRST_CHUNK_EVENTS, frame_of
from relay.jetstream.known import Stream

MOST_EVENTS = 50_000
MOST_BYTES = 64 << 20
"""Half of what a stream's inbound queue holds (100,000 messages, 128 MiB) before it drops some."""

AFTER_REFUSAL = 32
_UNKNOWN_BATCH = 10208


async def publish_batches(
    connection: Connection,
    stream: Stream,
    events: Sequence[Event],
    *,
    max_bytes: int,
    ack_timeout: float,
) -> Sent:
    """Publish ``events``, all of ``stream``, in order; as few batches as the answers allow."""
    page = _Page(stream, events, max_bytes)
    most = MOST_EVENTS
    while page.todo:
        batch = _Batch(page, most)
        with connection.exchange(batch) as token, anyio.CancelScope() as scope:
            batch.scope, batch.patience = scope, ack_timeout
            await _send(connection, batch, f"{connection.inbox}.{token}.500.fail.")
            reach("after send")
            await batch.over.wait()
        if scope.cancelled_caught and not batch.over.is_set():
            batch.silence = silence(stream.name, ack_timeout)
        whole = page.conclude(batch)
        if batch.lost:
            break
        most = min(MOST_EVENTS, most * 4) if whole else AFTER_REFUSAL
    return Sent(page.outcomes, page.verdict, page.verdict_on)


async def _send(connection: Connection, batch: "_Batch", inbox: str) -> None:
    """Write the batch in chunks; stop early if it is over before it is out."""
    wire = connection.wire
    while not batch.over.is_set():
        batch.postpone()
        frames = batch.frames(inbox)
        if not frames:
            return
        wire.write(frames)
        await wire.drain()
        await anyio.lowlevel.checkpoint()


class _Page:
    """The events of one call: what is still to do, and what came of the rest."""

    def __init__(self, stream: Stream, events: Sequence[Event], max_bytes: int) -> None:
        self.stream = stream
        self.events = events
        self.max_bytes = max_bytes
        self.outcomes: list[Outcome | None] = [None] * len(events)
        self.todo: Sequence[int] = range(len(events))
        self.verdict: Verdict | None = None
        self.verdict_on = ""
        self._stuck: dict[str, int] = {}
        self._out: dict[str, Outcome] = {}

    def conclude(self, batch: "_Batch") -> bool:
        """Write down what became of a batch; say whether all of it was stored."""
        sent = batch.sent
        for place in sent[: batch.confirmed]:
            self.outcomes[place] = STORED
        if batch.puback is not None and batch.confirmed:
            self._place_seq(batch, self.stream)
        if batch.lost:
            return False
        whole = batch.silence is None and batch.confirmed == len(sent)
        if not whole:
            self._judge(batch)
        self.todo = [place for place in self.todo if self.outcomes[place] is None]
        return whole

    def settle(self, place: int, outcome: Outcome) -> None:
        """Write down that the event at ``place`` was not stored: its key's later ones wait."""
        self.outcomes[place] = outcome
        key = self.events[place].key
        if key is not None:
            self._stuck[key] = min(place, self._stuck.get(key, place))

    def free(self, place: int) -> bool:
        """Say whether the event at ``place`` may be sent; if not, it has its outcome now."""
        event = self.events[place]
        if event.key is not None and self._stuck.get(event.key, place) < place:
            self.outcomes[place] = WAITS
        elif event.subject in self._out:
            self.settle(place, self._out[event.subject])
        else:
            return True
        return False

    def _place_seq(self, batch: "_Batch", stream: Stream) -> None:
        assert batch.puback is not None
        seq, count = int(batch.puback["seq"]), batch.confirmed
        if count == 1 and len(batch.sent) == 1:
            duplicate = bool(batch.puback.get("duplicate", False))
            self.outcomes[batch.sent[0]] = Stored(seq or None, duplicate)
        elif seq == stream.last_seq + count:
            self.outcomes[batch.sent[count - 1]] = Stored(seq, duplicate=False)
        stream.last_seq = max(stream.last_seq, seq)

    def _judge(self, batch: "_Batch") -> None:
        """Give outcomes to what the answers speak of; the rest stays to do, if there is hope."""
        settled = False
        numbers = {place: number for number, place in enumerate(batch.sent, 1)}
        for place in self.todo:
            if self.outcomes[place] is not None:
                continue
            event = self.events[place]
            said = batch.errors.get(numbers.get(place, 0))
            if batch.denials and event.subject.lower() in batch.denials:
                self._out[event.subject] = forbidden(batch.denials[event.subject.lower()])
            if not self.free(place):
                settled = True
            elif said is not None and said.kind not in WHOLE_STREAM:
                self.settle(place, said.outcome)
                settled = True
                if said.kind is Kind.SUBJECT:
                    self._out[event.subject] = said.outcome
        self._halt(batch, settled=settled)

    def _halt(self, batch: "_Batch", *, settled: bool) -> None:
        """End the page where an answer speaks of the whole stream, or nothing says what is wrong.

        A batch that ended early is no use if the next one would be the same.
        """
        verdict, number = batch.verdict()
        if verdict is None and not settled:
            ended = Unknown("the batch ended early, without a reason")
            verdict = batch.noise or Verdict(ended, Kind.STREAM_CHANGED)
        if verdict is None:
            return
        sent = batch.sent
        self.verdict = verdict
        self.verdict_on = self.events[sent[min(number, len(sent)) - 1]].subject if sent else ""
        for place in self.todo:
            self.outcomes[place] = self.outcomes[place] or verdict.outcome


class _Batch:
    """The exchange of one batch: what was sent of it, and what was answered."""

    def __init__(self, page: _Page, most: int) -> None:
        self.sent: list[int] = []
        self.confirmed = 0
        self.errors: dict[int, Verdict] = {}
        self.denials: dict[str, str] = {}
        self.noise: Verdict | None = None
        self.puback: dict[str, Any] | None = None
        self.silence: Verdict | None = None
        self.lost = False
        self.over = anyio.Event()
        self.scope = anyio.CancelScope()
        self.patience = 0.0
        self._page = page
        self._most = most
        self._bytes = 0
        self._waiting: Iterator[int] = iter(page.todo)
        self._end = page.todo[-1]
        self._committed = False
        self._answered = False

    def postpone(self) -> None:
        """There was progress: the deadline begins anew."""
        self.scope.deadline = anyio.current_time() + self.patience

    def frames(self, inbox: str) -> bytes:
        """Build the next chunk; the last message commits the batch. b"" if nothing is left.

        Where the last event turns out to be refused, a message that is not stored commits (op 3).
        """
        parts: list[bytes] = []
        while not self._committed and not self._fill(parts, inbox):
            # An event was refused before it was sent: those behind it of its key must not go.
            self._waiting = filter(self._page.free, self._waiting)
        return b"".join(parts)

    def _fill(self, parts: list[bytes], inbox: str) -> bool:
        """Add a chunk of frames to ``parts``; False at the batch's first refusal."""
        page, sent, until = self._page, self.sent, self._bytes + CHUNK_BYTES
        events, max_bytes, end, most = page.events, page.max_bytes, self._end, self._most
        number = len(sent)
        chunk = CHUNK_EVENTS if number else FIRST_CHUNK_EVENTS
        for place in self._waiting:
            op = 2 if place == end or number + 1 == most else 1 if number else 0
            frame = frame_of(events[place], f"{inbox}{number + 1}.{op}.$FI", max_bytes)
            if isinstance(frame, Refused):
                page.settle(place, frame)
                if isinstance(self._waiting, filter):
                    continue
                return False
            parts.append(frame)
            sent.append(place)
            number += 1
            self._bytes += len(frame)
            self._committed = op == 2  # noqa: PLR2004 - the protocol's number
            if self._committed or len(parts) >= chunk or self._bytes >= until:
                break
        else:
            self._commit_without(parts, inbox)
        if self._bytes >= MOST_BYTES and not self._committed:
            self._commit_without(parts, inbox)
        return True

    def verdict(self) -> tuple[Verdict | None, int]:
        """Find the first answer that speaks of the stream as a whole, and which message got it."""
        if self.silence is not None:
            return self.silence, 1
        for number in sorted(self.errors):
            if self.errors[number].kind in WHOLE_STREAM and number > self.confirmed:
                return self.errors[number], number
        return None, 1

    def _commit_without(self, parts: list[bytes], inbox: str) -> None:
        self._committed = True
        if not self.sent:
            self.over.set()
            return
        subject = self._page.events[self.sent[-1]].subject
        parts.append(f"PUB {subject} {inbox}{len(self.sent) + 1}.3.$FI 0\r\n\r\n".encode())

    def answered(self, rest: bytes, payload: bytes, headers: bytes | None) -> None:
        if not self._answered:
            self._answered = True
            reach("before ack")
        _, _, at, op, _ = rest.split(b".")
        number = int(at)
        if not payload and headers is not None:
            self._fail(number, judge_status(headers, self._page.stream.name))
        else:
            # Whoever else subscribes to the subject may reply as well, and says nothing.
            with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
                self._read(number, json.loads(payload))
        if op in {b"2", b"3"} and (number in self.errors or self.noise is not None):
            self.over.set()
        self.postpone()

    def _read(self, number: int, answer: dict[str, Any]) -> None:
        kind = answer.get("type")
        if kind == "ack":
            self.confirmed = max(self.confirmed, int(answer["seq"]))
        elif kind == "err":
            self._fail(int(answer["seq"]), judge_error(answer["error"], self._page.stream.name))
        elif "error" in answer:
            self._fail(number, judge_error(answer["error"], self._page.stream.name))
        elif "count" in answer:
            self.confirmed = max(self.confirmed, int(answer["count"]))
            self.puback = answer
            self.over.set()

    def _fail(self, number: int, verdict: Verdict | None) -> None:
        if verdict is None:
            return
        if verdict.outcome.code == _UNKNOWN_BATCH:
            self.noise = verdict
        else:
            self.errors.setdefault(number, verdict)

    def denied(self, subject: str, reason: str) -> None:
        if subject in self.denials:
            return
        if any(self._page.events[place].subject.lower() == subject for place in self.sent):
            self.denials[subject] = reason
            self.over.set()

    def dropped(self, reason: str) -> None:
        del reason
        self.lost = True
        self.over.set()
