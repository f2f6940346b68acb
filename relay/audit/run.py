"""One audit: looks, each of which reads on where the last one ended and judges what is new.

    a  rows that should be stored by now (settled, or old) and are not seen yet are marked
    b  the stream's end is noted, then rows that have appeared late are read
    c  messages up to that end are judged; the row of each is read before it
    d  what was marked and is still not seen is lost

Each step can trust the one before: whatever a relay had stored when it was asked in (a) lies before
the end that was noted in (b), and whatever lies before that end was committed before its row is
read in (c). So no two clocks are compared for a verdict of lost. What has no verdict is named:

    not yet      pending, parked, or younger than the grace
    dead         kept by the relay for a person; dropped by one
    not judged   older than the stream or than the outbox's oldest row, deleted from the stream, of
                 another stream or another publisher, order of transactions that may have overlapped
"""

import asyncio
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from relay.audit.oracle import PLURALS, Committed, Finding, Judge, StreamMessage
from relay.audit.outbox import Kept, OutboxReader
from relay.audit.stream import Messages
from relay.core.subjects import matches
from relay.errors import StreamError
from relay.jetstream.parser import Message
from relay.jetstream.reading import Start, StreamReader, StreamState

_CHUNK: Final = 5_000
_MOST_UNKNOWN: Final = 20_000
_MOST_DUE: Final = 50_000
_NS: Final = 1_000_000_000
_NUMBER: Final = re.compile("[0-9]{1,100}")
_SKEW: Final = 5.0
"""Seconds by which the clocks of Postgres and NATS may differ, where both are compared."""

OLD: Final = "written before the stream's first message"
DELETED: Final = "perhaps deleted from the stream"
ELSEWHERE: Final = "rows of subjects that this stream does not capture"
FOREIGN: Final = "messages of other publishers"
LATE: Final = "messages whose rows appeared late"
PRUNED: Final = "messages whose rows may be deleted from the outbox"
SET_BACK: Final = "sequences that the stream had, and has no more"
OVERLAP: Final = "inversions of transactions that may have overlapped"


