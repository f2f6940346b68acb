"""Reading the outbox page by page, each committed event once.

The place to read on lives here, in memory, ahead of the settled one; the cursor row is only
written by settling. A read that fails leaves the place where it was.
"""

import json
from typing import Any

from relay.core.event import Event
from relay.ports import Page
from relay.postgres.cursor import Position
from relay.postgres.session import Session
from relay.postgres.sqlfiles import load

SESSION_OPTIONS = {
    # This session knows its access paths, whatever the statistics of a fresh table say; a test
    # holds the plans against a million rows of either kind.
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
    "plan_cache_mode": "force_generic_plan",
    "default_transaction_isolation": "read\\ committed",
}


class Reader:
    """Reads pages behind ``position`` over one session of its own."""

    def __init__(self, session: Session, schema: str, position: Position, page_bytes: int) -> None:
        """Read on from ``position``; a page ends when it reaches ``page_bytes``."""
        self.position = position
        self.session = session
        self._page_bytes = page_bytes
        self._recent = load("queries/recent", schema)
        self._page = load("queries/page", schema)
        self._first_id = load("queries/first_id", schema)

    async def read(self, limit: int) -> Page:
        """Return the next page of at most ``limit`` events; empty if nothing is new.

        Behind a window's last page an empty one can carry a position: the window's end.

        Raises:
            StoreOutage: the session is gone; the position has not moved.
        """
        window_ended = False
        while True:
            if self.position.target is None:
                page = await self._read_recent(limit)
                if page is not None:
                    if window_ended and not page.events:
                        return Page(
                            (), self.position, full=False
                        )  # settled: retention waits for it
                    return page
            page = await self._read_window(limit)
            if page.events:
                return page
            window_ended = True  # its last page was exactly full

    async def _read_recent(self, limit: int) -> Page | None:
        """Read all that is new, or begin a window and return None if that is too much."""
        (head, *rows) = await self.session.rows(
            self._recent,
            {
                "base": self.position.base,
                "limit_rows": limit,
                "limit_bytes": self._page_bytes,
            },
        )
        snapshot, overflow = head[8], head[9]
        if overflow:
            first = await self.session.row(self._first_id, {"base": self.position.base})
            assert first is not None
            self.position = self.position.begin_window(snapshot, first[0])
            return None
        # Even an empty read moves the place: a base with no transactions in flight reads faster.
        self.position = Position(snapshot)
        if not rows:
            return Page((), None, full=False)
        return Page(_events(rows), self.position, full=len(rows) == limit)

    async def _read_window(self, limit: int) -> Page:
        """Read the window's next page; behind the last one, end the window."""
        rows = await self.session.rows(
            self._page,
            {
                "base": self.position.base,
                "target": self.position.target,
                "last_id": self.position.last_id,
                "limit_rows": limit,
                "limit_bytes": self._page_bytes,
            },
        )
        full = bool(rows) and (len(rows) == limit or rows[-1][8] >= self._page_bytes)
        if full:
            self.position = self.position.advance(rows[-1][0])
        else:
            self.position = self.position.end_window()
        return Page(_events(rows), self.position, full=full)


def _events(rows: list[tuple[Any, ...]]) -> list[Event]:
    """Make events of a statement's first eight columns."""
    make, loads = tuple.__new__, json.loads
    return [
        make(
            Event,
            (
                id_, event_id, message_id, subject, key, created_at,
                loads(headers) if headers is not None else None, payload,
            ),
        )
        for id_, event_id, message_id, subject, key, created_at, headers, payload, *_ in rows
    ]  # fmt: skip
