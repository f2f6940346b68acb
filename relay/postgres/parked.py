"""The parked events of one term: what is due, who has to queue, and how a settlement changes them.

Who is right: the table ``parked``, by reference: an event's subject and payload are those of its
outbox row, and it is known by its event_id. Whether an event is due is told by the server's clock
alone; whether one of a key may pass, by the view ``fence`` (R-ORDER). Reading goes through the
pool, so that it never waits for a settlement; writing happens inside the settlement's transaction,
which has checked the term and holds the cursor row.

A settlement that can't keep one of its events keeps nothing, and says which (R-LOSS). A parked row
that can't be decoded, or whose outbox row is gone, is due as an unreadable event (R-FATE).
"""

import logging
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, Final

import psycopg

from relay.core.disposition import Parking
from relay.core.event import Event
from relay.errors import StoreBusy, StoreFull, StoreOutage
from relay.ports import Due
from relay.postgres.decoding import (
    UNDECODABLE,
    events_of,
    is_unreadable,
    unreadable_event,
)
from relay.postgres.pool import Pool
from relay.postgres.session import Session
from relay.postgres.sqlfiles import load

log = logging.getLogger("relay.postgres")

PROMOTE_CHUNK_KEYS: Final = 2_000
GONE: Final = "its row is no longer in the outbox: somebody deleted it, and its payload with it"

_ATTEMPTS, _RETRIES, _HELD_BY, _AGE, _GONE = range(8, 13)
"""Columns of ``due`` behind those of an event."""


