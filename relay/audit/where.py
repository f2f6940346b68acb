"""Where an event is: what Postgres says of it, and what the streams hold, put together.

    not visible ─► pending ─► in flight ─► stored, settled ─► passed by consumers ─► pruned
     (who has not     │        (stored, not settled yet)
      committed)      └─► parked (behind another, held, tried again) ─► dead ─► dropped

Settled and without a copy, an event is missing if all its streams were read, and else unknown.
Postgres is asked first, in one snapshot, and the stream after it: what the stream holds then was
committed before. So each answer was right at some instant between the question and its end.
"""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Literal, NamedTuple

from relay.audit.stream import header, parse_message
from relay.core.subjects import matches
from relay.errors import BusOutage, SchemaError, StreamError
from relay.jetstream.parser import Message
from relay.jetstream.reading import Start, StreamReader
from relay.postgres import where as database
from relay.postgres.session import Session
from relay.postgres.sqlfiles import load
from relay.postgres.status import status
from relay.postgres.where import Row, Writer

State = Literal[
    "pending", "in flight", "waiting", "parked", "held", "dead", "dropped", "stored", "missing",
    "unknown",
]  # fmt: skip
"""What a committed event can be: ``relay/audit/README.md`` says what each means."""

_SKEW: Final = timedelta(minutes=1)
"""By which the clocks of Postgres and NATS may differ."""


@dataclass(slots=True)
class Stored:
    """One copy in a stream. ``consumers``: by name, passed, delivered or not reached."""

    stream: str
    seq: int
    at: datetime
    event_id: str
    message_id: str | None
    subject: str
    consumers: dict[str, str] = field(default_factory=dict)


class Dropped(NamedTuple):
    """Who dropped an event, and when."""

    by: str
    at: datetime


@dataclass(slots=True)
class Answer:
    """What is known of what was asked.

    Attributes:
        read_as: how the name was read, one of ``relay.postgres.where.NAMES``; "" if it is unknown.
        rows: the outbox's.
        stored: the streams' copies.
        streams: which were looked at.
        unread: by stream, why it could not be read.
        dropped: by event id, what a person dropped; None if this login may not see that.
        given: whether the id was ever given; None if no id is known.
        writers: who has written to the outbox and not committed.
        leader: who leads; None if nobody does.
    """

    read_as: str = ""
    rows: Sequence[Row] = ()
    stored: list[Stored] = field(default_factory=list)
    streams: list[str] = field(default_factory=list)
    unread: dict[str, str] = field(default_factory=dict)
    dropped: Mapping[str, Dropped] | None = field(default_factory=dict)
    given: bool | None = None
    writers: Sequence[Writer] = ()
    leader: str | None = None
    backlog: int = 0

    @property
    def unseen(self) -> list[str]:
        """The streams that could not be read."""
        return [name for name in self.streams if name in self.unread]


async def look_at_outbox(
    session: Session, schema: str, ref: str, *, prefix: str = "", limit: int = 10
) -> Answer:
    """Ask Postgres; ``prefix`` is RELAY_MESSAGE_ID_PREFIX. Raises StoreOutage, SchemaError."""
    answer = Answer()
    for name, value in database.readings(ref, prefix):
        answer.rows = await database.rows(session, schema, name, value, prefix=prefix, limit=limit)
        if answer.rows:
            answer.read_as = name
            answer.dropped = await _dropped(session, schema, answer.rows)
            break
    else:
        named = dict(database.readings(ref, prefix))
        id_ = int(named["id"]) if "id" in named else None
        answer.given, answer.writers = await database.open_writers(session, schema, id_)
    row = await status(session, schema)
    answer.leader = row["holder"] if row["led"] else None
    answer.backlog = row["backlog"]
    return answer


async def _dropped(
    session: Session, schema: str, rows: Sequence[Row]
) -> Mapping[str, Dropped] | None:
    """Return by event id what a person dropped; None if this login may not see it."""
    settled = [row.event_id for row in rows if row.fate == "settled"]
    if not settled:
        return {}
    try:
        found = await session.rows(load("queries/where_dropped", schema), {"event_ids": settled})
    except SchemaError:  # without the operator's role
        return None
    return {event_id: Dropped(by, at) for event_id, by, at in found}


async def choose_streams(session: Session, schema: str, answer: Answer) -> None:
    """Look in the streams that were ever learnt for the subjects. Raises as above."""
    for subject in dict.fromkeys(row.subject for row in answer.rows):
        for name in await database.streams_of(session, schema, subject):
            if name not in answer.streams:
                answer.streams.append(name)


