"""Parked and dead events as a person meets them: find, look, retry, drop.

    dead ──retry──► live again, tried at once, under a new message id
         ──drop───► gone; a line of relay.decision is all that stays

Who is right: the rows. A decision locks the events it is about, looks at them again under the lock,
and writes its line of audit in the same transaction: of two people who decide on one event at the
same moment the first one wins, and the second finds it as the first has left it. Only dead events
are decided on: a live one may be on its way to the stream at that very moment.

Many events are decided on in chunks, each a transaction, in the order of id. On failure the chunks
before are done and say so, and nothing of the one under way is.
"""

import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any, Final, Literal, Self

from psycopg import errors

from relay.errors import SchemaError, SettingsError
from relay.postgres import migrations
from relay.postgres.session import Session
from relay.postgres.sqlfiles import load

CHUNK_ROWS: Final = 500
"""Events in one transaction: it holds locks that the relay may wait for."""

LOOK_DEADLINE: Final = 60.0
"""Seconds for a look over all parked events, which nobody else waits for."""

_LITERAL: Final = re.compile(r"[!-/:-@\[-`{-~]")
"""What a backslash before it makes literal; before a letter or digit it would make an escape."""

Action = Literal["retry", "drop"]


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
class Letter:
    """One parked event, without its payload; instants are aware UTC.

    Attributes:
        retries: how often a person asked for a retry.
        next_attempt_at: None if it is dead or waits for an earlier event of its key.
        dead_at: None while it is tried again by itself.
        held_by: the outage that holds it up; "" if none does.
        waits_for: the id of the parked event of its key that goes first.
    """

    id: int
    event_id: str
    subject: str
    key: str | None
    attempts: int
    retries: int
    created_at: datetime
    first_refused_at: datetime
    last_refused_at: datetime
    next_attempt_at: datetime | None
    dead_at: datetime | None
    held_by: str
    error: str
    code: int | None
    waits_for: int | None

    @property
    def state(self) -> str:
        """One word: dead, held, waiting (for its key) or retrying."""
        if self.dead_at is not None:
            return "dead"
        if self.held_by:
            return "held"
        return "waiting" if self.next_attempt_at is None else "retrying"


_COLUMNS: Final = len(fields(Letter))
"""Both queries begin with these, in their order."""


@dataclass(frozen=True, slots=True)
class Found:
    """The first letters, how many match in all, and the database's clock at that moment."""

    letters: Sequence[Letter]
    total: int
    as_of: datetime | None


@dataclass(frozen=True, slots=True)
class ParkedKey:
    """A key of which events wait alive, and the first of them: the others wait for that one.

    Attributes:
        key: None for all events that have none.
        events: how many wait.
        id, subject, attempts, next_attempt_at, held_by, error: of the first one, as in ``Letter``.
    """

    key: str | None
    events: int
    id: int
    subject: str
    attempts: int
    next_attempt_at: datetime | None
    held_by: str
    error: str


@dataclass(frozen=True, slots=True)
class Whole:
    """One parked event with everything.

    Attributes:
        message_id: under which it is tried next.
        retried_by, retried_at: who asked for the last retry, and when.
        errors: the latest ones, each with at, attempt, code and error; the newest last.
        is_json: whether the payload was given as JSON, or as bytes.
    """

    letter: Letter
    message_id: str
    retried_at: datetime | None
    retried_by: str | None
    headers: Mapping[str, str] | None
    errors: Sequence[Mapping[str, Any]]
    is_json: bool
    payload: bytes


@dataclass(frozen=True, slots=True)
class Decision:
    """One line of the audit."""

    decided_at: datetime
    decided_by: str
    action: Action
    parked_id: int
    attempts: int
    last_error: str


