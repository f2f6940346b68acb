"""Reading the outbox page by page, each committed event once (R-PHANTOM).

``id`` order is not commit order, so "id > last" loses events. The cursor is a snapshot instead (the
method of PgQ): everything that ``base`` sees has been read. What is new since is read in one of two
modes:

    small    target is None    all that is new fits one page; then that read's snapshot is the base
    window   target is set     too much for one page: all that became visible between base and
                               target is paged through by id; when the pages end, base = target

A window's pages are found in one of two ways:

    at most FEW events   their ids by the index of what is new, then the pages of these ids
    more                 along the primary key, LOOKS ids at a time; where that brings little, the
                         next FEW ids by the index again

Every statement is bounded in rows looked at, not only in rows returned. A transaction that commits
late may stand millions of delivered rows before the rest of its window: those are not walked.

The position to read on from lives in memory, ahead of the settled one; only a settlement writes the
cursor row. A read that fails leaves the position where it was. A row that can't be read or decoded
becomes an event with its id, event_id and key, and nothing to publish; the page says why (R-FATE).
"""

import heapq
import json
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

import psycopg

from relay.core.event import Event
from relay.errors import StoreOutage
from relay.ports import NO_TRANSACTION, Page
from relay.postgres.session import Session
from relay.postgres.sqlfiles import load

FEW: Final = 20_000
LOOKS: Final = 20_000

PLANS: Final = {
    # The access paths are known, whatever the statistics of a fresh table say; a test holds the
    # plans against a million rows of either kind.
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_indexscan": "on",
    "enable_indexonlyscan": "on",
    "enable_nestloop": "on",
    "enable_sort": "on",
    "enable_incremental_sort": "on",
    "plan_cache_mode": "force_generic_plan",
}

BEGINNING: Final = "1:1:"
"""The snapshot that sees no transaction at all: everything is new."""

UNDECODABLE: Final = (psycopg.DataError, ValueError, TypeError, OverflowError, RecursionError)

_LONG_AGO: Final = datetime(1970, 1, 1, tzinfo=UTC)
_ID, _EVENT_ID, _KEY, _RUNNING_BYTES = 0, 1, 4, 8
"""Columns of the statements that return events; the last one of ``page`` and ``page_of`` alone."""

GONE: Final = "its row is no longer in the outbox: somebody deleted it, and its payload with it"


@dataclass(frozen=True, slots=True)
class Position:
    """A place between two events; snapshots as Postgres prints them (``xmin:xmax:xip,...``).

    Attributes:
        base: everything it sees has been read.
        target: the window's end, or None outside a window.
        last_id: the last id read of the window; 0 outside one.
    """

    base: str = BEGINNING
    target: str | None = None
    last_id: int = 0


