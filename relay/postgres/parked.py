"""The parked events of one term: what is due, which keys are blocked, what a settlement changes.

Who is right: the table ``parked``, by reference. An event's subject and payload are those of its
outbox row; its event_id identifies it. The server's clock alone says whether an event is due; the
view ``fence`` says whether an event may pass (R-ORDER). Reading goes through the pool, so it never
waits for a settlement; writing happens inside the settlement's transaction, which has checked the
term and holds the cursor row.

A settlement that can't keep one of its events keeps nothing, and says which (R-LOSS). A parked row
that can't be decoded, or whose outbox row is gone, is due as an unreadable event (R-FATE).
"""

import json
import logging
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, Final

import psycopg

from relay.core.disposition import Parking
from relay.core.event import Event
from relay.errors import StoreBusy, StoreFull, StoreOutage
from relay.ports import Due
from relay.postgres.pool import Pool
from relay.postgres.reading import GONE, UNDECODABLE, events_of, is_unreadable, single
from relay.postgres.session import Row, Session
from relay.postgres.sqlfiles import load

log = logging.getLogger("relay.postgres")

PROMOTE_CHUNK_KEYS: Final = 2_000

_ATTEMPTS, _HELD_BY, _AGE, _GONE, _REPLAY = range(8, 13)
"""Columns of ``due`` behind those of an event."""

_LONGEST_LEAST: Final = 30.0
"""s: a replayed event, and one that a person retries, may be due so late, whatever the setting."""


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
        """Read over sessions of ``pool``; the rest as ``PostgresOutbox`` takes it."""
        self._pool = pool
        self._schema = schema
        self._prefix = prefix
        self._blocks = {"dead_blocks": dead_blocks}
        longest = max(longest_delay, _LONGEST_LEAST)
        self._due_params = {"limit_bytes": page_bytes, "longest": longest, "prefix": prefix}
        self._promoted = ""

    async def blocked(self, keys: Collection[str]) -> set[str]:
        """Return those of ``keys`` whose next event has to queue behind a parked one."""
        async with self._pool.session() as session:
            asked = self._blocks | {"keys": _json(list(keys))}
            rows = await session.rows(self._query("blocked"), asked)
        return {key for (key,) in rows}

    async def due(self, limit: int, *, without: Collection[str] = ()) -> Sequence[Due]:
        """Return at most ``limit`` events, and about the configured bytes, that may be tried."""
        params = self._blocks | self._due_params
        params |= {"without": list(without), "limit_rows": limit, "bare": False}
        query = self._query("due")
        async with self._pool.session() as session:
            try:
                rows = await session.rows(query, params)
                events, reasons = events_of(rows), [""] * len(rows)
            except (psycopg.Error, StoreOutage, *UNDECODABLE) as error:
                if not is_unreadable(error):
                    raise
                rows = await session.rows(query, params | {"bare": True})
                events, reasons = events_of(rows), [""] * len(rows)
                for number, row in enumerate(rows):
                    if not row[_GONE]:
                        read, reasons[number] = await single(
                            session, self._query("event"), events[number], self._prefix
                        )
                        events[number] = _as_parked(read, events[number], row[_REPLAY])
        return [
            Due(
                event,
                row[_ATTEMPTS],
                row[_HELD_BY],
                row[_AGE],
                GONE if row[_GONE] else reason,
                row[_REPLAY],
            )
            for event, row, reason in zip(events, rows, reasons, strict=True)
        ]

    async def promote_all(self, session: Session) -> None:
        """Let the first event of each key be due, for the next chunk of keys over and over.

        This covers what a settlement can't know of: a person who deleted a row by hand, or an
        earlier term, for which dead events blocked their keys.
        """
        chunk = {"after": self._promoted, "limit_keys": PROMOTE_CHUNK_KEYS}
        row = await session.row(self._query("promote_all"), self._blocks | chunk)
        self._promoted = "" if row is None or row[0] is None else row[0]

    # Within a settlement's transaction, over its session.

    async def write(
        self, term: Session, parked: Sequence[Parking], unparked: Sequence[str]
    ) -> None:
        """Park, park again, and unpark; then let the next of each key be due.

        Raises:
            StoreOutage: an event is neither in the outbox nor parked: nothing may be settled.
        """
        tried = [each for each in parked if each.dead or each.delay is not None]
        again = await self._kept(term, "repark", tried)
        new = [each for each in parked if _name(each) not in again]
        kept = await self._kept(term, "park", new)
        stay = [each for each in parked if _name(each) in again | kept]
        if lost := [each for each in new if _name(each) not in kept]:
            renewed = await self._renewed(term, lost)
            kept = await self._kept(term, "park", renewed)
            if lost := [each for each in renewed if _name(each) not in kept]:
                raise StoreOutage(_not_kept(lost, len(new)))
            stay += renewed
        freed: list[Row] = []
        if unparked:
            freed = await term.rows(self._query("unpark"), {"event_ids": _json(unparked)})
        moved = [each.event_id for each in stay if each.dead or each.delay is None]
        if moved:
            freed += await term.rows(self._query("keys_of"), {"event_ids": moved})
        keys = {key for (key,) in freed if key is not None}
        if keys:
            await term.rows(self._query("promote"), self._blocks | {"keys": list(keys)})

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

    async def _kept(self, term: Session, name: str, parkings: Sequence[Parking]) -> set[Row]:
        """Run ``park`` or ``repark``; id and event_id of the events that are parked."""
        if not parkings:
            return set()
        events = [
            {
                "event_id": each.event_id,
                "id": each.id,
                "attempts": each.attempts,
                "delay": each.delay,
                "dead": each.dead,
                "held_by": each.held_by,
                "error": each.error,
                "code": each.code,
            }
            for each in parkings
        ]
        return set(await term.rows(self._query(name), {"events": _json(events)}))

    async def _renewed(self, term: Session, lost: Sequence[Parking]) -> list[Parking]:
        """Give rows an event_id of their own where a parked row has the same (R-ONCE)."""
        names = {"ids": [each.id for each in lost], "event_ids": [each.event_id for each in lost]}
        renewed: dict[int, str] = dict(await term.rows(self._query("renew_event_id"), names))
        if renewed:
            log.warning(
                "rows of the outbox had an event_id that another row has: each has one of its own"
                " now",
                extra={"ids": list(renewed)},
            )
        return [replace(each, event_id=renewed.get(each.id, each.event_id)) for each in lost]

    def _query(self, name: str) -> Any:
        return load(f"queries/{name}", self._schema)


def _json(value: Sequence[Any]) -> str:
    """Write what a statement takes; a character as itself, for the database may not be in UTF-8."""
    return json.dumps(value, ensure_ascii=False)


def _as_parked(read: Event, parked: Event, replay: int | None) -> Event:
    """Give an event read singly the message id that it has among the parked, and its replay."""
    if replay is not None:
        read = read._replace(headers={**(read.headers or {}), "Relay-Replay": str(replay)})
    return read._replace(message_id=parked.message_id) if read.message_id else read


def _name(parking: Parking) -> tuple[int, str]:
    """An id alone can come twice, once the sequence was set back; so can an owner's event_id."""
    return parking.id, parking.event_id


def _not_kept(lost: Sequence[Parking], of: int) -> str:
    return (
        f"{len(lost)} of {of} events to be parked are no longer in the outbox, or another row has"
        f" their event_id (the first: id {lost[0].id}, event_id {lost[0].event_id}); not settling"
        " past them"
    )