@dataclass(slots=True)
class Audit:
    """An audit of one outbox against one stream.

    Attributes:
        grace: s after its writing in which an event may be missing.
        progress: called now and then with (events, messages) judged so far, and of how many.
        not_yet, not_judged: how many have no verdict, by the reason.
    """

    outbox: OutboxReader
    reader: StreamReader
    stream: str
    messages: Messages
    judge: Judge
    grace: float
    progress: Callable[[int, int], None] = lambda done, total: None  # noqa: ARG005
    not_yet: Counter[str] = field(default_factory=Counter)
    not_judged: Counter[str] = field(default_factory=Counter)
    began_at: float = 0.0
    looked_at: float = 0.0
    first_seq: int = 0
    last_seq: int = 0
    _created_at: datetime | None = None
    _captured: tuple[str, ...] = ()
    _subjects: dict[str, bool] = field(default_factory=dict)
    _since: float = 0.0  # the stream has everything that was stored since then
    _gap_at: float = 0.0  # up to here messages have been deleted from between others
    _page: "asyncio.Task[list[Committed]] | None" = None
    _stored_at: dict[int, float] = field(default_factory=dict)

    async def look(self) -> bool:
        """Judge what is new; return whether there is more to be said without waiting.

        Raises:
            StoreOutage, BusOutage, SchemaError, StreamError, SettingsError.
        """
        now = await self.outbox.now()
        if not self.began_at:
            await self.outbox.begin()
            self.messages.payload = self.outbox.payload  # json for a jsonb column
            self.began_at = now
        if self._page is not None:  # an outage has cut the last look short
            await self._read_rows()
        self.outbox.exhausted = False
        due, self.looked_at = await self._due(now), now
        state = await self.reader.state(self.stream)
        self._meet(state)
        while late := await self.outbox.late(now):
            self._expect(late)
        await self._judge(state)
        while await self._read_rows():
            pass
        await self._conclude()
        for event in due:
            if self.judge.waits(event):
                self._miss(event)
        more = len(due) >= _MOST_DUE
        await self._count_waiting()
        return more

    def report(self) -> dict[str, Any]:
        """Return what was judged, as plain values; findings are handed over as they are found."""
        outbox = self.outbox
        return {
            "stream": self.stream,
            "rows": {"count": outbox.rows, "first": outbox.lowest, "last": outbox.highest},
            "messages": {"first": self.first_seq, "last": self.last_seq},
            "since": None if not self._since else _text(self._since),
            "until": _text(self.looked_at) if self.looked_at else None,
            "matched": self.judge.matched,
            "replayed": self.judge.replayed,
            "not_yet": dict(self.not_yet),
            "not_judged": self._unjudged(),
        }

    def _unjudged(self) -> dict[str, int]:
        more = {FOREIGN: self.messages.foreign, OVERLAP: self.judge.unordered}
        return {what: count for what, count in {**self.not_judged, **more}.items() if count}

    def _meet(self, state: StreamState) -> None:
        """Begin with the stream, or look whether it is the one of the last look.

        Raises:
            StreamError: it was made anew.
        """
        if self._created_at is not None:
            if state.created_at != self._created_at:
                raise StreamError(f"stream {self.stream} was made anew: begin the audit anew")
            if state.last_seq < self.last_seq:
                self.not_judged[SET_BACK] += self.last_seq - state.last_seq
                self._gap_at, self.last_seq = self.looked_at, state.last_seq
            return
        self._created_at, self._captured = state.created_at, state.subjects
        since = state.created_at.timestamp()
        if state.first_seq > 1:  # its beginning is gone
            since = self.looked_at if state.first_at is None else state.first_at.timestamp()
            self.judge.order_since = since
        self._since = since
        self.first_seq = max(1, state.first_seq)
        self.last_seq = self.first_seq - 1

    async def _due(self, now: float) -> list[Committed]:
        """Return the events that should be in the stream by now, if they are not seen yet."""
        due, chunk = list[Committed](), list[Committed]()
        for event in self.judge.waiting():
            at = event.committed_at if event.written_at is None else event.written_at
            if now - (at or 0.0) >= self.grace:
                chunk.append(event)
            if len(chunk) >= _CHUNK:
                due += await self._stored(chunk)
                chunk = []
            if len(due) >= _MOST_DUE:
                return due
        return due + await self._stored(chunk)

    async def _stored(self, events: Sequence[Committed]) -> list[Committed]:
        """Return those that the relay takes for stored; all, if it does not say."""
        if not events or not self.outbox.is_ours:
            return list(events)
        fates = await self.outbox.fates([event.sequence for event in events])
        return [event for event in events if fates.get(event.sequence) in ("settled", "gone")]

    async def _judge(self, state: StreamState) -> None:
        """Judge the messages up to the stream's end as it is in ``state``."""
        if not state.messages or state.last_seq <= self.last_seq:
            self._end_at(state.last_seq)
            return
        begun, total = self.last_seq, state.last_seq - self.last_seq
        start, up_to = Start(self.last_seq + 1), float(state.last_seq)
        async with aclosing(self.reader.messages(self.stream, start, up_to=up_to)) as batches:
            async for batch in batches:
                self._note_gaps(batch)
                messages = self.messages.read(batch)
                while self.judge.lacks(messages) and await self._read_rows():
                    pass
                self._judge_batch(messages, batch)
                self.last_seq = batch[-1].seq
                self.progress(self.last_seq - begun, total)
                if len(self.judge.unknown) > _MOST_UNKNOWN:
                    await self._conclude()
        self._end_at(state.last_seq)

    def _end_at(self, last_seq: int) -> None:
        """Note that there are no messages up to ``last_seq`` any more."""
        if last_seq > self.last_seq:
            self._gap_at, self.last_seq = self.looked_at, last_seq

    def _judge_batch(self, messages: Sequence[StreamMessage], batch: Sequence[Message]) -> None:
        known = len(self.judge.unknown)
        self.judge.judge(messages)
        if len(self.judge.unknown) > known:
            at = {message.seq: message.at_ns / _NS for message in batch}
            self._stored_at |= {each.seq: at[each.seq] for each in self.judge.unknown[known:]}

    def _note_gaps(self, batch: Sequence[Message]) -> None:
        before = self.last_seq
        if batch[-1].seq - before == len(batch):
            return
        for message in batch:
            if message.seq != before + 1:
                self._gap_at = message.at_ns / _NS
            before = message.seq

    async def _read_rows(self) -> bool:
        """Take the next page, and let the one behind it be read meanwhile; False at the end."""
        under_way, self._page = self._page, None
        if under_way is None and self.outbox.exhausted:
            return False
        page = await (under_way or asyncio.ensure_future(self.outbox.page()))
        if not self.outbox.exhausted:
            self._page = asyncio.ensure_future(self.outbox.page())
        self._expect(page)
        return True

    def _expect(self, rows: Sequence[Committed]) -> None:
        expected = [row for row in rows if row.subject is None or self._is_captured(row.subject)]
        if len(expected) < len(rows):
            self.not_judged[ELSEWHERE] += len(rows) - len(expected)
        self.judge.expect(expected)

    def _is_captured(self, subject: str) -> bool:
        found = self._subjects.get(subject)
        if found is None:
            wanted = self.messages.subjects
            found = all(  # a mirror names no subjects
                not patterns or any(matches(each, subject) for each in patterns)
                for patterns in (self._captured, wanted)
            )
            if len(self._subjects) < _CHUNK:
                self._subjects[subject] = found
        return found

    async def _conclude(self) -> None:
        """Say what the messages are that no event is known for."""
        self.judge.unknown = unknown = self.judge.conclude()  # kept through an outage
        if unknown:
            known = await self.outbox.known(sorted({each.event_id for each in unknown}))
            kept = await self.outbox.kept()
        stored_at, self._stored_at, self.judge.unknown = self._stored_at, {}, []
        for message in unknown:
            if message.event_id in known:
                self.not_judged[LATE] += 1
            elif self._may_be_pruned(message, stored_at[message.seq], kept):
                self.not_judged[PRUNED] += 1
            else:
                self.judge.phantom(message)

    def _may_be_pruned(self, message: StreamMessage, stored_at: float, kept: Kept) -> bool:
        """Say whether the row of ``message`` may have been there, and been deleted."""
        if kept.since is None:
            return False
        if kept.lowest is not None and _NUMBER.fullmatch(message.event_id):
            return int(message.event_id) < kept.lowest
        if math.isfinite(kept.since):
            return stored_at < kept.since + _SKEW
        return self.judge.first is None or message.seq < self.judge.first[1]

    def _miss(self, event: Committed) -> None:
        """Say that an event is missing that should be in the stream, or why that can't be said."""
        written = event.written_at
        first = self.judge.first
        is_old = written is not None and written < self._since
        if written is None and self.first_seq > 1:
            is_old = first is None or event.sequence < first[0]
        if is_old:
            self.not_judged[OLD] += 1
            self.judge.forget([event.event_id])
        elif self._gap_at and (written is None or written <= self._gap_at + _SKEW):
            self.not_judged[DELETED] += 1
            self.judge.forget([event.event_id])
        else:
            self.judge.lose(event)

    async def _count_waiting(self) -> None:
        """Count what has no verdict yet, by the reason."""
        self.not_yet.clear()
        chunk = list[Committed]()
        for event in self.judge.waiting():
            chunk.append(event)
            if len(chunk) >= _CHUNK:
                await self._count(chunk)
                chunk = []
        await self._count(chunk)

    async def _count(self, events: Sequence[Committed]) -> None:
        fates: Mapping[int, str] = {}
        if events and self.outbox.is_ours:
            fates = await self.outbox.fates([event.sequence for event in events])
        for event in events:
            fate = fates.get(event.sequence, "young")
            self.not_yet["young" if fate in ("settled", "gone") else fate] += 1


def counts_of(findings: Counter[str]) -> dict[str, int]:
    """Return how often each kind was found, by the kinds' plurals."""
    return {plural: findings[kind] for kind, plural in PLURALS.items()}


def as_json(finding: Finding) -> dict[str, Any]:
    """Return plain values."""
    return {"finding": finding.kind, **{k: v for k, v in finding._asdict().items() if k != "kind"}}


def _text(at: float) -> str | None:
    return datetime.fromtimestamp(at, UTC).isoformat() if math.isfinite(at) else None