class DeadLetters:
    """The parked events of one outbox. Make it by ``async with DeadLetters.open(...)``."""

    def __init__(self, session: Session, schema: str) -> None:
        """Look through an open session; ``open`` makes one, and checks the schema first."""
        self._session = session
        self._keys = load("queries/parked_keys", schema)
        self._list = load("queries/dead_list", schema)
        self._show = load("queries/dead_show", schema)
        self._decisions = load("queries/dead_decisions", schema)
        self._pick = load("queries/dead_pick", schema)
        self._retry = load("queries/dead_retry", schema)
        self._lock = load("queries/dead_lock", schema)
        self._drop = load("queries/dead_drop", schema)
        self._promote = load("queries/promote", schema)

    @classmethod
    @asynccontextmanager
    async def open(cls, dsn: str, schema: str) -> AsyncIterator[Self]:
        """Connect as this login, which needs the operator's role.

        Raises:
            StoreOutage: the database is away, or a statement got no answer.
            SchemaError: the schema is not as required, or this login may not do this.
            SettingsError: a regular expression can't be used.
        """
        async with await Session.connect(dsn, "operator") as session:
            try:
                await migrations.verify(session.connection, schema)
                yield cls(session, schema)
            except SchemaError as error:
                if isinstance(error.__cause__, errors.InsufficientPrivilege):
                    told = " ".join(str(error.__cause__).split())
                    raise SchemaError(
                        f'{told}: grant the role "{schema}_operator" to this login'
                    ) from error
                raise
            except errors.InvalidRegularExpression as error:
                told = " ".join(str(error).split())
                raise SettingsError([f"--error-regex can't be used: {told}"]) from None

    async def find(self, wanted: Wanted, limit: int) -> Found:
        """Return the first ``limit`` of what matches, in the order of id."""
        rows = await self._session.rows(
            self._list, {**_params(wanted), "limit_rows": limit}, deadline=LOOK_DEADLINE
        )
        if not rows:
            return Found([], 0, None)
        total, as_of = rows[0][_COLUMNS:]
        return Found([Letter(*row[:_COLUMNS]) for row in rows], total, as_of)

    async def keys(self, limit: int) -> Sequence[ParkedKey]:
        """Return the first ``limit`` keys that wait; with very many events waiting, a part."""
        rows = await self._session.rows(self._keys, {"limit_rows": limit})
        return [ParkedKey(*row) for row in rows]

    async def show(self, ref: str) -> Sequence[Whole]:
        """Return the event of this id or event_id; two if the event_id is not its own alone."""
        rows = await self._session.rows(self._show, _named(ref), deadline=LOOK_DEADLINE)
        return [Whole(Letter(*row[:_COLUMNS]), *row[_COLUMNS:]) for row in rows]

    async def decisions(self, ref: str) -> Sequence[Decision]:
        """Return what was decided on this id or event_id, the event itself gone or not."""
        rows = await self._session.rows(self._decisions, _named(ref), deadline=LOOK_DEADLINE)
        return [Decision(*row) for row in rows]

    async def decide(
        self,
        action: Action,
        which: Wanted | Sequence[int],
        *,
        by: str,
        as_of: datetime,
        done: Callable[[Sequence[int]], None],
    ) -> None:
        """Retry or drop those of ``which`` that were dead at ``as_of`` and still are.

        Args:
            action: what to do.
            which: whom to do it to; or their ids.
            by: who decides, beside the login.
            as_of: the database's clock when the person looked.
            done: told the ids of each chunk once it is committed.
        """
        async for ids in self._chunks(which, as_of):
            decided = await self._decide_chunk(action, {"ids": ids, "as_of": as_of, "by": by})
            if decided:
                done(decided)

    async def _chunks(
        self, which: Wanted | Sequence[int], as_of: datetime
    ) -> AsyncIterator[list[int]]:
        """Yield ids in their order, some at a time."""
        if not isinstance(which, Wanted):
            ordered = sorted(which)
            for first in range(0, len(ordered), CHUNK_ROWS):
                yield ordered[first : first + CHUNK_ROWS]
            return
        params = _params(which) | {"as_of": as_of, "limit_rows": CHUNK_ROWS, "after": 0}
        while True:
            walked = await self._session.rows(self._pick, params)
            if meant := [id_ for id_, is_meant in walked if is_meant]:
                yield meant
            if len(walked) < CHUNK_ROWS:
                return
            params["after"] = walked[-1][0]

    async def _decide_chunk(self, action: Action, params: dict[str, Any]) -> list[int]:
        """Decide in one transaction; return the ids to which it was done."""
        async with self._session.transaction():
            if action == "retry":
                return [id_ for id_, _ in await self._session.rows(self._retry, params)]
            await self._session.rows(self._lock)
            dropped = await self._session.rows(self._drop, params)
            keys = sorted({key for _, key in dropped if key is not None})
            # As if the dead blocked: where they do not, what is behind one is due already.
            await self._session.rows(self._promote, {"keys": keys, "dead_blocks": True})
            return [id_ for id_, _ in dropped]


def _params(wanted: Wanted) -> dict[str, Any]:
    params = asdict(wanted)
    params["subject"] = None if wanted.subject is None else regex_of(wanted.subject)
    params["ids"] = None if wanted.ids is None else list(wanted.ids)
    params["event_ids"] = list(wanted.event_ids or ())
    return params


def _named(ref: str) -> dict[str, Any]:
    return {
        "id": int(ref) if ref.isdigit() else None,
        "event_id": None if ref.isdigit() else ref,
    }


def regex_of(pattern: str) -> str:
    """Return Postgres's regular expression for ``relay.core.subjects.matches`` of ``pattern``."""
    parts = pattern.split(".")
    told = ["[^.]+" if part == "*" else _LITERAL.sub(r"\\\g<0>", part) for part in parts]
    if parts[-1] == ">":
        told[-1] = ".+"
    return "^" + r"\.".join(told) + "$"