class Reader:
    """Reads pages behind ``position`` over one session of its own."""

    def __init__(
        self, session: Session, schema: str, position: Position, *, page_bytes: int, prefix: str
    ) -> None:
        """Read on from ``position``; a page ends when it reaches ``page_bytes``."""
        self.position = position
        self.session = session
        self._prefix = prefix
        self._page_bytes = page_bytes
        self._recent = load("queries/recent", schema)
        self._window = load("queries/window", schema)
        self._page = load("queries/page", schema)
        self._page_of = load("queries/page_of", schema)
        self._ahead = load("queries/ahead", schema)
        self._event = load("queries/event", schema)
        self._top_id = load("queries/top_id", schema)
        self._cursor: psycopg.AsyncCursor[Any] | None = None
        # Of the window under way: its next ids, whether they are all that is left of it, the id
        # above which it has no row (None: not known), and whether a row of it was unreadable.
        self._ids: deque[int] = deque()
        self._ids_are_all = False
        self._top: int | None = None
        self._bare, self._resumed = False, position.target is not None

    async def read(self, limit: int) -> Page:
        """Return the next page of at most ``limit`` events; empty if nothing is new.

        An empty page can carry a position: the end of a window. Raises as ``Session.execute``.
        """
        if self.position.target is None:
            page = await self._read_recent(limit)
            if page is not None:
                return page
        page = await self._read_window(limit)
        if page.events:
            return page
        newer = await self._read_recent(limit)  # the window ended with a full page, or was empty
        return replace(page, full=newer is None) if newer is None or not newer.events else newer

    async def _read_recent(self, limit: int) -> Page | None:
        """Read all that is new, or begin a window and return None if that is too much."""
        params = self._params({"limit_rows": limit})
        try:
            cursor = await self.session.execute(self._recent, params, cursor=self._cursor)
        except (psycopg.Error, StoreOutage) as error:
            if not is_unreadable(error):
                raise
            await self._begin_window(bare=True)
            return None
        self._cursor = cursor
        head = await cursor.fetchone()
        assert head is not None
        *_, snapshot, overflow = head
        if overflow:
            await self._begin_window()
            return None
        events, reasons = await _decoded(cursor)
        # Even an empty read moves the position: a base with no transactions in flight reads faster.
        self.position = Position(snapshot)
        position = self.position if events else None
        return Page(events, position, len(events) == limit, _xmin(snapshot), reasons)

    async def _begin_window(self, *, bare: bool = False) -> None:
        """Fix the window's end, and learn its ids if they are few."""
        row = await self.session.row(self._window, {"base": self.position.base, "few": FEW})
        assert row is not None
        target, ids, first_id, self._top = row
        self._ids, self._ids_are_all, self._bare = deque(ids or ()), ids is not None, bare
        first_id = self._ids[0] if self._ids else first_id or 0
        self.position = Position(self.position.base, target, first_id - 1)

    async def _read_window(self, limit: int) -> Page:
        """Read the window's next page; behind the last one, end the window."""
        if self._top is None:  # read on within a window of another process
            row = await self.session.row(self._top_id)
            self._top = 0 if row is None or row[0] is None else int(row[0])
        while self._ids or not (self._ids_are_all or self.position.last_id >= self._top):
            ids = [self._ids[number] for number in range(min(limit, len(self._ids)))]
            page = await (self._page_of_ids(ids) if ids else self._walk(limit, self._top))
            if page is not None:
                return page
        self._end_window()
        return Page((), self.position, full=False, xmin=_xmin(self.position.base))

    async def _page_of_ids(self, ids: list[int]) -> Page | None:
        """Read the events of ``ids``, the window's next ones."""
        last = ids[-1]
        if last - ids[0] < LOOKS:  # close together: a range is cheaper
            place = {"last_id": ids[0] - 1, "up_to": last, "limit_rows": len(ids)}
            events, reasons, cut = await self._fetch(self._page, place)
        else:
            events, reasons, cut = await self._fetch(self._page_of, {"ids": ids})
        reached = events[-1].id if cut else last
        while self._ids and self._ids[0] <= reached:
            self._ids.popleft()
        return self._passed(events, reasons, reached)

    async def _walk(self, limit: int, top: int) -> Page | None:
        """Read the window's next events along the primary key; None if there are none here."""
        up_to = min(self.position.last_id + LOOKS, top)
        place = {"last_id": self.position.last_id, "up_to": up_to, "limit_rows": limit}
        events, reasons, cut = await self._fetch(self._page, place)
        if cut or len(events) == limit:
            return self._passed(events, reasons, events[-1].id)
        if up_to < top:
            await self._look_ahead(up_to)
        return self._passed(events, reasons, up_to)

    def _passed(self, events: list[Event], reasons: dict[int, str], reached: int) -> Page | None:
        """Move on behind ``reached``; the page, unless it is empty."""
        base, target = self.position.base, self.position.target
        assert target is not None
        self.position = Position(base, target, reached)
        if not events:
            return None
        ended = not self._ids and (self._ids_are_all or reached >= (self._top or 0))
        full = not ended or self._resumed  # behind another process's window it may have read on
        if ended:
            self._end_window()
        return Page(events, self.position, full, _xmin(target), reasons)

    def _end_window(self) -> None:
        assert self.position.target is not None
        self.position = Position(self.position.target)
        self._ids, self._ids_are_all, self._top = deque(), False, None
        self._bare = self._resumed = False

    async def _look_ahead(self, last_id: int) -> None:
        """Learn the window's next FEW ids behind ``last_id``: of late transactions, then the rest.

        One pass over the index of what is new, in bounded pieces, saves a walk past the delivered.
        """
        assert self.position.target is not None
        _, xmax, in_flight = self.position.base.split(":")
        ranges = [(xid, xid) for xid in in_flight.split(",") if xid]
        ranges.append((xmax, self.position.target.split(":")[1]))
        ids: list[int] = []
        left_out = False
        for first, last in ranges:
            place = {"target": self.position.target, "last_id": last_id, "limit_rows": LOOKS}
            place |= {"after_xid": first, "after_id": -(1 << 63), "up_to_xid": last}
            more = True
            while more:
                row = await self.session.row(self._ahead, place)
                assert row is not None
                here, place["after_xid"], place["after_id"], more = row
                ids += here
                if len(ids) > FEW:
                    ids, left_out = heapq.nsmallest(FEW, ids), True
        self._ids, self._ids_are_all = deque(sorted(ids)), not left_out

    async def _fetch(
        self, query: Any, place: dict[str, Any]
    ) -> tuple[list[Event], dict[int, str], bool]:
        """Read events; the reasons of those that are unreadable; whether the bytes cut them short.

        An event that the server can't read is found by reading all of them singly. The last row's
        running size is taken from the raw result, whatever else is in that row.
        """
        try:
            cursor = await self.session.execute(query, self._params(place))
        except (psycopg.Error, StoreOutage) as error:
            if self._bare or not is_unreadable(error):
                raise
            self._bare = True
            return await self._fetch(query, place)
        events, reasons = await _decoded(cursor)
        for number, event in enumerate(events if self._bare else ()):
            events[number], reason = await single(self.session, self._event, event, self._prefix)
            if reason:
                reasons[event.id] = reason
        result = cursor.pgresult
        assert result is not None
        raw = result.get_value(result.ntuples - 1, _RUNNING_BYTES) if result.ntuples else None
        return events, reasons, raw is not None and int.from_bytes(raw) >= self._page_bytes

    def _params(self, place: dict[str, Any]) -> dict[str, Any]:
        where = {"base": self.position.base, "target": self.position.target}
        bounds = {"limit_bytes": self._page_bytes, "prefix": self._prefix, "bare": self._bare}
        return {**where, **bounds, **place}


