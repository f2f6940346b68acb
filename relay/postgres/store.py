"""One term's view of the outbox: reading, settling, looking, housekeeping.

Made by ``PostgresOutbox.campaign``, whose module says who is right and which sessions there are.
"""

from collections.abc import Collection, Mapping
from typing import Any, Final

import anyio
import psycopg

from relay.core.disposition import Parking
from relay.errors import StoreOutage, TermLost
from relay.ports import Backlog, Page, ParkedEvents, Report, Settlement, Wake
from relay.postgres.cursor import Position
from relay.postgres.housekeeping import Housekeeping
from relay.postgres.lease import Lease
from relay.postgres.parked import PostgresParked
from relay.postgres.pool import Pool
from relay.postgres.reading import Reader
from relay.postgres.sqlfiles import load

BACKLOG_EXACT_UP_TO: Final = 10_000


class PostgresStore:
    """One term's view of the outbox: ``relay.ports.OutboxStore``."""

    def __init__(
        self,
        epoch: int,
        lease: Lease,
        reader: Reader,
        parked: PostgresParked,
        pool: Pool,
        *,
        schema: str,
        dead_blocks: bool,
    ) -> None:
        """Use ``PostgresOutbox.campaign``."""
        self.epoch = epoch
        self.parked: ParkedEvents = parked
        self._parked = parked
        self._dead_blocks = dead_blocks
        self._lease = lease
        self._reader = reader
        self._pool = pool
        self._housekeeping = Housekeeping(schema, parked)
        self._tending = anyio.Lock()
        self._settle = load("queries/settle", schema)
        self._settle_in_place = load("queries/settle_in_place", schema)
        self._look = load("queries/look", schema)
        self._report = load("queries/report", schema)
        self._streams = load("queries/streams", schema)
        self._keep_streams = load("queries/keep_streams", schema)

    # The permit.

    def granted(self) -> bool:
        """Say whether the last proof of the lease is young enough. Cheap, asks nobody."""
        return self._lease.granted()

    async def renew(self) -> None:
        """Ask for a new proof of the lease."""
        await self._lease.renew()

    async def watch(self) -> None:
        """Keep the term's lease alive until cancelled; raises when it is lost."""
        await self._lease.watch(self._reader.session)

    # Delivery.

    async def read(self, limit: int) -> Page:
        """Read the next page of at most ``limit`` events and the configured bytes."""
        return await self._reader.read(limit)

    async def settle(self, done: Settlement) -> None:
        """Move the cursor and change the parked, in one transaction."""
        query, place = self._place(done.position)
        if not (done.parked or done.unparked):
            self._check(await self._lease.row(query, place))
            return
        try:
            async with self._lease.transaction() as session:
                self._check(await session.row(query, place | self._lease.term))
                await self._parked.write(session, done.parked, done.unparked)
        except psycopg.Error as error:  # of no outage's kind: the data, or a condition on it
            refused = await self._refused_one(done.parked)
            raise StoreOutage(f"{refused}: {error}") from error

    def _place(self, position: object | None) -> tuple[Any, dict[str, Any]]:
        if position is None:
            return self._settle_in_place, {}
        assert isinstance(position, Position)
        place = {"base": position.base, "target": position.target, "last_id": position.last_id}
        return self._settle, place

    def _check(self, moved: object | None) -> None:
        if moved is None:
            raise TermLost(f"epoch {self.epoch} is over: another relay leads")

    async def _refused_one(self, parked: Collection[Parking]) -> str:
        """Say which event it is that the database refuses to keep."""
        async with self._lease.alone() as session:
            each = await self._parked.refused_one(session, list(parked))
        if each is None:
            return "the database refuses a settlement"
        return f"the database refuses to keep event {each.event_id} (id {each.id}) as parked"

    # Beside delivery.

    async def look(self, position: object | None) -> Backlog:
        """Look at what waits, exactly up to 10,000 events."""
        place: dict[str, Any] = {"base": None, "target": None, "last_id": None}
        if position is not None:
            place |= self._place(position)[1]
        async with self._pool.session() as session:
            row = await session.row(
                self._look,
                {
                    **place,
                    "exact_up_to": BACKLOG_EXACT_UP_TO,
                    "dead_blocks": self._dead_blocks,
                },
            )
        if row is None:
            raise StoreOutage("the cursor row is gone")
        undelivered, lag, parked, dead, held, held_lag, blocking, epoch, holder = row
        if {"epoch": epoch, "holder": holder} != self._lease.term:
            raise TermLost(f"epoch {self.epoch} is over: {epoch} has begun")
        return Backlog(undelivered, lag, parked, dead, held, held_lag, blocking)

    async def tend(self, retention: float) -> int:
        """Do one bounded piece of housekeeping; how many events were deleted."""
        async with self._tending, self._pool.session() as session:
            return await self._housekeeping.tend(session, retention)

    async def report(self, report: Report) -> None:
        """Leave word of the leader for who asks for the status."""
        said = {
            **self._lease.term,
            "lag_breaker": report.lag_breaker,
            "bus_breaker": report.bus_breaker,
            "delivered": report.delivered,
            "refused": report.refused,
            "wakes_bell": report.wakes.get(Wake.BELL, 0),
            "wakes_poll": report.wakes.get(Wake.POLL, 0),
        }
        async with self._pool.session() as session:
            await session.rows(self._report, said)

    async def streams(self) -> Mapping[str, Collection[str]]:
        """Return every stream that was ever learnt, with every subject filter it ever had."""
        async with self._pool.session() as session:
            return dict(await session.rows(self._streams))

    async def keep_streams(self, streams: Mapping[str, Collection[str]]) -> None:
        """Remember ``streams`` beyond this process."""
        pairs = [(name, subject) for name, subjects in streams.items() for subject in subjects]
        if pairs:
            names, subjects = zip(*pairs, strict=True)
            given = {"names": list(names), "subjects": list(subjects)}
            async with self._pool.session() as session:
                await session.rows(self._keep_streams, given)

    async def close(self) -> None:
        """End the term: the lease goes with its session."""
        self._lease.release()
        self._reader.session.drop()
