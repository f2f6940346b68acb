"""Reading the outbox page by page, each committed event once (R-PHANTOM).

The place to read on lives here, in memory, ahead of the settled one; the cursor row is only
written by settling. A read that fails leaves the place where it was.

    all that is new fits one page        queries/recent
    a window of at most FEW events       their ids by the index of what is new, then pages of them
    a larger window                      pages along the primary key, LOOKS ids at a time; where
                                         they bring little, the next FEW ids by the index again

Every statement is bounded in rows looked at, not only in rows returned. A transaction that commits
late may stand millions of delivered rows before the rest of its window: those are not walked.
"""

import heapq
from collections import deque
from typing import Any, Final

import psycopg

from relay.core.event import Event
from relay.errors import StoreOutage
from relay.ports import NO_TRANSACTION, Page
from relay.postgres.cursor import Position
from relay.postgres.decoding import (
    UNDECODABLE,
    events_of,
    is_unreadable,
    one_by_one,
    unreadable_event,
)
from relay.postgres.session import Session
from relay.postgres.sqlfiles import load

FEW: Final = 20_000
LOOKS: Final = 20_000

PLANS: Final = {
    # These sessions know their access paths, whatever the statistics of a fresh table say; a test
    # holds the plans against a million rows of either kind.
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

_FIRST: Final = -(1 << 63)
_RUNNING_BYTES: Final = 8
"""The column of ``page`` and ``page_of``."""


class Reader:
    """Reads pages behind ``position`` over one session of its own."""

    def __init__(
        self, session: Session, schema: str, position: Position, *, page_bytes: int, prefix: str
    ) -> None:
        """Read on from ``position``; a page ends when it reaches ``page_bytes``."""
        self.position = position
        self.session = session
        self._common = {"limit_bytes": page_bytes, "prefix": prefix}
        self._page_bytes = page_bytes
        self._recent = load("queries/recent", schema)
        self._window = load("queries/window", schema)
        self._page = load("queries/page", schema)
        self._page_of = load("queries/page_of", schema)
        self._ahead = load("queries/ahead", schema)
        self._event = load("queries/event", schema)
        self._top_id = load("queries/top_id", schema)
        # Of the window under way: its next ids, whether they are all that is left of it, the id
        # above which it has no row (None: not known), and whether a row of it was unreadable.
        self._ids: deque[int] = deque()
        self._ids_are_all = False
        self._top: int | None = None
        self._bare = False

    async def read(self, limit: int) -> Page:
        """Return the next page of at most ``limit`` events; empty if nothing is new.

        An empty page can carry a position: the end of a window.

        Raises:
            StoreOutage: the session is gone; the position has not moved.
        """
        if self.position.target is None:
            page = await self._read_recent(limit)
            if page is not None:
                return page
        page = await self._read_window(limit)
        if page.events:
            return page
        # The window's last page was exactly full, or a window had nothing in it.
        newer = await self._read_recent(limit)
        return newer if newer is not None and newer.events else page

    async def _read_recent(self, limit: int) -> Page | None:
        """Read all that is new, or begin a window and return None if that is too much."""
        params = {**self._common, "base": self.position.base, "limit_rows": limit}
        try:
            cursor = await self.session.execute(self._recent, params)
        except (psycopg.Error, StoreOutage) as error:
            if not is_unreadable(error):
                raise
            await self._begin_window(bare=True)
            return None
        reasons: dict[int, str] = {}
        head = await cursor.fetchone()
        assert head is not None
        snapshot, overflow = head[8], head[9]
        if overflow:
            await self._begin_window()
            return None
        try:
            events = events_of(await cursor.fetchall())
        except UNDECODABLE:
            events, reasons = await one_by_one(cursor)
        # Even an empty read moves the place: a base with no transactions in flight reads faster.
        self.position = Position(snapshot)
        position = self.position if events else None
        return Page(events, position, len(events) == limit, _xmin(snapshot), reasons)

    async def _begin_window(self, *, bare: bool = False) -> None:
        """Fix the window's end, and learn its ids if they are few."""
        row = await self.session.row(self._window, {"base": self.position.base, "few": FEW})
        assert row is not None
        target, ids, first_id, top = row
        self._ids = deque(ids or ())
        self._ids_are_all = ids is not None
        self._top, self._bare = top, bare
        if self._ids:
            first_id = self._ids[0]
        self.position = self.position.begin_window(target, first_id or 0)

    async def _read_window(self, limit: int) -> Page:
        """Read the window's next page; behind the last one, end the window."""
        while not (self._ids_are_all and not self._ids):
            top = await self._known_top()
            known = self._known(limit)
            if not known and self.position.last_id >= top:
                break
            page = await (self._page_of_ids(known) if known else self._walk(limit, top))
            if page is not None:
                return page
        self._end_window()
        return Page((), self.position, full=False, xmin=_xmin(self.position.base))

    def _known(self, limit: int) -> list[int]:
        return [self._ids[number] for number in range(min(limit, len(self._ids)))]

    async def _known_top(self) -> int:
        """Return the id above which the window has no row; anew after a restart within one."""
        if self._top is None:
            row = await self.session.row(self._top_id)
            self._top = 0 if row is None or row[0] is None else int(row[0])
        return self._top

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
        target = self.position.target
        assert target is not None
        self.position = self.position.advance(reached)
        if not events:
            return None
        ended = not self._ids and (self._ids_are_all or reached >= (self._top or 0))
        if ended:
            self._end_window()
        return Page(events, self.position, not ended, _xmin(target), reasons)

    def _end_window(self) -> None:
        self.position = self.position.end_window()
        self._ids, self._ids_are_all, self._top, self._bare = deque(), False, None, False

    async def _look_ahead(self, last_id: int) -> None:
        """Learn the window's next FEW ids behind ``last_id``.

        Looks at each transaction that was late, then at the rest. It costs one pass over the index
        of what is new, in bounded pieces, and saves a walk past what is delivered.
        """
        base, target = self.position.base, self.position.target
        assert target is not None
        xmax = base.split(":")[1]
        late = [xid for xid in base.split(":")[2].split(",") if xid]
        ranges = [(xid, xid) for xid in late] + [(xmax, target.split(":")[1])]
        found: list[int] = []
        left_out = False
        for first, last in ranges:
            place: dict[str, Any] = {"after_xid": first, "after_id": _FIRST, "up_to_xid": last}
            more = True
            while more:
                row = await self.session.row(
                    self._ahead,
                    {
                        **place,
                        "target": target,
                        "last_id": last_id,
                        "limit_rows": LOOKS,
                    },
                )
                assert row is not None
                ids, xid, id_, more = row
                place |= {"after_xid": xid, "after_id": id_}
                found += ids
                if len(found) > FEW:
                    found, left_out = heapq.nsmallest(FEW, found), True
        self._ids = deque(sorted(found))
        self._ids_are_all = not left_out

    async def _fetch(
        self, query: Any, place: dict[str, Any]
    ) -> tuple[list[Event], dict[int, str], bool]:
        """Read events; the reasons of those that are unreadable; whether the bytes cut them short.

        One that the server can't read is found by reading all of them singly.
        """
        params = {
            "base": self.position.base,
            "target": self.position.target,
            **self._common,
            **place,
        }
        if not self._bare:
            try:
                cursor = await self.session.execute(query, params | {"bare": False})
            except (psycopg.Error, StoreOutage) as error:
                if not is_unreadable(error):
                    raise
                self._bare = True
        if self._bare:
            return await self._fetch_singly(query, params)
        reasons: dict[int, str] = {}
        try:
            events = events_of(await cursor.fetchall())
        except UNDECODABLE:
            events, reasons = await one_by_one(cursor)
        return events, reasons, self._is_cut(cursor)

    def _is_cut(self, cursor: psycopg.AsyncCursor[Any]) -> bool:
        """Say whether the last row's running size reached the bound, whatever else is in it."""
        result = cursor.pgresult
        if result is None or not result.ntuples:
            return False
        raw = result.get_value(result.ntuples - 1, _RUNNING_BYTES)
        return raw is not None and int.from_bytes(raw) >= self._page_bytes

    async def _fetch_singly(
        self, query: Any, params: dict[str, Any]
    ) -> tuple[list[Event], dict[int, str], bool]:
        cursor = await self.session.execute(query, params | {"bare": True})
        events: list[Event] = []
        reasons: dict[int, str] = {}
        for known in events_of(await cursor.fetchall()):
            try:
                events.append(await self._single(known))
            except (psycopg.Error, StoreOutage, *UNDECODABLE) as error:
                if not is_unreadable(error):
                    raise
                reasons[known.id] = f"the row can't be read: {error}"
                events.append(unreadable_event(known.id, known.event_id, known.key))
        return events, reasons, self._is_cut(cursor)

    async def _single(self, event: Event) -> Event:
        row = await self.session.row(
            self._event,
            {
                "id": event.id,
                "event_id": event.event_id,
                "retries": 0,
                "prefix": self._common["prefix"],
            },
        )
        if row is None:
            raise ValueError("it was deleted")
        return events_of([row])[0]


def _xmin(snapshot: str) -> int:
    """Return the id below which every transaction had ended when ``snapshot`` was taken."""
    return min(int(snapshot.partition(":")[0]), NO_TRANSACTION)
