"""The fast ingest path: a batch of messages with one final PubAck (ADR-50, server 2.14 and later).

    reply   <inbox>.<batch>.500.fail.<k>.<op>.$FI
    sent    1 start   2 append   3 append ...   n commit
    heard   ack 0              ack 500 ...      PubAck count n

``gap = fail``: once a message is missing the server takes no later one of the batch, so what it
stored is always a prefix, in order; the PubAck's ``count`` says how long. A batch carries every key
at once. Duplicates inside it are skipped and counted as done: exactly what a retry needs.

Authoritative: ``count`` and the flow acks, both "1 to here is stored". Errors name a message by the
number in the reply subject. What follows from them:

* a message refused: it is Refused, and the rest goes into a new batch with the same ids. A batch
  after a refusal is short (32) and grows again, so that a page full of refusals stays linear;
* a message not now: Unknown, its key's later ones too; the rest goes into a new batch;
* the stream as a whole takes nothing: all that is not confirmed is Unknown;
* error 10208 after a gap is noise: the batch is already over;
* no answer at all for ``ack_timeout``: Unknown, and the connection is dropped;
* the connection is lost: outcomes stay None, and the caller raises the outage.

The PubAck's ``seq`` is that of the last message *stored*, which is not the last one *sent* if that
was a duplicate (seen: new, duplicate -> the new one's). So an outcome carries it only where it can
be told: a batch of one, or a batch that moved the stream by exactly its own length.
"""

import contextlib
import json
from collections.abc import Sequence
from typing import Any

import anyio
import anyio.lowlevel

from relay.core.event import Event
from relay.core.outcome import STORED, Outcome, Refused, Stored, Unknown
from relay.jetstream.answers import Kind, Verdict, judge_error, judge_status
from relay.jetstream.connection import Connection
from relay.jetstream.frames import CHUNK_BYTES, CHUNK_EVENTS, FIRST_CHUNK_EVENTS, frame_of
from relay.jetstream.streams import Stream

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
) -> tuple[list[Outcome | None], bool]:
    """Publish ``events``, all of one stream, in order; as few batches as the answers allow.

    Returns the outcomes, None where the connection was lost first, and whether an answer said that
    what is believed of the stream is out of date.
    """
    page = _Page(events, max_bytes)
    most = MOST_EVENTS
    while page.todo:
        batch = _Batch(page, most)
        with connection.exchange(batch) as token, anyio.CancelScope() as scope:
            batch.scope, batch.patience = scope, ack_timeout
            await _send(connection, batch, f"{connection.inbox}.{token}.500.fail.")
            await batch.over.wait()
        if scope.cancelled_caught and not batch.over.is_set():
            batch.silence = Unknown(f"no answer from JetStream within {ack_timeout:g} s")
        whole = page.conclude(batch, stream)
        if batch.lost:
            break
        if batch.silence is not None:
            connection.drop(batch.silence.reason)
        most = min(MOST_EVENTS, most * 4) if whole else AFTER_REFUSAL
    return page.outcomes, page.stream_changed


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

    def __init__(self, events: Sequence[Event], max_bytes: int) -> None:
        self.events = events
        self.max_bytes = max_bytes
        self.outcomes: list[Outcome | None] = [None] * len(events)
        self.todo: Sequence[int] = range(len(events))
        self.stream_changed = False
        self._blocked: set[str] = set()

    def conclude(self, batch: "_Batch", stream: Stream) -> bool:
        """Write down what became of a batch; say whether all of it was stored."""
        sent = batch.sent
        for place in sent[: batch.confirmed]:
            self.outcomes[place] = STORED
        if batch.puback is not None and batch.confirmed:
            self._place_seq(batch, stream)
        if batch.lost:
            return False
        whole = batch.silence is None and batch.confirmed == len(sent)
        if not whole:
            self._judge(batch)
        self.todo = [place for place in self.todo if self.outcomes[place] is None]
        return whole

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
        halt = batch.silence or self._halt_of(batch)
        settled = False
        numbers = {place: number for number, place in enumerate(batch.sent, 1)}
        for place in self.todo:
            if self.outcomes[place] is not None:
                continue
            event = self.events[place]
            verdict = batch.errors.get(numbers.get(place, 0))
            if event.key is not None and event.key in self._blocked:
                self.outcomes[place] = Unknown("waits for an earlier event of its key")
            elif verdict is not None and verdict.kind in {Kind.THIS_EVENT, Kind.NOT_NOW}:
                self._settle(place, verdict.outcome)
                settled = True
            elif batch.denials and event.subject.lower() in batch.denials:
                self._settle(place, Unknown(batch.denials[event.subject.lower()]))
                settled = True
        if halt is None and not settled:
            self.stream_changed = True
            halt = batch.noise or Unknown("the batch ended early, without a reason")
        if halt is not None:
            for place in self.todo:
                self.outcomes[place] = self.outcomes[place] or halt

    def _halt_of(self, batch: "_Batch") -> Unknown | None:
        """Find the first answer that speaks of the stream as a whole."""
        for number in sorted(batch.errors):
            verdict = batch.errors[number]
            if verdict.kind in {Kind.STREAM, Kind.STREAM_CHANGED} and number > batch.confirmed:
                assert isinstance(verdict.outcome, Unknown)
                self.stream_changed |= verdict.kind is Kind.STREAM_CHANGED
                return verdict.outcome
        return None

    def _settle(self, place: int, outcome: Outcome) -> None:
        self.outcomes[place] = outcome
        key = self.events[place].key
        if key is not None and isinstance(outcome, Unknown):
            self._blocked.add(key)


