"""Parked and dead events as a person meets them: find, look, retry, drop.

    dead ──retry──► live again, tried at once, under a new message id
         ──drop───► gone; a line of relay.decision is all that stays

Who is right: the rows. The SQL functions ``retry_dead`` and ``drop_dead`` lock the events they are
about, look at them again under the lock, and write the audit, with the login's name, in the same
transaction: of two people who decide on one event at the same moment the first one wins, and the
second finds the event as the first has left it. Only dead events are decided on: a live one may be
on its way to the stream at that very moment. A person has no other way to write what is parked.

Subject, key and errors stand with the parked event; headers and payload in the outbox's row. Where
somebody deleted that row, ``is_gone`` says so: the event can only be dropped.

Many events are decided on in chunks, each a transaction, in the order of id. On failure the chunks
before are done and say so, and nothing of the one under way is.
"""

import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, Self
from uuid import UUID

import psycopg
from psycopg import errors
from psycopg.types.datetime import TimestamptzBinaryLoader

from relay.errors import SettingsError
from relay.postgres.operating import operator_session
from relay.postgres.session import Session
from relay.postgres.sqlfiles import load

CHUNK_ROWS: Final = 500
"""Events in one transaction: it holds locks that the relay may wait for."""

LOOK_DEADLINE: Final = 60.0
"""Seconds for a look over all parked events, which nobody else waits for."""

_LITERAL: Final = re.compile(r"[!-/:-@\[-`{-~]")
"""What a backslash before it makes literal; before a letter or digit it would make an escape."""

Action = Literal["retry", "drop"]

Instant = datetime | str
"""Aware UTC; Postgres's text for what Python's datetime can't hold, which an owner may write."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which parked events are meant: those that fulfil all that is given.

    Attributes:
        parked: the live ones as well, not the dead alone.
        subject: a NATS pattern.
        key: the key, exactly.
        error: a part of the last error, in any case.
        error_regex: a regular expression of Postgres that the last error matches, in any case.
        code: JetStream's err_code of the last error.
        older_than, newer_than: s since the event died or, alive, since it was parked.
        ids, event_ids: only those that one of the two names.
    """

    parked: bool = False
    subject: str | None = None
    key: str | None = None
    error: str | None = None
    error_regex: str | None = None
    code: int | None = None
    older_than: float | None = None
    newer_than: float | None = None
    ids: Sequence[int] | None = None
    event_ids: Sequence[str] | None = None


@dataclass(frozen=True, slots=True)
class ParkedEvent:
    """One parked event, without headers and payload.

    Attributes:
        retries: how often a person asked for a retry.
        next_attempt_at: None if it is dead or waits for an earlier event of its key.
        dead_at: None while it is tried again by itself.
        held_by: the outage that holds it up; "" if none does.
        waits_for: the id of the parked event of its key that goes first.
        is_gone: the outbox has its row no more.
    """

    id: int
    event_id: str
    subject: str
    key: str | None
    attempts: int
    retries: int
    created_at: Instant
    first_refused_at: Instant
    last_refused_at: Instant
    next_attempt_at: Instant | None
    dead_at: Instant | None
    held_by: str
    error: str
    code: int | None
    waits_for: int | None
    is_gone: bool

    @property
    def state(self) -> str:
        """One word: dead, held, waiting (for its key) or retrying."""
        if self.dead_at is not None:
            return "dead"
        if self.held_by:
            return "held"
        return "waiting" if self.next_attempt_at is None else "retrying"


_COLUMNS: Final = len(fields(ParkedEvent))
"""``dead_list`` and ``dead_show`` begin with these, in their order."""


@dataclass(frozen=True, slots=True)
class Found:
    """The first events, how many match in all, and the database's clock at that moment."""

    events: Sequence[ParkedEvent]
    total: int
    as_of: datetime | None


@dataclass(frozen=True, slots=True)
class ParkedKey:
    """A key of which events wait alive, and the first of them: the others wait for that one.

    ``key`` is None for all events that have none; the last six speak of the first event.
    """

    key: str | None
    events: int
    id: int
    subject: str
    attempts: int
    next_attempt_at: Instant | None
    held_by: str
    error: str


@dataclass(frozen=True, slots=True)
class Whole:
    """One parked event with everything.

    Attributes:
        message_id: under which it is tried next; None if the outbox's row is gone.
        retried_by, retried_at: who asked for the last retry, and when.
        errors: the latest ones, each with at, attempt, code and error; the newest last.
        headers: the producer's own; None if there are none, or the outbox's row is gone.
        is_json: whether the payload was given as JSON, or as bytes.
        payload: None if the outbox's row is gone.
    """

    event: ParkedEvent
    message_id: str | None
    retried_at: Instant | None
    retried_by: str | None
    errors: Sequence[Mapping[str, Any]]
    headers: Mapping[str, str] | None
    is_json: bool | None
    payload: bytes | None


@dataclass(frozen=True, slots=True)
class Decision:
    """One line of the audit."""

    decided_at: Instant
    decided_by: str
    action: Action
    parked_id: int
    attempts: int
    last_error: str


