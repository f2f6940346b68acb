"""The checkpoints in Postgres: ``relay.checkpoints.Checkpoints`` for one term, and for a person.

Who is right: the table ``checkpoint``, which only settlements write, in the same statement as the
cursor; so what is newest there is as far as the cursor, never behind it. ``rewind`` moves the
cursor back and forgets what is not true any more, in one statement as well (R-LOSS).

Positions are compared by their snapshots: of two snapshots of one cluster the later one has the
higher xmax, or the same and fewer transactions in flight.
"""

import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

from relay.checkpoints import Before
from relay.core.checkpoint import Checkpoint, Setback, Tip, replaced_by
from relay.ports import Settlement
from relay.postgres.pool import Pool
from relay.postgres.reading import Position
from relay.postgres.session import Session
from relay.postgres.sqlfiles import load

NUMBER_EVERY: Final = 0.1
"""Seconds; what is settled within so many replaces the same checkpoint."""

_AT_THE_BEGINNING: Final = Position()


class PostgresCheckpoints:
    """One term's. ``lease`` is the term that may go back."""

    def __init__(
        self,
        pool: Pool,
        schema: str,
        term: Mapping[str, Any],
        position: Position,
        retention: float,
        *,
        own: Callable[[], AbstractAsyncContextManager[Session]],
    ) -> None:
        """Belong to ``term``, which began at ``position`` and has a session of its ``own``."""
        self.repairing: Collection[str] = ()
        self._pool = pool
        self._schema = schema
        self._term = term
        self._own = own
        self._position = position
        self._retention = retention
        self._numbers: dict[str, int] = {}
        self._next_at: dict[str, float] = {}
        self._top_id = 0
        self._ring: Mapping[str, Sequence[Checkpoint]] = {}

    def written_with(self, done: Settlement) -> dict[str, Any]:
        """Return the parameters of ``settle`` that make checkpoints of its tips."""
        self._top_id = max(self._top_id, done.top_id)
        tips = [
            {
                "stream": tip.stream,
                "number": (number := self._number(tip.stream)),
                "replaces": replaced_by(number),
                "created": tip.created,
                "seq": tip.seq,
                "message_id": tip.message_id,
                "sure": tip.sure,
                "after_seq": tip.after,
            }
            for tip in done.tips
        ]
        return {
            "tips": json.dumps(tips) if tips else "[]",
            "top_id": self._top_id,
        }

    def _number(self, stream: str) -> int:
        """Return the number of the checkpoint of ``stream`` that is made now."""
        now = time.monotonic()
        if now >= self._next_at.get(stream, 0.0):
            self._next_at[stream] = now + NUMBER_EVERY
            self._numbers[stream] = self._numbers.get(stream, 0) + 1
        return self._numbers[stream]

    async def newest(self) -> Sequence[Tip]:
        """Return the newest tip of each stream; learn what is being repaired."""
        async with self._own() as session:  # it is open, and the term waits for this
            rows = await session.rows(load("queries/checkpoints", self._schema))
        tips: list[Tip] = []
        repairing: dict[str, Position] = {}
        for stream, created, seq, message_id, sure, after, number, top_id, *repair in rows:
            if created is not None:
                tips.append(Tip(stream, created, seq, message_id, sure, after))
                self._numbers[stream] = number
                self._top_id = max(self._top_id, top_id)
            if repair[0]:
                repairing[stream] = Position(*repair[1:])
        self.repairing = tuple(repairing)
        if repairing and all(_order(self._position) >= _order(p) for p in repairing.values()):
            await self.repaired(0, 0, over=True)  # the last term ended before it could say so
            self.repairing = ()
        return tips

    async def ring(self, streams: Collection[str]) -> Mapping[str, Sequence[Checkpoint]]:
        """Return the checkpoints of ``streams``, the newest first."""
        async with self._pool.session() as session:
            self._position, self._ring = await ring_of(session, self._schema, streams)
        return self._ring

    async def rewind(self, held: Mapping[str, Checkpoint]) -> Sequence[Setback]:
        """Go back to the earliest of ``held``; ``ring`` was asked for before."""
        how: dict[str, Any] = {"term": self._term, "retention": self._retention}
        async with self._pool.session() as session:
            return await rewind(session, self._schema, self._position, self._ring, held, **how)

    async def delivered(self, ids: Collection[int]) -> Mapping[int, Before]:
        """Return those of ``ids`` that the cursor had passed before the repair began."""
        query = load("queries/delivered", self._schema)
        async with self._pool.session() as session:
            rows = await session.rows(query, {"ids": list(ids)})
        return {id_: Before(parked, stored) for id_, parked, stored in rows}

    async def repaired(self, events: int, remembered: int, *, over: bool) -> None:
        """Count what was published again; end the repair."""
        counts = {"repaired": events, "remembered": remembered, "over": over}
        async with self._pool.session() as session:
            await session.execute(load("queries/repaired", self._schema), {**self._term, **counts})


