"""One term: the lease, how long it may be trusted (R-TERM), and the outbox as its holder sees it.

``PostgresOutbox.campaign`` begins a term; ``relay.postgres.outbox`` lists its sessions. The lease
is a session advisory lock of the *term* session. The server ends that session, and with it the
lock, when it has been silent for the lifetime: idle, in a transaction, or waiting.

    asked ──round trip──► proof: trusted until asked + lifetime less margin
      ▲                                  │ granted() looks at the clock and at the socket
      └──── watch(), once a second ──────┘ renew() asks again

Any round trip on the session that succeeds proves that the lock was held when the server read it,
which is not before it was asked. So the next leader can't begin before *asked* + lifetime, and
this one sends nothing that was not allowed before *asked* + lifetime less margin. Doubt means no: a
session that failed is never used again, and never replaced within a term.

A settlement is guarded by ``(epoch, holder)`` as well, which each term's beginning changes.

Source: riverqueue/river internal/leadership/doc.go (trusted from when the attempt started).
"""

import time
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
import psycopg
from psycopg import sql

from relay.errors import StoreBusy, StoreFull, StoreOutage, TermLost, sole
from relay.ports import Backlog, ParkedEvents, Report, Settlement, Wake
from relay.postgres.checkpoints import PostgresCheckpoints
from relay.postgres.housekeeping import Housekeeping
from relay.postgres.parked import PostgresParked
from relay.postgres.pool import Pool
from relay.postgres.reading import Position, Reader
from relay.postgres.session import (
    LOOK,
    STATEMENT_DEADLINE,
    Row,
    Session,
    SilentTooLong,
    StatementCanceled,
    until_hung_up,
)
from relay.postgres.sqlfiles import LEASE_CLASS, load

BEAT: Final = 1.1
"""Seconds; a term speaks at least so often. Longer than the pause between two settlements, for each
of them is a proof as well."""

RELEASE_WITHIN: Final = 0.5
"""Seconds for a farewell."""

BACKLOG_EXACT_UP_TO: Final = 10_000


def lease_channel(schema: str) -> str:
    """Return the channel on which a leader that ends says so."""
    return f"{schema}.lease"


