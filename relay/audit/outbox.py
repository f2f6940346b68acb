"""The outbox's side: committed rows in pages, ours or another table's by a mapping of its columns.

Every look is one short statement by the primary key, so that no snapshot is held and no vacuum
waits. Ids are given before the commit: a row can appear below those that were read. So the holes
between ids are remembered, and asked for again. A hole that stays open for longer than an hour, or
is one of very many, is given up: what is committed there later is not judged.

Our own outbox says more: which rows are pending, parked or dead, and since when it has every row.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final, NamedTuple

import psycopg
from psycopg import sql

from relay.audit.oracle import Committed
from relay.audit.stream import json_text_digest
from relay.errors import SchemaError, SettingsError
from relay.postgres.connecting import in_words
from relay.postgres.session import Session
from relay.postgres.sqlfiles import load

PAGE: Final = 5_000
PAGE_OF_PAYLOADS: Final = 100
"""Rows of one statement; fewer where payloads come whole, to be compared as JSON."""

_DEADLINE: Final = 60.0
_SCAN_DEADLINE: Final = 600.0
_KEEP_HOLES: Final = 3600.0
_MOST_HOLES: Final = 20_000

_OURS: Final[Mapping[str, str]] = {
    "sequence": "id", "event_id": "event_id", "key": "key", "subject": "subject",
    "written_at": "created_at",
}  # fmt: skip

_ALL: Final = sql.SQL("true")


@dataclass(frozen=True, slots=True)
class Table:
    """Another relay's outbox, by the names of its columns; "" where it has none.

    Attributes:
        name: the table, with its schema in front of a dot unless that is public.
        sequence: a whole number that ascends in the order of writing; the primary key, mostly.
        event_id: what the messages carry.
        payload: text, JSON or bytes.
        written_at: when the row was written, with or without a time zone.
    """

    name: str
    sequence: str = "id"
    event_id: str = "id"
    key: str = ""
    subject: str = ""
    payload: str = ""
    written_at: str = ""


class Kept(NamedTuple):
    """What a table has for certain, though rows may have been deleted.

    Attributes:
        since: rows written, or settled, since then, s since 1970; None: nothing was ever deleted;
            infinity: that can't be told.
        lowest: rows from this event id on, where ids are numbers that ascend; else None.
    """

    since: float | None
    lowest: int | None = None


@dataclass(slots=True)
class OutboxReader:
    """Reads rows in the order of ``sequence``.

    Attributes:
        payload: "bytes", "json" or "no"; "json" once ``begin`` has found a column of jsonb, unless
            it is "no".
        lowest, highest: the sequences of the first and the last row that were read; 0 before.
        rows: how many rows were read.
        exhausted: the last page was not full: there was nothing behind it.
    """

    session: Session
    schema: str
    table: Table | None
    payload: str = "bytes"
    lowest: int = 0
    highest: int = 0
    rows: int = 0
    exhausted: bool = False
    _columns: sql.Composed = field(init=False)
    _source: sql.Composable = field(init=False)
    _sequence: sql.Identifier = field(init=False)
    _event_id: sql.Identifier = field(init=False)
    _holes: list[tuple[int, int, float]] = field(default_factory=list)

    @property
    def _table(self) -> sql.Composed:
        return sql.SQL("{} as o").format(self._source)

    @property
    def _is_hashed(self) -> bool:
        """Whether Postgres sends digests in place of payloads."""
        return self.payload != "json" or self.table is None

    @property
    def is_ours(self) -> bool:
        """Whether it is the outbox of our schema."""
        return self.table is None

    async def begin(self) -> None:
        """Look at the table and its columns.

        Raises:
            SchemaError: there is no such table or column, or this login may not read it.
            SettingsError: a column is of no use for its purpose.
        """
        table = self.table
        if table is None:
            named = dict(_OURS)
            self._source = sql.Identifier(self.schema, "outbox")
            payload: sql.Composable = sql.SQL(
                "coalesce(o.payload_bytes, convert_to(o.payload::text, 'UTF8'))"
            )
        else:
            named = {name: getattr(table, name) for name in _OURS}
            name = table.name if "." in table.name else f"public.{table.name}"
            self._source = sql.Identifier(*name.split("."))
            payload = await self._payload(table)
        self._sequence = sql.Identifier("o", named["sequence"])
        self._event_id = sql.Identifier("o", named["event_id"])
        text = sql.SQL("{}::text")
        digest = _digest_of(payload) if self._is_hashed else payload
        columns: list[sql.Composable] = [
            text.format(self._event_id),
            text.format(_column(named["key"])),
            sql.SQL("{}::bigint").format(self._sequence),
            digest if self.payload != "no" else sql.SQL("null::text"),
            text.format(_column(named["subject"])),
            sql.SQL("o.xid::text::bigint" if table is None else "null::bigint"),
            sql.SQL("date_part('epoch', {})").format(
                sql.SQL("{}::timestamptz").format(_column(named["written_at"]))
            ),
            await self._committed_at(),
        ]
        self._columns = sql.SQL(", ").join(columns)
        await self._rows(self._table, sql.SQL("false").format(), {}, limit=1)

    async def now(self) -> float:
        """Return the database's clock, s since 1970."""
        query = sql.SQL("select date_part('epoch', clock_timestamp())").format()
        row = await self.session.row(query)
        assert row is not None
        return float(row[0])

    async def page(self) -> list[Committed]:
        """Return the next rows, at most ``PAGE``."""
        behind = sql.SQL("{} > %(last)s").format(self._sequence)
        most = PAGE if self._is_hashed else PAGE_OF_PAYLOADS
        found = await self._rows(self._table, behind, {"last": self.highest}, limit=most)
        self.exhausted = len(found) < most
        if found:
            self._note_holes(found)
            self.lowest = self.lowest or found[0].sequence
            self.highest = found[-1].sequence
            self.rows += len(found)
        return found

    async def late(self, now: float) -> list[Committed]:
        """Return rows that have appeared in holes, and give up old holes."""
        self._holes = [each for each in self._holes if each[2] > now - _KEEP_HOLES]
        del self._holes[:-_MOST_HOLES]
        if not self._holes:
            return []
        lows, highs = ([each[n] for each in self._holes] for n in (0, 1))
        # Hole by hole, by the key's index: as a plain join each row is held against each hole.
        holes = sql.SQL(
            "unnest(%(lows)s::bigint[], %(highs)s::bigint[]) as h (low, high) cross join lateral"
            " (select * from {} as o where {} between h.low and h.high order by {} limit {}) as o"
        ).format(self._source, self._sequence, self._sequence, sql.Literal(PAGE))
        found = await self._rows(holes, _ALL, {"lows": lows, "highs": highs})
        self._fill_holes([each.sequence for each in found])
        self.rows += len(found)
        return found

    async def fates(self, sequences: Sequence[int]) -> dict[int, str]:
        """Return what our relay says of each row; of another's, nothing."""
        if not self.is_ours:
            return {}
        query = load("queries/audit_fates", self.schema)
        rows = await self.session.rows(query, {"ids": list(sequences)}, deadline=_DEADLINE)
        fates = {int(id_): str(fate) for id_, fate in rows}
        gone = [id_ for id_, fate in fates.items() if fate in ("settled", "gone")]
        try:
            query = load("queries/audit_dropped", self.schema)
            for (id_,) in await self.session.rows(query, {"ids": gone}):
                fates[int(id_)] = "dropped"
        except SchemaError:
            pass  # without the operator's role: what a person dropped shows as lost
        return fates

    async def known(self, event_ids: Sequence[str]) -> set[str]:
        """Return those of ``event_ids`` that the table has now. Walks the table."""
        query = sql.SQL("select {id}::text from {source} as o where {id}::text = any(%(ids)s)")
        query_ = query.format(id=self._event_id, source=self._source)
        params = {"ids": list(event_ids)}
        return {row[0] for row in await self.session.rows(query_, params, deadline=_SCAN_DEADLINE)}

    async def kept(self) -> "Kept":
        """Say what of the table can't have been deleted."""
        if self.is_ours:
            row = await self.session.row(load("queries/audit_horizon", self.schema))
            return Kept(None if row is None else row[0])
        first = await self._rows(self._table, _ALL, {}, limit=1)
        if not first:
            return Kept(math.inf)
        lowest, written_at = first[0].sequence, first[0].written_at
        if lowest == 1:
            return Kept(None)
        is_sequence = self.table is not None and self.table.event_id == self.table.sequence
        since = math.inf if written_at is None else written_at
        return Kept(since, lowest if is_sequence else None)

    async def _rows(
        self,
        source: sql.Composable,
        condition: sql.Composable,
        params: Mapping[str, Any],
        *,
        limit: int = PAGE,
    ) -> list[Committed]:
        query = sql.SQL("select {} from {} where {} order by {} limit {}").format(
            self._columns, source, condition, self._sequence, sql.Literal(limit)
        )
        try:
            rows = await self.session.rows(query, params, deadline=_DEADLINE)
        except (psycopg.DataError, SchemaError) as error:
            raise self._unfit(error) from error
        made = Committed._make
        if not self._is_hashed:
            return [
                made(row)._replace(digest=json_text_digest(row[3]) if row[3] else None)
                for row in rows
            ]
        return list(map(made, rows))

    def _unfit(self, error: Exception) -> Exception:
        """Return what to raise where the table can't be read as it is described."""
        cause = error if isinstance(error, psycopg.Error) else error.__cause__
        if self.table is None or not isinstance(cause, psycopg.Error):
            return error
        return SettingsError([f"table {self.table.name}, as it is mapped: {in_words(cause)}"])

    async def _payload(self, table: Table) -> sql.Composable:
        """Return an expression for the payload: bytes, or text if it is compared as JSON."""
        if not table.payload:
            self.payload = "no"
            return sql.SQL("null::bytea")
        # An empty table has the type too. ``coalesce`` with a null turns a domain into its base.
        query = sql.SQL(
            "select pg_typeof(coalesce((select {} from {} as o limit 1), null))::text"
        ).format(_column(table.payload), self._source)
        row = await self.session.row(query)
        assert row is not None
        kind = row[0]
        if kind == "jsonb":
            self.payload = "json" if self.payload == "bytes" else self.payload
        column = _column(table.payload)
        if self.payload == "json":
            as_text = "convert_from({}, 'UTF8')" if kind == "bytea" else "{}::text"
            return sql.SQL(as_text).format(column)
        return sql.SQL("{}" if kind == "bytea" else "convert_to({}::text, 'UTF8')").format(column)

    async def _committed_at(self) -> sql.Composable:
        """Return an expression for when it had been committed: now, or before if that is kept."""
        if self.is_ours:
            query = sql.SQL("select current_setting('track_commit_timestamp')").format()
            row = await self.session.row(query)
            if row is not None and row[0] == "on":
                kept = "coalesce(pg_xact_commit_timestamp(o.xid::xid), clock_timestamp())"
                return sql.SQL(f"date_part('epoch', {kept})")
        return sql.SQL("date_part('epoch', clock_timestamp())")

    def _note_holes(self, found: Sequence[Committed]) -> None:
        before = self.highest or max(0, found[0].sequence - 1 - _MOST_HOLES)
        if found[-1].sequence - before == len(found):
            return
        for row in found:
            if row.sequence > before + 1:
                at = float("inf") if row.written_at is None else row.written_at
                self._holes.append((before + 1, row.sequence - 1, at))
            before = row.sequence

    def _fill_holes(self, filled: Sequence[int]) -> None:
        """Take what has appeared, in the order of sequence, out of the holes."""
        left = list[tuple[int, int, float]]()
        for low, high, at in self._holes:
            inside = filled[bisect_left(filled, low) : bisect_right(filled, high)]
            for before, after in pairwise([low - 1, *inside, high + 1]):
                if after - before > 1:
                    left.append((before + 1, after - 1, at))
        self._holes = left


def _column(name: str) -> sql.Composable:
    return sql.Identifier("o", name) if name else sql.SQL("null")


def _digest_of(payload: sql.Composable) -> sql.Composed:
    """Return the SQL of ``oracle.digest``."""
    return sql.SQL("left(encode(sha256({}), 'hex'), 32)").format(payload)
