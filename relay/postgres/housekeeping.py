"""Housekeeping of one term: what is past retention goes, and what a person has freed becomes due.

Retention counts from the settlement, not from ``created_at``, which a late committer drew long
before. Every sixteenth of it the settled base is noted in ``settled`` with the time; a row may go
when the newest note past retention sees it (R-LOSS). So nothing goes before its settlement.

The next walk begins where the last one ended, so that rows to which something parked refers are not
walked each time; once a minute, but never in mid-walk, one begins at the lowest id, because those
rows are freed. So a walk gets past them, however many they are.

The server's wall clock is compared with our monotonic one: when it has jumped, the notes are moved
with it, and keep their age.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from relay.errors import TermLost
from relay.postgres.parked import PostgresParked
from relay.postgres.session import Session
from relay.postgres.sqlfiles import load

PRUNE_CHUNK_ROWS: Final = 5_000
CHUNKS_AT_ONCE: Final = 20
"""Chunks of a walk, of which nothing may go, that one ``tend`` reads."""

FROM_THE_BOTTOM: Final = 60.0
"""Seconds between two walks that begin at the lowest id."""

JUMP: Final = 2.0
"""Seconds by which the two clocks may differ between two looks; more is a jump."""


class Housekeeping:
    """Does one bounded piece at each ``tend``."""

    def __init__(
        self,
        schema: str,
        parked: PostgresParked,
        term: Mapping[str, Any],
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin at the lowest id; ``term`` says under "at" where the cursor row was last."""
        self._schema = schema
        self._parked = parked
        self._term = term
        self._now = now
        self._clocks: tuple[Any, float] | None = None
        self._floor = 0
        self._next_floor: int | None = None
        self._walking = False
        self._bottom_at = now()

    async def tend(self, session: Session, retention: float) -> int:
        """Delete what is past ``retention`` s among the next rows; return how many went.

        Raises:
            TermLost: rows of another cluster came in, which only the beginning of a term takes in.
            StoreOutage: as a session does.
            psycopg.Error: something of the database's owner is in the way, such as a table that
                refers to a row.
        """
        if await self._row(session, "foreign_rows") is not None:
            raise TermLost(
                "the outbox has got rows with transaction ids of another cluster (a restore, a"
                " subscription): beginning a new term, which takes them in"
            )
        jump = await self._jumped(session)
        await self._row(session, "mark", retention=f"{retention} seconds", jump=f"{jump} seconds")
        for _ in range(CHUNKS_AT_ONCE):
            deleted = await self._prune_chunk(session, retention)
            if deleted or not self._walking:
                break
        await self._parked.promote_all(session)
        return deleted

    async def _jumped(self, session: Session) -> float:
        """Return by how many s the server's wall clock has jumped since the last look."""
        row = await self._row(session, "clock")
        assert row is not None
        wall, here, before = row[0], self._now(), self._clocks
        self._clocks = wall, here
        if before is None:
            return 0.0
        jump: float = (wall - before[0]).total_seconds() - (here - before[1])
        return jump if abs(jump) > JUMP else 0.0

    async def _prune_chunk(self, session: Session, retention: float) -> int:
        if not self._walking and self._now() >= self._bottom_at + FROM_THE_BOTTOM:
            self._floor, self._next_floor, self._bottom_at = 0, None, self._now()
        self._walking = False  # unless it goes on behind this chunk
        chunk = {"floor": self._floor, "chunk_rows": PRUNE_CHUNK_ROWS}
        row = await self._row(session, "prune", retention=f"{retention} seconds", **chunk)
        assert row is not None
        deleted, last_id, young_id, short = row
        if young_id is not None and self._next_floor is None:
            self._next_floor = young_id - 1
        if last_id is not None:
            self._floor = last_id
        self._walking = not short and (young_id is None or deleted > 0)
        if not self._walking:
            if self._next_floor is not None:
                self._floor = self._next_floor
            self._next_floor = None
        return int(deleted)

    async def _row(self, session: Session, name: str, **params: Any) -> tuple[Any, ...] | None:
        return await session.row(load(f"queries/{name}", self._schema), {**self._term, **params})
