"""What an outbox costs a database: measured in a schema of its own, which goes again (R-FIRST).

    refuse ──► drop what killed runs left ──► make the schema ──► measure ──► drop it, whatever came

The schema has the outbox, and ``bare``: the same table and indexes without trigger and check. Its
name and its comment say whose it is, and a session's advisory lock says that its run lives: without
the lock the next run drops it. Roles, which the whole cluster sees, are not made.

A bystander commits twenty times a second, as others do, and ends the run when that gets slow. The
server's own clock takes the time, so neither the network nor this process is in it.

WAL is counted by EXPLAIN, statement by statement: what others write meanwhile is not in it. What a
checkpoint adds (full pages) is left out, for it depends on when the last one was.
"""

import logging
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any, Final, NoReturn

import anyio
import psycopg
from psycopg import sql

from relay.errors import RelayError, SchemaError, StoreOutage
from relay.postgres import migrations
from relay.postgres.patience import explained
from relay.postgres.session import Session, clocks_of, translated
from relay.postgres.sqlfiles import MEASURE_CLASS, compose, load, text

START: Final = "relay_measure_"
"""How the schema's name begins; eight hex digits follow."""

COMMENT: Final = "scratch of relay measure, which drops it at its end, or when it next runs"
"""Of the schema. Without it a schema is somebody's own, whatever its name."""

DEAD_ROWS: Final = """
select n_tup_upd + n_tup_del from pg_stat_user_tables
 where relid = (quote_ident(:'schema') || '.outbox')::regclass"""
"""Rows of the outbox that were updated or deleted so far, as the statistics know them."""

_MAKE: Final = 'create schema :"schema"; comment on schema :"schema" is :comment'
_DROP: Final = 'drop schema if exists :"schema" cascade'
_LOCK: Final = "select pg_try_advisory_lock(:class, hashtext(:'schema'))"
_UNLOCK: Final = "select pg_advisory_unlock(:class, hashtext(:'schema'))"
_DATABASE: Final = "select current_database(), current_setting('server_version'), current_user"
_EXPLAIN: Final = sql.SQL("explain (analyze, wal, timing off, buffers off, format json) ")
_INSERT: Final = """
insert into :"schema".:"table" (subject, key, payload)
select 'orders.placed', 'k', :payload::json from generate_series(1, :rows)"""

_CHUNK: Final = 1_000
_CHUNK_BYTES: Final = 4 << 20
_EVERY: Final = 0.05
_SAMPLES: Final = 20
"""Of the bystander: before, and the last ones."""

_SLOWER: Final = 3.0
_SLOWER_BY: Final = 0.005
_NO_ANSWER: Final = 2.0
_DROP_WITHIN: Final = 30.0

log = logging.getLogger("relay.measure")


@dataclass(frozen=True, slots=True)
class Inserted:
    """Events that were written one by one, each its own commit, and explained.

    Attributes:
        wal_bytes: of an INSERT with its indexes, the mean; the commit's own record is not in it.
        seconds: an INSERT took in the server, the median; the commit is not in it.
        events: how many were written.
    """

    wal_bytes: float
    seconds: float
    events: int


