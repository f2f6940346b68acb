"""Replays as a person begins them: delivered events are handed to the leader once more.

    look ──► begin (audit) ──► list, key by key ──► mark a chunk ──► … ──► ended
                                      ▲  the leader publishes what is marked, and unparks it
                                      └── no more than IN_FLIGHT marked and not published

Who is right: the row of ``relay.replay``. ``mark_replay`` puts references among the parked and
moves the row's place in one transaction, so whoever goes on, after whatever interruption, goes on
behind what was marked last: no event is marked twice, none is left out. Only the leader publishes
(R-TERM), under its fence (R-ORDER): from a key's first replayed event on, its events come in the
order of id, the live ones too, which wait for their own key's replayed events and for nothing else.

On failure nothing has to be undone: what is marked is published, what is not is left. Prune leaves
the rows of a replay that goes on until ten minutes after its last sign of life.
"""

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final, Self

import anyio
import psycopg
from psycopg import sql

from relay.errors import RelayError, StoreOutage
from relay.postgres.operating import operator_session
from relay.postgres.selection import Matches, Selection
from relay.postgres.session import Session, translated
from relay.postgres.sqlfiles import LEASE_CLASS, REPLAY_CLASS, load

CHUNK_ROWS: Final = 2_000
"""Events that one statement marks."""

IN_FLIGHT: Final = 6_000
"""Events that are marked and not published, at most: so many references the parked hold."""

LIST_DEADLINE: Final = 600.0
"""s for a look over the whole outbox, or to sort what was found: nobody else waits for it."""

TICK: Final = 0.1
"""s between two looks while there is nothing to mark."""

HOLD_EVERY: Final = 5.0
"""s between two signs of life, of which ``mark_replay`` needs one in 20 s."""

_ONE_SNAPSHOT: Final = sql.SQL("set transaction isolation level repeatable read").format()

Listed = tuple[int, int, bool]
"""An event's id, the first id of its key, and whether the next one is of the same key."""


@dataclass(slots=True)
class Replay:
    """One replay under way.

    Attributes:
        events: how many matched when it began.
        marked, skipped: how many were put among the parked so far, and, in this run, left out.
        place_first, place: behind which this run began.
        left, in_flight: how many events of this replay, and of all, wait among the parked, as of
            the last look.
        led: whether a relay led then.
    """

    id: int
    selection: Selection
    same_id: bool
    base: str
    events: int
    marked: int
    place_first: int
    place: int
    left: int = 0
    in_flight: int = 0
    led: bool = True
    skipped: int = 0

    @property
    def published(self) -> int:
        """How many of its events have left the parked: stored, or refused."""
        return max(0, self.marked - self.left)


class _Pace:
    """At most ``rate`` events a second; what was not used is kept for a fifth of one."""

    def __init__(self, rate: float, now: float) -> None:
        self._rate, self._at, self._saved = rate, now, 1.0

    def allowed(self, now: float) -> int:
        """Return how many events may go now."""
        self._saved = min(self._saved + self._rate * (now - self._at), max(1.0, self._rate / 5))
        self._at = now
        return int(self._saved)

    def spent(self, events: int) -> None:
        """Count events as gone."""
        self._saved -= events