def clock() -> float:
    """Return seconds of a clock that never goes back, and goes on while the machine sleeps."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boottime is None else time.clock_gettime(boottime)


def ended_when_silent(lifetime: float) -> Mapping[str, str]:
    """Return the settings of a session that the server must end after ``lifetime`` s of silence."""
    whole = f"{lifetime * 1000:.0f}ms"
    return {
        "idle_session_timeout": whole,
        "idle_in_transaction_session_timeout": whole,
        "statement_timeout": whole,
        "lock_timeout": f"{lifetime * 100:.0f}ms",
        "tcp_user_timeout": whole,
    }


class Lease:
    """One term's hold on the lease. Several tasks may use its session, in turn."""

    def __init__(
        self, session: Session, schema: str, term: tuple[int, str], *, asked: float, lifetime: float
    ) -> None:
        """Hold what ``session``, asked at ``asked``, was granted for ``term``: epoch, holder."""
        self.session = session
        self.lifetime = lifetime
        self.margin = lifetime / 5
        self.term: dict[str, Any] = {"epoch": term[0], "holder": term[1], "at": None}
        self._now: Callable[[], float] = clock
        self._turn = anyio.Lock(fast_acquire=True)
        self._proof = asked
        self._lost: StoreOutage | TermLost | None = None
        self._still_mine = load("queries/still_mine", schema)
        self._release = load("queries/release", schema)
        self._release_params = {"lease_class": LEASE_CLASS, "channel": lease_channel(schema)}

    def granted(self) -> bool:
        """Say whether the last proof is young enough, and the session not seen to be gone."""
        return (
            self._lost is None
            and self._now() < self._proof + self.lifetime - self.margin
            and not self.session.hung_up()
        )

    async def renew(self) -> None:
        """Ask for a new proof, unless one came in while this waited for its turn.

        Raises:
            TermLost: another term has begun, or the session was silent for too long.
            StoreOutage: the session is gone.
        """
        called = self._now()
        async with self._turn:
            if self._proof < called and await self._row(self._still_mine, {}) is None:
                raise self._lose(self.over())

    async def row(self, query: sql.Composed, params: Mapping[str, Any]) -> Row | None:
        """Run one statement with ``epoch`` and ``holder`` among its parameters.

        Raises as ``renew``, and StoreBusy and StoreFull, after which the lease is held as before.
        """
        async with self._turn:
            return await self._row(query, params)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Session]:
        """Make several statements one transaction. Raises as ``row``."""
        async with self._turn:
            asked = self._asked()
            try:
                async with self.session.transaction():
                    yield self.session
            except StoreOutage as outage:
                raise self._after(outage, asked) from outage
            self._proof = asked

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[Session]:
        """Use the term's session alone, for what is proof of nothing."""
        async with self._turn:
            self._asked()
            yield self.session

    async def watch(self, *others: Session) -> None:
        """Speak every ``BEAT`` s at least until cancelled; notice at once one that Postgres closed.

        One of ``others`` that was closed at this end is none of its business: a stop interrupts the
        reader, and the page in hand is still to be settled. One with a statement under way is that
        statement's: it raises what Postgres said.

        Raises:
            TermLost, StoreOutage: the lease, or one of the sessions of ``others``, is lost.
        """
        while True:
            beat = min(BEAT, 0.22 * self.lifetime)
            left = self._proof + beat - self._now()
            await until_hung_up((self.session, *others), max(0.0, left))
            if self._now() >= self._proof + beat or self.session.hung_up():
                await self.renew()
            open_ones = (each.connection for each in others if not each.connection.closed)
            gone = [each for each in open_ones if each.hung_up()]
            if any(not each.is_waited_for for each in gone):
                raise self._lose(StoreOutage("Postgres closed a session of the term"))
            if gone:
                await anyio.sleep(LOOK)

    async def release(self) -> None:
        """Let go of the lease, and wake those that stand by; the next term can begin at once.

        Where that can't be said in time the session's end says it, to who asks next.
        """
        try:
            if self._lost is None and not self.session.hung_up():
                with anyio.move_on_after(RELEASE_WITHIN, shield=True):
                    await self.row(self._release, self._release_params)
        except (StoreOutage, TermLost):
            pass
        finally:
            self._lose(StoreOutage("the term is closed"))

    def over(self) -> TermLost:
        """Return the error of a term that another one has followed."""
        return TermLost(f"epoch {self.term['epoch']} is over: another relay leads")

    async def _row(self, query: sql.Composed, params: Mapping[str, Any]) -> Row | None:
        asked = self._asked()
        try:
            found = await self.session.row(
                query, {**params, **self.term}, deadline=min(STATEMENT_DEADLINE, self.lifetime)
            )
        except StoreOutage as outage:
            raise self._after(outage, asked) from outage
        self._proof = asked
        return found

    def _asked(self) -> float:
        if self._lost is not None:
            raise type(self._lost)(str(self._lost))
        return self._now()

    def _after(self, outage: StoreOutage | TermLost, asked: float) -> StoreOutage | TermLost:
        """Return what an outage, met by a statement begun at ``asked``, means for the lease."""
        harmless = isinstance(outage, StoreBusy | StoreFull | StatementCanceled)
        if (harmless or outage.__cause__ is None) and not self.session.hung_up():
            return outage  # of one statement, or our own: the session is as good as before
        silent = asked - self._proof  # ours; a server that does not answer is an outage
        if silent >= self.lifetime or isinstance(outage, SilentTooLong):
            outage = TermLost(
                f"the term's session was silent for longer than its lifetime, {self.lifetime:g} s:"
                f" Postgres has ended it ({outage})"
            )
        return self._lose(outage)

    def _lose(self, error: StoreOutage | TermLost) -> StoreOutage | TermLost:
        if self._lost is None:
            self._lost = error
        self.session.drop()
        return error