async def look_at_streams(
    reader: StreamReader,
    answer: Answer,
    ref: str,
    *,
    prefix: str = "",
    since: datetime | None = None,
    copies: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,  # noqa: ARG005
) -> None:
    """Look for the events in the streams of ``answer``, and for what consumers say of them."""
    wanted = {row.event_id for row in answer.rows}
    is_wanted, missing = _matching(ref, prefix, wanted), set(wanted)
    for stream in answer.streams:
        try:
            candidates = _candidates(reader, stream, answer, since, progress)
            async with aclosing(candidates):
                async for batch in candidates:
                    for message in filter(is_wanted, batch):
                        found = _stored(stream, message)
                        answer.stored.append(found)
                        missing.discard(found.event_id)
                    if wanted and not missing and not copies:
                        break
        except StreamError as error:
            answer.unread[stream] = str(error)
            continue
        await _ask_consumers(reader, stream, answer)


async def _candidates(
    reader: StreamReader,
    stream: str,
    answer: Answer,
    since: datetime | None,
    progress: Callable[[int, int], None],
) -> AsyncGenerator[list[Message], None]:
    """Read, without payloads, what may be one of the events that are looked for."""
    start = Start() if since is None else Start(at=since)
    if answer.rows:
        start = Start(at=min(row.created_at for row in answer.rows) - _SKEW)
    subjects = sorted({row.subject for row in answer.rows})
    state = await reader.state(stream)
    total = await reader.count(stream, start, subjects)
    looked = 0
    if total:
        batches = reader.messages(
            stream, start, up_to=float(state.last_seq), subjects=subjects, headers_only=True
        )
        async with aclosing(batches):
            async for batch in batches:
                yield batch
                looked += len(batch)
                progress(looked, total)


def _matching(ref: str, prefix: str, wanted: set[str]) -> Callable[[Message], bool]:
    """Return a test: whether a message is of an event ``wanted``, or without one, named ``ref``."""
    event_id, traceparent = header("Relay-Event-Id"), header("traceparent")
    if wanted:
        return lambda message: event_id(message.headers, b"") in wanted
    read = dict(database.readings(ref, prefix))
    uuid, trace = read.get("event_id", ref), read.get("trace")
    names = (
        (header("Nats-Msg-Id"), {ref, prefix + ref}),
        (event_id, {uuid}),
        (header("Relay-Key"), {ref}),
    )
    raw = {each.encode() for each in (ref, uuid, trace) if each}

    def is_named(message: Message) -> bool:
        headers = message.headers
        if not any(each in headers for each in raw):
            return False
        if trace is not None and trace in (traceparent(headers, b"") or ""):
            return True
        return any(find(headers, b"") in texts for find, texts in names)

    return is_named


def _stored(stream: str, message: Message) -> Stored:
    parsed = parse_message(message)
    assert parsed.stored_at is not None
    return Stored(
        stream, parsed.seq, parsed.stored_at, parsed.event_id, parsed.message_id, parsed.subject
    )


async def _ask_consumers(reader: StreamReader, stream: str, answer: Answer) -> None:
    copies = [each for each in answer.stored if each.stream == stream]
    if not copies:
        return
    try:
        durables = await reader.durables(stream)
    except (StreamError, BusOutage) as error:
        answer.unread[f"consumers of {stream}"] = str(error)
        return
    for copy in copies:
        for each in durables:
            if each.filters and not any(matches(one, copy.subject) for one in each.filters):
                continue
            reached = "delivered" if each.delivered >= copy.seq else "not reached"
            copy.consumers[each.name] = "passed" if each.acked >= copy.seq else reached


def state_of(row: Row, answer: Answer) -> State:
    """Return the state of one of the rows."""
    stored = copies_of(answer, row.event_id)
    if row.fate == "settled":
        return "stored" if stored else _without_copy(row, answer)
    if row.fate == "pending":
        return "in flight" if stored else "pending"
    if row.fate == "dead":
        return "dead"
    if row.held_by:
        return "held"
    return "waiting" if row.next_attempt_at is None else "parked"


def _without_copy(row: Row, answer: Answer) -> State:
    if row.event_id in (answer.dropped or {}):
        return "dropped"
    return "missing" if answer.streams and not answer.unseen else "unknown"


def copies_of(answer: Answer, event_id: str) -> list[Stored]:
    """Return what the streams hold of one event."""
    return [each for each in answer.stored if each.event_id == event_id]