class Replays:
    """The replays of one outbox. Make it by ``async with Replays.open(...)``."""

    def __init__(self, session: Session, schema: str) -> None:
        """Work over an open session; ``open`` makes one, and checks the schema first."""
        self._session = session
        self._schema = schema

    @classmethod
    @asynccontextmanager
    async def open(cls, dsn: str, schema: str) -> AsyncIterator[Self]:
        """Connect as ``operator_session`` does, and raise as it does."""
        async with operator_session(dsn, schema) as session:
            yield cls(session, schema)

    async def look(self, selection: Selection, *, window: float = 0.0) -> Matches:
        """Look what ``selection`` matches now; ``window`` is the stream's, in s."""
        params = selection.params() | {"base": None, "window": window}
        query = load("queries/replay_look", self._schema)
        row = await self._session.row(query, params, deadline=LIST_DEADLINE)
        assert row is not None
        return Matches(*row)

    async def streams(self) -> Sequence[str]:
        """Return the names of all streams that the relay has met."""
        rows = await self._session.rows(load("queries/streams", self._schema))
        return [row[0] for row in rows]

    async def begin(
        self,
        selection: Selection,
        *,
        same_id: bool,
        by: str,
        window: float = 0.0,
        judge: Callable[[Matches], None] = lambda _: None,
    ) -> Replay:
        """Begin a replay of what ``selection`` matches now; ``judge`` raises what forbids it.

        Both on one snapshot: what is delivered behind it is not counted, and not replayed.

        Raises:
            RelayError: somebody else replays now.
        """
        async with self._session.transaction(deadline=LIST_DEADLINE):
            await self._session.execute(_ONE_SNAPSHOT)
            judge(matches := await self.look(selection, window=window))
            await self._lock()
            return await self._begin_new(selection, matches, same_id=same_id, by=by)

    async def _begin_new(
        self, selection: Selection, matches: Matches, *, same_id: bool, by: str
    ) -> Replay:
        new = {
            "replay": None,
            "wanted": selection.as_json(),
            "same_id": same_id,
            "first_id": matches.first_id,
            "last_id": matches.last_id,
            "events": matches.events,
        }
        id_ = await self._begin(new | {"by": by})
        return await self._row(id_)

    async def go_on(self, id_: int, *, by: str) -> Replay:
        """Go on with a replay that was interrupted.

        Raises:
            RelayError: it can't be gone on with, or somebody else replays now.
        """
        await self._lock()
        replay = await self._row(id_)
        old = dict.fromkeys(("wanted", "same_id", "first_id", "last_id", "events"))
        await self._begin(old | {"replay": id_, "by": by})
        return replay

    async def refused(self, replay: Replay, limit: int) -> tuple[Sequence[tuple[int, str]], int]:
        """Return the first refused events, each with its error, and how many there are."""
        params = {"replay": replay.id, "limit_rows": limit}
        rows = await self._rows("replay_refused", params)
        return [(id_, error) for id_, error, _ in rows], rows[0][2] if rows else 0

    async def run(
        self,
        replay: Replay,
        *,
        rate: float | None,
        stop: anyio.Event,
        progress: Callable[[Replay], None],
    ) -> bool:
        """Hand over all that is left and wait until it is published; False if stopped before.

        Marks at most ``rate`` events a second. ``progress`` is called after each step. When it is
        stopped, what is marked is still published, and the replay can be gone on with.
        """
        await self._count(replay)
        ended = await self._mark_all(replay, rate, stop, progress)
        await self._mark(replay, [], goes_on=False, ended=ended)
        while ended and not stop.is_set():
            await self._count(replay)
            progress(replay)
            if not replay.left:
                return True
            await self._rest(TICK, stop)
        await self._count(replay)
        return False

    async def _mark_all(
        self,
        replay: Replay,
        rate: float | None,
        stop: anyio.Event,
        progress: Callable[[Replay], None],
    ) -> bool:
        pending, goes_on, signed = deque[Listed](), False, monotonic()
        pace = None if rate is None else _Pace(rate, signed)
        async with self._list(replay) as fetch:
            while not stop.is_set():
                if not pending:
                    pending.extend(await fetch())
                    if not pending:
                        return True
                most = min(CHUNK_ROWS, len(pending))
                if IN_FLIGHT - replay.in_flight < most:
                    await self._count(replay)
                progress(replay)
                room = min(most, IN_FLIGHT - replay.in_flight)
                if pace is not None:
                    room = most = min(room, pace.allowed(monotonic()))
                if room > 0 and room == most:
                    chunk = [pending.popleft() for _ in range(room)]
                    goes_on = chunk[-1][2]
                    await self._mark(replay, chunk, goes_on=goes_on)
                    signed = monotonic()
                    if pace is not None:
                        pace.spent(room)
                    continue
                if monotonic() > signed + HOLD_EVERY:
                    await self._mark(replay, [], goes_on=goes_on)
                    signed = monotonic()
                await self._rest(TICK, stop)
        return False

    async def _mark(
        self,
        replay: Replay,
        chunk: Sequence[Listed],
        *,
        goes_on: bool,
        ended: bool = False,
    ) -> None:
        first_id = chunk[-1][1] if chunk else 0
        params = {"replay": replay.id, "ids": [id_ for id_, _, _ in chunk], "first_id": first_id}
        rows = await self._rows("replay_mark", params | {"goes_on": goes_on, "ended": ended})
        (marked,) = rows[0]
        replay.marked += marked
        replay.left += marked
        replay.in_flight += marked
        replay.skipped += len(chunk) - marked

    async def _count(self, replay: Replay) -> None:
        params = {"replay": replay.id, "lease_class": LEASE_CLASS}
        ((replay.in_flight, replay.left, replay.led),) = await self._rows("replay_left", params)

    @asynccontextmanager
    async def _list(self, replay: Replay) -> AsyncIterator[Callable[[], Awaitable[list[Listed]]]]:
        """Make the list of what is left, in the server; yield what fetches the next of it."""
        place = {"base": replay.base, "place_first": replay.place_first, "place": replay.place}
        query = load("queries/replay_list", self._schema)
        name = "replay_events"
        try:
            async with self._session.connection.cursor(name, withhold=True) as cursor:
                with anyio.fail_after(LIST_DEADLINE):
                    await cursor.execute(query, replay.selection.params() | place)

                async def fetch() -> list[Listed]:
                    with anyio.fail_after(LIST_DEADLINE):
                        return await cursor.fetchmany(CHUNK_ROWS)

                yield fetch
        except TimeoutError:
            self._session.drop()
            raise StoreOutage(
                f"Postgres did not list the events within {LIST_DEADLINE:g} s: name fewer, by --ids"
            ) from None
        except psycopg.Error as error:
            raise translated(error) from error

    async def _lock(self) -> None:
        ((got,),) = await self._rows("replay_lock", {"replay_class": REPLAY_CLASS})
        if not got:
            raise RelayError("another replay is under way: one at a time keeps each key's order")

    async def _begin(self, params: dict[str, Any]) -> int:
        rows = await self._rows("replay_begin", params)
        return int(rows[0][0])

    async def _row(self, id_: int) -> Replay:
        rows = await self._rows("replay_of", {"replay": id_})
        if not rows:
            raise RelayError(f"there is no replay {id_}")
        wanted, same_id, base, *progress, first_id, ended_at, is_whole = rows[0]
        if ended_at is not None:
            raise RelayError(f"replay {id_} has ended: all its events are handed over")
        if not is_whole:
            raise RelayError(
                f"replay {id_} waited too long: from id {first_id} on, rows of it are past"
                " retention and pruned; begin a new one"
            )
        return Replay(id_, Selection.of_json(wanted), same_id, base, *progress)

    async def _rows(self, name: str, params: dict[str, Any]) -> list[Any]:
        return await self._session.rows(load(f"queries/{name}", self._schema), params)

    async def _rest(self, seconds: float, stop: anyio.Event) -> None:
        with anyio.move_on_after(seconds):
            await stop.wait()