async def ring_of(
    session: Session, schema: str, streams: Collection[str] | None
) -> tuple[Position, Mapping[str, Sequence[Checkpoint]]]:
    """Return the cursor, and the checkpoints of ``streams`` (None: of all), the newest first."""
    asked = {"streams": None if streams is None else list(streams)}
    rows = await session.rows(load("queries/ring", schema), asked)
    cursor, ring = _AT_THE_BEGINNING, dict[str, list[Checkpoint]]()
    for stream, number, created, seq, message_id, sure, after, *place, top_id, age, at in rows:
        position = Position(*place)
        if stream is None:
            cursor = position
            continue
        tip = Tip(stream, created, seq, message_id, sure, after)
        ring.setdefault(stream, []).append(Checkpoint(tip, number, position, top_id, age, at))
    for each in ring.values():
        each.sort(key=lambda checkpoint: -checkpoint.number)
    return cursor, ring


async def rewind(
    session: Session,
    schema: str,
    cursor: Position,
    ring: Mapping[str, Sequence[Checkpoint]],
    held: Mapping[str, Checkpoint],
    *,
    term: Mapping[str, Any] | None,
    retention: float,
) -> Sequence[Setback]:
    """Move the cursor back to the earliest of ``held``; nothing if another term has begun.

    ``term`` is None for a person. Whoever leads then loses its term, and reads on from there.
    """
    back = min(held.values(), key=lambda each: _order(each.position))
    position = back.position or _AT_THE_BEGINNING
    if _order(cursor) < _order(position):
        position = cursor  # a repair is under way that began further back
    doomed = [
        (name, each.number)
        for name, last in held.items()
        for each in ring.get(name, ())
        if each.number > last.number or _order(each.position) > _order(position)
    ]
    assert isinstance(position, Position)
    bare = {name: each.tip.created for name, each in held.items() if each.position is None}
    params = {
        **(term or {"epoch": None, "holder": None}),
        "base": position.base,
        "target": position.target,
        "last_id": position.last_id,
        "top_id": back.top_id,
        "since": back.at,
        "back_to": back.tip.stream,
        "back_number": back.number,
        "pruned": back.position is None or back.age > retention,
        "streams": list(held),
        "seqs": [each.tip.seq for each in held.values()],
        "forget_streams": [stream for stream, _ in doomed],
        "bare_streams": list(bare),
        "bare_created": list(bare.values()),
        "forget_numbers": [number for _, number in doomed],
    }
    rows = await session.rows(load("queries/rewind", schema), params)
    return [Setback(*row) for row in rows]


def _order(position: object) -> tuple[int, int, int]:
    """Return what orders positions by time."""
    place = position or _AT_THE_BEGINNING
    assert isinstance(place, Position)
    _, xmax, in_flight = place.base.split(":")
    return int(xmax), -len([xid for xid in in_flight.split(",") if xid]), place.last_id