class _Batch:
    """The exchange of one batch: what was sent of it, and what was answered."""

    def __init__(self, page: _Page, most: int) -> None:
        self.sent: list[int] = []
        self.confirmed = 0
        self.errors: dict[int, Verdict] = {}
        self.denials: dict[str, str] = {}
        self.noise: Unknown | None = None
        self.puback: dict[str, Any] | None = None
        self.silence: Unknown | None = None
        self.lost = False
        self.over = anyio.Event()
        self.scope = anyio.CancelScope()
        self.patience = 0.0
        self._page = page
        self._most = most
        self._bytes = 0
        self._waiting = iter(page.todo)
        self._end = page.todo[-1]
        self._committed = False

    def postpone(self) -> None:
        """There was progress: the deadline begins anew."""
        self.scope.deadline = anyio.current_time() + self.patience

    def frames(self, inbox: str) -> bytes:
        """Build the next chunk; the last message commits the batch. b"" if nothing is left.

        Where the last event turns out to be refused, a message that is not stored commits (op 3).
        """
        if self._committed:
            return b""
        page, sent, parts, until = self._page, self.sent, [], self._bytes + CHUNK_BYTES
        events, outcomes, max_bytes, end, most = (
            page.events,
            page.outcomes,
            page.max_bytes,
            self._end,
            self._most,
        )
        number = len(sent)
        chunk = CHUNK_EVENTS if number else FIRST_CHUNK_EVENTS
        for place in self._waiting:
            op = 2 if place == end or number + 1 == most else 1 if number else 0
            frame = frame_of(events[place], f"{inbox}{number + 1}.{op}.$FI", max_bytes)
            if isinstance(frame, Refused):
                outcomes[place] = frame
                continue
            parts.append(frame)
            sent.append(place)
            number += 1
            self._bytes += len(frame)
            self._committed = op == 2  # noqa: PLR2004 - the protocol's number
            if self._committed or len(parts) == chunk or self._bytes >= until:
                break
        else:
            self._commit_without(parts, inbox)
        if self._bytes >= MOST_BYTES and not self._committed:
            self._commit_without(parts, inbox)
        return b"".join(parts)

    def _commit_without(self, parts: list[bytes], inbox: str) -> None:
        self._committed = True
        if not self.sent:
            self.over.set()
            return
        subject = self._page.events[self.sent[-1]].subject
        parts.append(f"PUB {subject} {inbox}{len(self.sent) + 1}.3.$FI 0\r\n\r\n".encode())

    def answered(self, rest: bytes, payload: bytes, headers: bytes | None) -> None:
        _, _, at, op, _ = rest.split(b".")
        number = int(at)
        if not payload and headers is not None:
            self._fail(number, judge_status(headers))
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
            self._fail(int(answer["seq"]), judge_error(answer["error"]))
        elif "error" in answer:
            self._fail(number, judge_error(answer["error"]))
        elif "count" in answer:
            self.confirmed = max(self.confirmed, int(answer["count"]))
            self.puback = answer
            self.over.set()

    def _fail(self, number: int, verdict: Verdict | None) -> None:
        if verdict is None:
            return
        if verdict.outcome.code == _UNKNOWN_BATCH:
            assert isinstance(verdict.outcome, Unknown)
            self.noise = verdict.outcome
        else:
            self.errors.setdefault(number, verdict)

    def denied(self, subject: str, reason: str) -> None:
        if any(self._page.events[place].subject.lower() == subject for place in self.sent):
            self.denials[subject] = reason
            self.over.set()

    def dropped(self, reason: str) -> None:
        del reason
        self.lost = True
        self.over.set()
