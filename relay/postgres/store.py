"""The outbox in Postgres: terms, reading, settling, retention.

Who is right: ``epoch`` in the cursor row. It is raised when a term begins, and every settlement
says ``where epoch = mine``, so a relay that slept through its own death changes nothing. The lease
(a session advisory lock) only tells standbys early that the leader's session is gone.

Sessions, each with one duty, so that none waits for another:

    term         holds the lease, settles        its loss ends the term
    reader       reads pages                     its loss ends the term
    parked       looks at the parked             made when first needed; its loss ends the term
    housekeeper  prunes, looks at the backlog    made when first needed
    storage      looks at sizes, for metrics     only while somebody measures; nothing depends on it

On any failure: the term ends, the sessions are dropped, and the next term reads on behind the last
settlement. What was published and not settled is published again under the same message ids.
"""

import logging
import weakref
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

import anyio

from relay.core.breakers import Breakers
from relay.errors import StoreOutage, TermLost
from relay.ports import Backlog, Page, ParkedEvents, Settlement, Wake
from relay.postgres import migrations
from relay.postgres.cursor import Position
from relay.postgres.hosts import pinned
from relay.postgres.locks import LEASE_CLASS
from relay.postgres.parked import PostgresParked
from relay.postgres.reader import SESSION_OPTIONS, Reader
from relay.postgres.session import Session
from relay.postgres.sqlfiles import load

log = logging.getLogger("relay.postgres")

PRUNE_CHUNK_ROWS = 5_000
BACKLOG_EXACT_UP_TO = 10_000

_WRITING = SESSION_OPTIONS | {
    # Losing the last settlements in a crash of the server only publishes again.
    "synchronous_commit": "off",
}


class PostgresOutbox:
    """Where terms come from: ``relay.ports.Outbox`` over one database."""

    def __init__(
        self,
        dsn: str,
        schema: str,
        *,
        page_bytes: int,
        dead_blocks: bool = False,
        longest_delay: float = 30.0,
    ) -> None:
        """Take the connection string, the outbox's schema and a page's bound in bytes.

        Args:
            dsn: libpq connection string or URI.
            schema: the outbox's schema.
            page_bytes: where a page ends.
            dead_blocks: whether a dead event blocks the later ones of its key.
            longest_delay: s; no parked event waits longer for its next try.
        """
        self._dsn = dsn
        self._server = dsn
        self._schema = schema
        self._page_bytes = page_bytes
        self._dead_blocks = dead_blocks
        self._longest_delay = longest_delay
        self._campaign = load("queries/campaign", schema)
        self._candidate: Session | None = None
        self._opened: list[tuple[str, weakref.ref[Session]]] = []

    async def connect(self, duty: str, options: Mapping[str, str] | None = None) -> Session:
        """Open a session for ``duty`` to the server that the last candidate found."""
        session = await Session.connect(self._server, duty, options=options)
        self._note(duty, session)
        return session

    def sessions(self) -> Mapping[str, int]:
        """Count the sessions that are open, by duty."""
        return Counter(duty for duty, session in self._opened if _is_open(session))

    async def campaign(self, holder: str) -> "PostgresStore | None":
        """Try once to begin a term; the session of a candidate is kept between tries."""
        session = self._candidate
        self._candidate = None
        try:
            if session is None:
                session = await Session.connect(self._dsn, "term", options=_WRITING)
                self._server = pinned(self._dsn, session.connection)
                self._note("term", session)
                await migrations.verify(session.connection, self._schema)
            got = await session.row(self._campaign, {"lease_class": LEASE_CLASS})
            if got is None or not got[0]:
                self._candidate = session
                return None
            return await self._begin(session, holder)
        except BaseException:
            if session is not None:
                session.drop()
            raise

    async def close(self) -> None:
        """Stop standing by."""
        if self._candidate is not None:
            self._candidate.drop()
            self._candidate = None

    def _note(self, duty: str, session: Session) -> None:
        self._opened = [each for each in self._opened if _is_open(each[1])]
        self._opened.append((duty, weakref.ref(session)))

    async def _begin(self, term: Session, holder: str) -> "PostgresStore":
        """Begin the term whose lease ``term`` holds."""
        row = await term.row(load("queries/begin_term", self._schema), {"holder": holder})
        if row is None:
            raise StoreOutage(f"the cursor row of schema {self._schema} is gone")
        epoch, base, target, last_id, same_cluster = row
        position = Position(base, target, last_id)
        if not same_cluster:
            stamped = await term.row(
                load("queries/adopt_cluster", self._schema), {"epoch": epoch}, deadline=600.0
            )
            if stamped is None:
                raise TermLost(f"epoch {epoch} ended while it began")
            log.warning(
                "the outbox came here from another cluster: its retained events are published"
                " again, under the same message ids",
                extra={"events": stamped[0]},
            )
            position = Position()
        parked = PostgresParked(
            partial(self.connect, "parked", _WRITING),
            self._schema,
            page_bytes=self._page_bytes,
            dead_blocks=self._dead_blocks,
            longest_delay=self._longest_delay,
        )
        await parked.promote_all(term)
        session = await self.connect("reader", SESSION_OPTIONS)
        reader = Reader(session, self._schema, position, self._page_bytes)
        return PostgresStore(
            epoch,
            term,
            reader,
            parked,
            connect=self.connect,
            schema=self._schema,
            dead_blocks=self._dead_blocks,
        )