class PostgresStore:
    """One term's view of the outbox: ``relay.ports.OutboxStore``."""

    def __init__(
        self,
        lease: Lease,
        reader: Reader,
        parked: PostgresParked,
        checkpoints: PostgresCheckpoints,
        pool: Pool,
        *,
        promotions: Callable[[], Coroutine[Any, Any, None]],
        schema: str,
        dead_blocks: bool,
    ) -> None:
        """Use ``PostgresOutbox.campaign``; ``promotions`` raises when another host is promoted."""
        self.epoch: int = lease.term["epoch"]
        self.parked: ParkedEvents = parked
        self.checkpoints = checkpoints
        self.granted, self.renew, self.read = lease.granted, lease.renew, reader.read
        self._parked = parked
        self._dead_blocks = dead_blocks
        self._lease = lease
        self._reader = reader
        self._pool = pool
        self._promotions = promotions
        self._schema = schema
        self._housekeeping = Housekeeping(schema, parked, lease.term)
        self._tending = anyio.Lock()
        self._settle = load("queries/settle", schema)

    async def watch(self) -> None:
        """Keep the term's lease alive until cancelled; raises when it, or the primary, is lost."""
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._promotions)
                await self._lease.watch(self._reader.session)
        except BaseExceptionGroup as group:
            raise sole(group) from None

    async def settle(self, done: Settlement) -> None:
        """Move the cursor and change the parked, in one transaction."""
        place = _place(done.position) | self.checkpoints.written_with(done)
        if not (done.parked or done.unparked):
            self._moved(await self._lease.row(self._settle, place))
            return
        try:
            async with self._lease.transaction() as session:
                self._moved(await session.row(self._settle, place | self._lease.term))
                await self._parked.write(session, done.parked, done.unparked)
        except psycopg.Error as error:  # of no outage's kind: the data, or a condition on it
            async with self._lease.alone() as session:
                refused = await self._parked.refused_one(session, done.parked)
            what = "a settlement"
            if refused is not None:
                what = f"to keep event {refused.event_id} (id {refused.id}) as parked"
            raise StoreOutage(f"the database refuses {what}: {error}") from error

    def _moved(self, row: Row | None) -> None:
        """Note where the cursor row is now."""
        if row is None:
            raise self._lease.over()
        self._lease.term["at"] = row[1]

    # Beside delivery, over the pool.

    async def look(self, position: object | None) -> Backlog:
        """Look at what waits, exactly up to 10,000 events."""
        bounds = {"exact_up_to": BACKLOG_EXACT_UP_TO, "dead_blocks": self._dead_blocks}
        rows = await self._rows("look", _place(position) | self._lease.term | bounds)
        if not rows:
            raise StoreOutage("the cursor row is gone")
        *backlog, epoch, holder = rows[0]
        if (epoch, holder) != (self.epoch, self._lease.term["holder"]):
            raise self._lease.over()
        return Backlog(*backlog)

    async def tend(self, retention: float) -> int:
        """Do one bounded piece of housekeeping; how many events were deleted."""
        async with self._tending, self._pool.session() as session:
            return await self._housekeeping.tend(session, retention)

    async def report(self, report: Report) -> None:
        """Leave word of the leader for those who ask for the status."""
        columns = ("lag_breaker", "bus_breaker", "delivered", "refused")
        row = self._lease.term | {name: getattr(report, name) for name in columns}
        row |= {f"wakes_{wake}": report.wakes.get(wake, 0) for wake in (Wake.BELL, Wake.POLL)}
        await self._rows("report", row)

    async def streams(self) -> Mapping[str, Collection[str]]:
        """Return every stream that was ever learnt, with every subject filter it ever had."""
        async with self._lease.alone() as session:  # it is open, and the term waits for this
            return dict(await session.rows(load("queries/streams", self._schema)))

    async def keep_streams(self, streams: Mapping[str, Collection[str]]) -> None:
        """Remember ``streams`` beyond this process."""
        pairs = [(name, subject) for name, subjects in streams.items() for subject in subjects]
        if pairs:
            names, subjects = zip(*pairs, strict=True)
            await self._rows("keep_streams", {"names": list(names), "subjects": list(subjects)})

    async def close(self) -> None:
        """End the term."""
        self._reader.session.drop()
        await self._lease.release()

    async def _rows(self, name: str, params: Mapping[str, Any]) -> list[Row]:
        async with self._pool.session() as session:
            return await session.rows(load(f"queries/{name}", self._schema), params)


def _place(position: object | None) -> dict[str, Any]:
    if position is None:
        return {"base": None, "target": None, "last_id": None}
    assert isinstance(position, Position)
    return {"base": position.base, "target": position.target, "last_id": position.last_id}