def events_of(rows: Sequence[tuple[Any, ...]]) -> list[Event]:
    """Make events of a statement's first eight columns. Raises one of ``UNDECODABLE``."""
    make = tuple.__new__
    return [
        make(
            Event,
            (
                id_, event_id, message_id, subject, key, created_at,
                _headers(headers) if headers is not None else None, payload,
            ),
        )
        for id_, event_id, message_id, subject, key, created_at, headers, payload, *_ in rows
    ]  # fmt: skip


def is_unreadable(error: BaseException) -> bool:
    """Say whether this came of what stands in one of the rows that a statement reads."""
    if isinstance(error, UNDECODABLE):
        return True
    cause = error if isinstance(error, psycopg.Error) else error.__cause__
    state = (cause.sqlstate or "") if isinstance(cause, psycopg.Error) else ""
    return state[:2] in ("22", "54", "XX")  # data, limits, corruption


async def single(session: Session, query: Any, event: Event, prefix: str) -> tuple[Event, str]:
    """Read one event by ``queries/event``; the event, and why it can't be read."""
    params = {"id": event.id, "event_id": event.event_id, "prefix": prefix}
    try:
        row = await session.row(query, params)
        if row is None:
            return event._replace(created_at=_LONG_AGO, payload=b""), GONE
        return events_of([row])[0], ""
    except (psycopg.Error, StoreOutage, *UNDECODABLE) as error:
        if not is_unreadable(error):
            raise
        return _unreadable(event.id, event.event_id, event.key), f"the row can't be read: {error}"


async def _decoded(cursor: psycopg.AsyncCursor[Any]) -> tuple[list[Event], dict[int, str]]:
    """Decode a statement's rows; the events, and the reasons by id of those that are unreadable."""
    try:
        return events_of(await cursor.fetchall()), {}
    except UNDECODABLE:
        result = cursor.pgresult
    assert result is not None
    events: list[Event] = []
    reasons: dict[int, str] = {}
    for number in range(result.ntuples):
        raw_id = result.get_value(number, _ID)
        if raw_id is None:  # the first row of recent
            continue
        try:
            await cursor.scroll(number, mode="absolute")
            row = await cursor.fetchone()
            assert row is not None
            events += events_of([row])
        except UNDECODABLE as error:
            id_ = int.from_bytes(raw_id, signed=True)
            reasons[id_] = f"the row can't be decoded: {type(error).__name__}: {error}"
            raw_event_id = result.get_value(number, _EVENT_ID) or b""
            raw_key = result.get_value(number, _KEY)
            key = None if raw_key is None else raw_key.decode(errors="replace")
            events.append(_unreadable(id_, raw_event_id.decode(), key))
    return events, reasons


def _headers(text: str) -> dict[str, str]:
    headers: dict[str, str] = json.loads(text)
    if type(headers) is not dict or not all(type(value) is str for value in headers.values()):
        raise TypeError("the headers are no object of strings")
    return headers


def _unreadable(id_: int, event_id: str, key: str | None) -> Event:
    """Return the event of a row of which no more than this is known."""
    return Event(id_, event_id, "", "", key, _LONG_AGO, None, b"")


def _xmin(snapshot: str) -> int:
    """Return the id below which every transaction had ended when ``snapshot`` was taken."""
    return min(int(snapshot.partition(":")[0]), NO_TRANSACTION)
