"""The parked events of one term: what is due, who has to queue, and how a settlement changes them.

Who is right: the table ``parked``. Whether an event is due is told by the server's clock alone.
Reading has a session of its own, so that it never waits for a settlement; writing happens inside
the settlement's transaction, which has checked the epoch and holds the cursor row.
"""

import json
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any

from relay.core.event import Event
from relay.core.parking import Parking
from relay.errors import StoreOutage
from relay.ports import Due
from relay.postgres.session import Session
from relay.postgres.sqlfiles import load

PROMOTE_CHUNK_KEYS = 2_000


class PostgresParked:
    """``relay.ports.ParkedEvents`` for one term."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[Session]],
        schema: str,
        *,
        page_bytes: int,
        dead_blocks: bool,
        longest_delay: float,
    ) -> None:
        """Read over a session that ``connect`` opens when it is first needed."""
        self._connect = connect
        self._session: Session | None = None
        self._page_bytes = page_bytes
        self._dead_blocks = dead_blocks
        self._longest_delay = longest_delay
        self._promoted = ""
        self._blocked = load("queries/blocked", schema)
        self._due = load("queries/due", schema)
        self._park = load("queries/park", schema)
        self._repark = load("queries/repark", schema)
        self._unpark = load("queries/unpark", schema)
        self._keys_of = load("queries/keys_of", schema)
        self._promote = load("queries/promote", schema)
        self._promote_all = load("queries/promote_all", schema)

    async def blocked(self, keys: Collection[str]) -> set[str]:
        """Return those of ``keys`` whose next event has to queue behind a parked one."""
        session = await self._reading()
        rows = await session.rows(
            self._blocked, {"keys": list(keys), "dead_blocks": self._dead_blocks}
        )
        return {key for (key,) in rows}

    async def due(self, limit: int, *, without: Collection[str] = ()) -> Sequence[Due]:
        """Return at most ``limit`` events, and about the configured bytes, that may be tried."""
        session = await self._reading()
        rows = await session.rows(
            self._due,
            {
                "without": list(without),
                "limit_rows": limit,
                "limit_bytes": self._page_bytes,
                "dead_blocks": self._dead_blocks,
                "longest": self._longest_delay,
            },
        )
        return [_due(row) for row in rows]

    def drop(self) -> None:
        """Let go of the reading session at once."""
        if self._session is not None:
            self._session.drop()

    async def promote_all(self, session: Session) -> None:
        """Let the first event of each key be due, for the next chunk of keys over and over.

        Whatever else should have let them: a person who deleted a row by hand, or another term,
        for which dead events blocked their keys.
        """
        chunk = {
            "after": self._promoted,
            "limit_keys": PROMOTE_CHUNK_KEYS,
            "dead_blocks": self._dead_blocks,
        }
        row = await session.row(self._promote_all, chunk)
        self._promoted = "" if row is None or row[0] is None else row[0]

    # Within a settlement's transaction, over its session.

    async def write(
        self, term: Session, parked: Sequence[Parking], unparked: Sequence[int]
    ) -> None:
        """Park, park again, and unpark; then let the next of each key be due.

        Raises:
            StoreOutage: an event is neither in the outbox nor parked: nothing may be settled.
        """
        stay = {each.id: each for each in parked}
        tried = [each for each in stay.values() if each.dead or each.delay is not None]
        again: set[int] = set()
        if tried:
            again = {id_ for (id_,) in await term.rows(self._repark, _columns(tried))}
        new = [each for id_, each in stay.items() if id_ not in again]
        if new:
            kept = await term.rows(self._park, _columns(new))
            if len(kept) != len(new):
                raise StoreOutage(
                    f"{len(new) - len(kept)} of {len(new)} events to be parked are no longer in the"
                    " outbox; not settling past them"
                )
        gone = await term.rows(self._unpark, {"ids": list(unparked)}) if unparked else []
        keys = {key for (key,) in gone if key is not None}
        moved = [id_ for id_, each in stay.items() if each.dead or each.delay is None]
        if moved:
            keys.update([key for (key,) in await term.rows(self._keys_of, {"ids": moved})])
        if keys:
            await term.rows(self._promote, {"keys": list(keys), "dead_blocks": self._dead_blocks})

    async def _reading(self) -> Session:
        if self._session is None:
            self._session = await self._connect()
        return self._session


def _columns(parkings: Collection[Parking]) -> dict[str, list[Any]]:
    """Lay parkings side by side, as the statements take them."""
    return {
        "ids": [each.id for each in parkings],
        "attempts": [each.attempts for each in parkings],
        # psycopg takes a list of one type only
        "delays": [None if each.delay is None else float(each.delay) for each in parkings],
        "dead": [each.dead for each in parkings],
        "held_by": [each.held_by for each in parkings],
        "errors": [each.error for each in parkings],
        "codes": [each.code for each in parkings],
    }


def _due(row: tuple[Any, ...]) -> Due:
    id_, event_id, message_id, subject, key, created_at, headers, payload, attempts, held_by = row
    event = Event(
        id_,
        event_id,
        message_id,
        subject,
        key,
        created_at,
        json.loads(headers) if headers is not None else None,
        payload,
    )
    return Due(event, attempts, held_by)