class DeadEvents:
    """The parked events of one outbox. Make it by ``async with DeadEvents.open(...)``."""

    def __init__(self, session: Session, schema: str, *, message_id_prefix: str = "") -> None:
        """Look through an open session; ``open`` makes one, and checks the schema first."""
        self._session = session
        self._schema = schema
        self._prefix = message_id_prefix
        session.connection.adapters.register_loader("timestamptz", _InstantLoader)

    @classmethod
    @asynccontextmanager
    async def open(
        cls, dsn: str, schema: str, *, message_id_prefix: str = ""
    ) -> AsyncIterator[Self]:
        """Connect as ``operator_session`` does, and raise as it does.

        Raises:
            SettingsError: a regular expression can't be used.
        """
        async with operator_session(dsn, schema) as session:
            try:
                yield cls(session, schema, message_id_prefix=message_id_prefix)
            except errors.InvalidRegularExpression as error:
                reason = " ".join(str(error).split())
                raise SettingsError([f"--error-regex can't be used: {reason}"]) from None

    async def find(self, wanted: Wanted, limit: int) -> Found:
        """Return the first ``limit`` of what matches, in the order of id."""
        rows = await self._look("dead_list", _params(wanted) | {"limit_rows": limit})
        if not rows:
            return Found([], 0, None)
        total, as_of = rows[0][_COLUMNS:]
        return Found([ParkedEvent(*row[:_COLUMNS]) for row in rows], total, as_of)

    async def keys(self, limit: int) -> Sequence[ParkedKey]:
        """Return the first ``limit`` keys that wait; with very many events waiting, a part."""
        return [ParkedKey(*row) for row in await self._look("parked_keys", {"limit_rows": limit})]

    async def show(self, ref: str) -> Sequence[Whole]:
        """Return the event of this id or event_id; two if the id is not its own alone."""
        rows = await self._look("dead_show", _named(ref) | {"prefix": self._prefix})
        return [Whole(ParkedEvent(*row[:_COLUMNS]), *row[_COLUMNS:]) for row in rows]

    async def decisions(self, ref: str) -> Sequence[Decision]:
        """Return what was decided on this id or event_id, the event itself gone or not."""
        return [Decision(*row) for row in await self._look("dead_decisions", _named(ref))]

    async def decide(
        self,
        action: Action,
        which: Wanted | Sequence[ParkedEvent],
        *,
        by: str,
        as_of: datetime,
        done: Callable[[Sequence[int]], None],
        pause: float = 0.0,
    ) -> None:
        """Retry or drop those of ``which`` that were dead at ``as_of`` and still are.

        Args:
            action: what to do.
            which: the events that are meant; or events that were found.
            by: who decides, beside the login.
            as_of: the database's clock when the person looked.
            done: takes the ids of each chunk once it is committed.
            pause: s until they are tried; all of them are one chunk then, for they are one key's,
                whose live events must not pass between two chunks.
        """
        query = load(f"queries/dead_{action}", self._schema)
        chunks = self._chunks(which, as_of)
        async for event_ids in _joined(chunks) if pause else chunks:
            params = {"event_ids": event_ids, "as_of": as_of, "by": by, "pause": pause}
            rows = await self._session.rows(query, params)
            if rows:
                done(sorted(id_ for (id_,) in rows))

    async def _chunks(
        self, which: Wanted | Sequence[ParkedEvent], as_of: datetime
    ) -> AsyncIterator[list[str]]:
        """Yield event_ids in the order of id, some at a time."""
        if not isinstance(which, Wanted):
            ordered = [each.event_id for each in sorted(which, key=lambda each: each.id)]
            for first in range(0, len(ordered), CHUNK_ROWS):
                yield ordered[first : first + CHUNK_ROWS]
            return
        params = _params(which) | {"as_of": as_of, "limit_rows": CHUNK_ROWS}
        params |= {"after": 0, "after_event": str(UUID(int=0))}
        query = load("queries/dead_pick", self._schema)
        while True:
            walked = await self._session.rows(query, params)
            if meant := [event_id for _, event_id, is_meant in walked if is_meant]:
                yield meant
            if len(walked) < CHUNK_ROWS:
                return
            params["after"], params["after_event"] = walked[-1][:2]

    async def _look(self, name: str, params: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        query = load(f"queries/{name}", self._schema)
        return await self._session.rows(query, params, deadline=LOOK_DEADLINE)


class _InstantLoader(TimestamptzBinaryLoader):
    """Loads an ``Instant``: text where psycopg's own loader raises DataError."""

    def load(self, data: Any) -> Any:
        try:
            return super().load(data)
        except psycopg.DataError:
            return _as_text(int.from_bytes(data, signed=True))


def _as_text(micros: int) -> str:
    """Return Postgres's text for microseconds since 2000, beyond the years 1 to 9999."""
    if micros in (-(1 << 63), (1 << 63) - 1):
        return "infinity" if micros > 0 else "-infinity"
    # The Gregorian calendar repeats every 400 years, which are 146,097 days.
    cycles, rest = divmod(micros, 146_097 * 86_400 * 1_000_000)
    at = datetime(2000, 1, 1, tzinfo=UTC) + timedelta(microseconds=rest)
    year = at.year + 400 * cycles
    text = f"{year if year > 0 else 1 - year:04}-{at:%m-%d %H:%M:%S}+00"
    return text if year > 0 else f"{text} BC"


def _params(wanted: Wanted) -> dict[str, Any]:
    params = asdict(wanted)
    params["subject"] = None if wanted.subject is None else regex_of(wanted.subject)
    params["ids"] = None if wanted.ids is None else list(wanted.ids)
    params["event_ids"] = list(wanted.event_ids or ())
    return params


async def _joined(chunks: AsyncIterator[list[str]]) -> AsyncIterator[list[str]]:
    yield [event_id async for chunk in chunks for event_id in chunk]


def _named(ref: str) -> dict[str, Any]:
    is_id = ref.isdigit()
    return {"id": int(ref) if is_id else None, "event_id": None if is_id else ref}


def regex_of(pattern: str) -> str:
    """Return Postgres's regular expression for ``relay.core.subjects.matches`` of ``pattern``."""
    parts = pattern.split(".")
    tokens = ["[^.]+" if part == "*" else _LITERAL.sub(r"\\\g<0>", part) for part in parts]
    if parts[-1] == ">":
        tokens[-1] = ".+"
    return "^" + r"\.".join(tokens) + "$"