@dataclass(frozen=True, slots=True)
class Scratch:
    """A schema with an outbox, over a session that nobody else uses.

    ``database`` is its name, the server's version and the login.
    """

    session: Session
    schema: str
    database: tuple[str, str, str] = ("", "", "")

    async def inserted(
        self, payload: str, events: int, seconds: float, *, table: str = "outbox"
    ) -> Inserted:
        """Write ``events`` one by one, or as many as ``seconds`` allow; what they cost."""
        statement = _EXPLAIN + self._insert(table, payload)
        wal, took = list[int](), list[float]()
        end = time.monotonic() + seconds
        while len(took) < events and (time.monotonic() < end or len(wal) < _SAMPLES):
            row = await self.session.row(statement)
            assert row is not None
            plan: dict[str, Any] = row[0][0]
            took.append(plan["Execution Time"] / 1000)
            if not plan["Plan"]["WAL FPI"]:
                wal.append(plan["Plan"]["WAL Bytes"])
        return Inserted(fmean(wal), median(took), len(took))

    async def fill(self, payload: str, events: int) -> None:
        """Write ``events``, a thousand a commit, or 4 MiB."""
        chunk = max(1, min(_CHUNK, _CHUNK_BYTES // len(payload)))
        for written in range(0, events, chunk):
            rows = min(chunk, events - written)
            await self.session.execute(self._insert("outbox", payload, rows))

    async def commits(self, payload: str, seconds: float) -> dict[str, list[float]]:
        """Commit one event after another into ``outbox`` and ``bare`` by turns; s of each.

        What is timed is what an application waits for: the way there and back as well.
        """
        inserts = {table: self._insert(table, payload) for table in ("outbox", "bare")}
        took: dict[str, list[float]] = {table: [] for table in inserts}
        end = time.monotonic() + seconds
        while time.monotonic() < end or len(took["bare"]) < _SAMPLES:
            for table, insert in inserts.items():
                began = time.perf_counter()
                await self.session.execute(insert)
                took[table].append(time.perf_counter() - began)
        return took

    async def dead_rows(self) -> int:
        """Return how many rows of the outbox were updated or deleted."""
        row = await self.session.row(compose(DEAD_ROWS, self.schema))
        return 0 if row is None else int(row[0])

    def _insert(self, table: str, payload: str, rows: int = 1) -> sql.Composed:
        parts = {'"table"': sql.Identifier(table), "payload": sql.Literal(payload)}
        return compose(_INSERT, self.schema, parts | {"rows": sql.Literal(rows)})


@asynccontextmanager
async def made(dsn: str) -> AsyncIterator[Scratch]:
    """Make a schema for the length of the block.

    Raises:
        SchemaError: this login may not make one.
        RelayError: a subscriber, or a pg_dump, would fail at tables that go.
    """
    async with await Session.connect(dsn, "measure") as session:
        database = await session.row(compose(_DATABASE, ""))
        assert database is not None
        for (why,) in await session.rows(load("measure/refused", "")):
            raise RelayError(f"{why}: measure on a copy of this database, or later")
        await _drop_what_was_left(dsn, session)
        schema = START + secrets.token_hex(4)
        await session.execute(_of(_LOCK, schema))
        who = "have its owner grant create on database {} to {}, for as long as it takes"
        try:
            with explained(who.format(*database[::2])):
                await session.connection.execute(_of(_MAKE, schema), prepare=False)
            await migrations.migrate(dsn, schema, roles=False)
            await session.execute(load("measure/bare", schema))
            yield Scratch(session, schema, database)
        finally:
            with anyio.CancelScope(shield=True):
                await _drop(dsn, schema)


async def _drop_what_was_left(dsn: str, session: Session) -> None:
    """Drop the schemas of runs that were killed."""
    pattern = {"pattern": sql.Literal(f"^{START}[0-9a-f]{{8}}$")}
    for (schema,) in await session.rows(_of(text("measure/left"), "", pattern)):
        if await session.row(_of(_LOCK, schema)) != (True,):
            continue  # its run lives
        try:
            await _drop(dsn, schema)
            log.warning("dropped what a killed run had left", extra={"schema": schema})
        except SchemaError as error:
            log.warning("another login's run has left a schema: %s", error)
        await session.execute(_of(_UNLOCK, schema))


async def _drop(dsn: str, schema: str) -> None:
    """Drop a schema, over a session of its own: the run's may be lost, or hang."""
    local = {"synchronous_commit": "local"}  # no standby holds this commit up
    try:
        async with await Session.connect(dsn, "measure", options=local) as session:
            await session.execute(load("measure/hanging", schema))
            await session.execute(compose(_DROP, schema), deadline=_DROP_WITHIN)
    except StoreOutage as error:
        remedy = f"drop schema {schema} cascade, or measure again, which drops it first"
        raise StoreOutage(f"{error}; the schema is still there: {remedy}") from error


def _of(
    statement: str, schema: str, more: Mapping[str, sql.Composable] | None = None
) -> sql.Composed:
    ours = {"class": sql.Literal(MEASURE_CLASS), "comment": sql.Literal(COMMENT)}
    return compose(statement, schema, {**ours, **(more or {})})


class Bystander:
    """Somebody else's commits. ``before`` and ``now`` are medians in s, as the server saw them."""

    def __init__(self, session: Session) -> None:
        """Commit over ``session``, which nobody else uses."""
        self._session = session
        self._last = deque[float](maxlen=_SAMPLES)
        self.before = self.now = 0.0

    async def begin(self) -> None:
        """Learn how long a commit takes before anything is written."""
        first = []
        for _ in range(_SAMPLES):
            first.append(await self._commit())
            await anyio.sleep(_EVERY)
        self.before = self.now = median(first)

    async def watch(self) -> NoReturn:
        """Commit on until one is slow, or this is cancelled.

        Raises:
            RelayError: others' commits have slowed down.
        """
        while True:
            self._last.append(await self._commit())
            self.now = median(self._last)
            if len(self._last) == _SAMPLES and slow(self.before, self.now):
                _stop(f"took {self.now * 1000:.1f} ms instead of {self.before * 1000:.1f}")
            await anyio.sleep(_EVERY)

    async def _commit(self) -> float:
        try:
            with anyio.fail_after(_NO_ANSWER):
                query = load("measure/commit", "")
                cursor = await self._session.connection.execute(query, prepare=False)
                before, after = await clocks_of(cursor)
        except TimeoutError:
            _stop(f"did not come back within {_NO_ANSWER:g} s")
        except psycopg.Error as error:
            raise translated(error) from error
        return max(0.0, after - before)


def slow(before: float, now: float) -> bool:
    """Say whether a commit that took ``before`` s and takes ``now`` s has slowed down.

    Twice its time is nothing: it waits for the flush of one of ours, and then for its own. And less
    than 5 ms is the noise of a machine that is at work.
    """
    return now > before * _SLOWER and now > before + _SLOWER_BY


def _stop(why: str) -> NoReturn:
    raise RelayError(
        f"stopped, and cleaned up: another session's commit {why}; measure at a quieter hour, or on"
        " a copy of this database"
    )