class PostgresParked:
    """``relay.ports.ParkedEvents`` for one term."""

    def __init__(
        self,
        pool: Pool,
        schema: str,
        *,
        page_bytes: int,
        prefix: str,
        dead_blocks: bool,
        longest_delay: float,
    ) -> None:
        """Read over sessions of ``pool``."""
        self._pool = pool
        self._page_bytes = page_bytes
        self._prefix = prefix
        self._dead_blocks = dead_blocks
        self._longest_delay = longest_delay
        self._promoted = ""
        self._blocked = load("queries/blocked", schema)
        self._due = load("queries/due", schema)
        self._event = load("queries/event", schema)
        self._park = load("queries/park", schema)
        self._repark = load("queries/repark", schema)
        self._twice = load("queries/twice", schema)
        self._renew_event_id = load("queries/renew_event_id", schema)
        self._unpark = load("queries/unpark", schema)
        self._keys_of = load("queries/keys_of", schema)
        self._promote = load("queries/promote", schema)
        self._promote_all = load("queries/promote_all", schema)

    async def blocked(self, keys: Collection[str]) -> set[str]:
        """Return those of ``keys`` whose next event has to queue behind a parked one."""
        async with self._pool.session() as session:
            rows = await session.rows(
                self._blocked, {"keys": list(keys), "dead_blocks": self._dead_blocks}
            )
        return {key for (key,) in rows}

    async def due(self, limit: int, *, without: Collection[str] = ()) -> Sequence[Due]:
        """Return at most ``limit`` events, and about the configured bytes, that may be tried."""
        params = {
            "without": list(without),
            "limit_rows": limit,
            "limit_bytes": self._page_bytes,
            "dead_blocks": self._dead_blocks,
            "longest": self._longest_delay,
            "prefix": self._prefix,
        }
        async with self._pool.session() as session:
            try:
                rows = await session.rows(self._due, params | {"bare": False})
                events, reasons = events_of(rows), [""] * len(rows)
            except (psycopg.Error, StoreOutage, *UNDECODABLE) as error:
                if not is_unreadable(error):
                    raise
                rows = await session.rows(self._due, params | {"bare": True})
                events, reasons = await self._singly(session, rows)
        return [
            Due(event, row[_ATTEMPTS], row[_HELD_BY], row[_AGE], GONE if row[_GONE] else reason)
            for event, row, reason in zip(events, rows, reasons, strict=True)
        ]

    async def _singly(
        self, session: Session, rows: Sequence[tuple[Any, ...]]
    ) -> tuple[list[Event], list[str]]:
        """Read each event by itself, to know which of them can't be read."""
        events, reasons = [], []
        for known, row in zip(events_of(rows), rows, strict=True):
            event, reason = known, ""
            if not row[_GONE]:
                event, reason = await self._single(session, known, row[_RETRIES])
            events.append(event)
            reasons.append(reason)
        return events, reasons

    async def _single(self, session: Session, event: Event, retries: int) -> tuple[Event, str]:
        """Read one event by itself; the event, and why it can't be read."""
        params = {
            "id": event.id,
            "event_id": event.event_id,
            "retries": retries,
            "prefix": self._prefix,
        }
        try:
            row = await session.row(self._event, params)
            return (event, GONE) if row is None else (events_of([row])[0], "")
        except (psycopg.Error, StoreOutage, *UNDECODABLE) as error:
            if not is_unreadable(error):
                raise
            bare = unreadable_event(event.id, event.event_id, event.key)
            return bare, f"the row can't be read: {error}"

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
        self, term: Session, parked: Sequence[Parking], unparked: Sequence[str]
    ) -> None:
        """Park, park again, and unpark; then let the next of each key be due.

        Raises:
            StoreOutage: an event is neither in the outbox nor parked: nothing may be settled.
        """
        stay = {each.id: each for each in await self._told_apart(term, parked)}
        tried = [each for each in stay.values() if each.dead or each.delay is not None]
        again: set[str] = set()
        if tried:
            again = {event_id for (event_id,) in await term.rows(self._repark, _columns(tried))}
        new = [each for each in stay.values() if each.event_id not in again]
        if new:
            kept = {event_id for (event_id,) in await term.rows(self._park, _columns(new))}
            lost = [each for each in new if each.event_id not in kept]
            if lost:
                raise StoreOutage(_not_kept(lost, len(new)))
        gone: list[tuple[Any, ...]] = []
        if unparked:
            gone = await term.rows(self._unpark, {"event_ids": list(unparked)})
        keys = {key for (key,) in gone if key is not None}
        moved = [each.event_id for each in stay.values() if each.dead or each.delay is None]
        if moved:
            found = await term.rows(self._keys_of, {"event_ids": moved})
            keys.update([key for (key,) in found])
        if keys:
            await term.rows(self._promote, {"keys": list(keys), "dead_blocks": self._dead_blocks})

    async def _told_apart(self, term: Session, parked: Sequence[Parking]) -> list[Parking]:
        """Give a row an event_id of its own where another parked row has the same."""
        if not parked:
            return []
        twice = [id_ for (id_,) in await term.rows(self._twice, _columns(parked))]
        if not twice:
            return list(parked)
        renewed: dict[int, str] = dict(await term.rows(self._renew_event_id, {"ids": twice}))
        log.warning(
            "rows of the outbox had an event_id that another row has: each has one of its own now",
            extra={"ids": twice},
        )
        return [replace(each, event_id=renewed.get(each.id, each.event_id)) for each in parked]

    async def refused_one(self, term: Session, parked: Sequence[Parking]) -> Parking | None:
        """Find the first of ``parked`` that the database refuses to keep; changes nothing."""
        for each in parked:
            try:
                async with term.transaction():
                    await self.write(term, [each], ())
                    raise psycopg.Rollback  # leaves the transaction, quietly
            except (StoreBusy, StoreFull):
                raise
            except (psycopg.Error, StoreOutage):
                return each
        return None


def _columns(parkings: Collection[Parking]) -> dict[str, list[Any]]:
    """Lay parkings side by side, as the statements take them."""
    return {
        "event_ids": [each.event_id for each in parkings],
        "ids": [each.id for each in parkings],
        "attempts": [each.attempts for each in parkings],
        # psycopg takes a list of one type only
        "delays": [None if each.delay is None else float(each.delay) for each in parkings],
        "dead": [each.dead for each in parkings],
        "held_by": [each.held_by for each in parkings],
        "errors": [each.error for each in parkings],
        "codes": [each.code for each in parkings],
    }


def _not_kept(lost: Sequence[Parking], of: int) -> str:
    first = lost[0]
    return (
        f"{len(lost)} of {of} events to be parked are no longer in the outbox, or another row has"
        f" their event_id (the first: id {first.id}, event_id {first.event_id}); not settling past"
        " them"
    )