def _is_open(reference: weakref.ref[Session]) -> bool:
    session = reference()
    return session is not None and not session.connection.closed


class PostgresStore:
    """One term's view of the outbox: ``relay.ports.OutboxStore``."""

    def __init__(
        self,
        epoch: int,
        term: Session,
        reader: Reader,
        parked: PostgresParked,
        *,
        connect: Callable[[str, Mapping[str, str]], Awaitable[Session]],
        schema: str,
        dead_blocks: bool,
    ) -> None:
        """Use ``PostgresOutbox.campaign``."""
        self.epoch = epoch
        self.parked: ParkedEvents = parked
        self._parked = parked
        self._dead_blocks = dead_blocks
        self._reported: Breakers | None = None
        self._term = term
        self._reader = reader
        self._connect = connect
        self._housekeeper: Session | None = None
        self._housekeeping = anyio.Lock()
        self._prune_floor = 0
        self._settle = load("queries/settle", schema)
        self._settle_parked = load("queries/settle_parked", schema)
        self._report = load("queries/report", schema)
        self._prune = load("queries/prune", schema)
        self._backlog = load("queries/backlog", schema)

    async def read(self, limit: int) -> Page:
        """Read the next page of at most ``limit`` events and the configured bytes."""
        return await self._reader.read(limit)

    async def settle(self, done: Settlement) -> None:
        """Move the cursor and change the parked, in one transaction."""
        if not (done.parked or done.unparked):
            await self._move(done)
            return
        async with self._term.transaction():
            await self._move(done)
            await self._parked.write(self._term, done.parked, done.unparked)

    async def _move(self, done: Settlement) -> None:
        wakes = done.wakes or {}
        counts = {
            "epoch": self.epoch,
            "delivered": done.delivered,
            "refused": sum(1 for each in done.parked if each.attempts and not each.held_by),
            "wakes_bell": wakes.get(Wake.BELL, 0),
            "wakes_grant": wakes.get(Wake.GRANT, 0),
            "wakes_poll": wakes.get(Wake.POLL, 0),
        }
        position = done.position
        if position is None:
            moved = await self._term.row(self._settle_parked, counts)
        else:
            assert isinstance(position, Position)
            place = {
                "base": position.base,
                "target": position.target,
                "last_id": position.last_id,
            }
            moved = await self._term.row(self._settle, counts | place)
        if moved is None:
            raise TermLost(f"epoch {self.epoch} is over: another relay leads")

    async def prune(self, retention: float) -> int:
        """Delete settled events past ``retention`` s among the next 5,000 rows; how many went."""
        async with self._housekeeping:
            session = await self._keep_house()
            row = await session.row(
                self._prune,
                {
                    "floor": self._prune_floor,
                    "chunk_rows": PRUNE_CHUNK_ROWS,
                    "retention": f"{retention} seconds",
                },
            )
        assert row is not None
        deleted, last_id, young = row
        self._prune_floor = 0 if young or last_id is None else last_id
        return int(deleted)

    async def backlog(self, breakers: Breakers | None = None) -> Backlog:
        """Look at what waits, exactly up to 10,000 events, and report a change of ``breakers``."""
        async with self._housekeeping:
            session = await self._keep_house()
            row = await session.row(
                self._backlog,
                {"exact_up_to": BACKLOG_EXACT_UP_TO, "dead_blocks": self._dead_blocks},
            )
            if breakers is not None and breakers != self._reported:
                report = {"lag_breaker": breakers.lag, "bus_breaker": breakers.bus}
                await session.rows(self._report, {"epoch": self.epoch, **report})
                self._reported = breakers
            if row is not None and row[4]:
                await self._parked.promote_all(session)
        if row is None:
            raise StoreOutage("the cursor row is gone")
        undelivered, lag, parked, dead, blocking, epoch = row
        if epoch != self.epoch:
            raise TermLost(f"epoch {self.epoch} is over: {epoch} has begun")
        return Backlog(undelivered, lag, parked, dead, blocking)

    async def close(self) -> None:
        """End the term: the lease goes with its session."""
        self._term.drop()
        self._reader.session.drop()
        self._parked.drop()
        if self._housekeeper is not None:
            self._housekeeper.drop()

    async def _keep_house(self) -> Session:
        if self._housekeeper is None or self._housekeeper.connection.closed:
            self._housekeeper = await self._connect("housekeeper", _WRITING)
        return self._housekeeper
