"""The outbox in Postgres: how a term begins, and which sessions it has.

Who is right: ``(epoch, holder)`` in the cursor row. Both change when a term begins, and every
settlement requires that they are still the same, so a relay that slept through its own end changes
nothing. The lease keeps other relays from beginning a term (R-TERM, see ``store``). Only committed
rows are read, each once in a term (R-PHANTOM, see ``reading``); an event is passed over only by a
settlement that says where it went (R-LOSS, see ``parked``).

    candidate ──lease granted──► begin: raise the epoch, take in rows of another cluster ──► store
        ▲   asks again and again                                                            │
        └───────────────────────────── a failure, or the end of the term ◄──────────────────┘

Sessions of a leader:

    term       holds the lease, settles      its loss ends the term
    reader     reads pages                   its loss ends the term
    listener   is rung (see ``bell``)        its loss costs the bell
    pool (2)   everything else               its loss ends nothing

On any failure the term ends, its sessions are dropped, and the next term reads on behind the last
settlement. What was published and not settled is published again under the same message ids.
"""

import logging
import weakref
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Final

import anyio
import psycopg
from psycopg import sql

from relay.core.storage import OutboxStorage
from relay.errors import LeaseTaken, StoreOutage, TermLost
from relay.postgres import migrations, status
from relay.postgres.checkpoints import PostgresCheckpoints
from relay.postgres.connecting import one_host, open_connection
from relay.postgres.hosts import Hosts
from relay.postgres.parked import PostgresParked
from relay.postgres.pool import Pool
from relay.postgres.reading import PLANS, Position, Reader
from relay.postgres.session import Connection, Session
from relay.postgres.sqlfiles import LEASE_CLASS, load
from relay.postgres.store import (
    Lease,
    PostgresStore,
    clock,
    ended_when_silent,
    lease_channel,
)

log = logging.getLogger("relay.postgres")

STORAGE_DEADLINE: Final = 2.0
HOLDER_EVERY: Final = 1.0
"""Seconds between two questions of who holds the lease."""

STAMP_CHUNK_ROWS: Final = 5_000

_WRITING: Final = {
    **PLANS,
    # Losing the last settlements in a crash of the server only publishes again.
    "synchronous_commit": "off",
}
_HEAR_NO_MORE: Final = sql.SQL("unlisten *").format()
_DURABLE: Final = sql.SQL("set local synchronous_commit = on").format()


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
        lease_lifetime: float = 5.0,
        message_id_prefix: str = "",
        retention: float = 900.0,
    ) -> None:
        """Connect to nothing yet.

        Args:
            dsn: libpq connection string or URI.
            schema: the outbox's schema.
            page_bytes: where a page ends.
            dead_blocks: whether a dead event blocks the later ones of its key.
            longest_delay: s; no parked event waits longer for its next try.
            lease_lifetime: s; how long a leader that is silent keeps the lease.
            message_id_prefix: what every message id begins with.
            retention: s; what was settled longer ago may be deleted.
        """
        self.schema = schema
        self.lease_lifetime = lease_lifetime
        self.pool = Pool(self._open_pooled)
        self._server = dsn
        self._hosts = Hosts(dsn, schema)
        self._pages: dict[str, Any] = {"page_bytes": page_bytes, "prefix": message_id_prefix}
        self._dead_blocks = dead_blocks
        self._longest_delay = longest_delay
        self._retention = retention
        self._candidate: Session | None = None
        self._listens = False
        self._foreign_holder = ""
        self._holder_looked_at = float("-inf")
        self._opened: list[tuple[str, weakref.ref[psycopg.AsyncConnection[Any]]]] = []

    async def connect_listener(self) -> Session:
        """Open the session that listens; like the term's, the server ends it when it is silent."""
        return await self._connect("listener", ended_when_silent(self.lease_lifetime))

    def sessions(self) -> Mapping[str, int]:
        """Count the sessions that are open, by duty."""
        return Counter(duty for duty, connection in self._opened if _is_open(connection))

    async def campaign(self, holder: str) -> PostgresStore | None:
        """Try once to begin a term; the session of a candidate is kept between tries."""
        session, self._candidate = self._candidate, None
        try:
            if session is not None and session.hung_up():
                session.drop()
                session = None
            if session is None:
                session = await self._candidacy()
            asked = clock()
            got = await session.row(self._query("campaign"), {"lease_class": LEASE_CLASS})
            if got is not None and got[0]:
                return await self._begin(session, holder, asked)
            await self._listen(session)
            await self._look_who_holds(session)
        except BaseException as error:
            if session is not None:
                session.drop()
            if isinstance(error, TermLost):  # it may be so at each try: a person has to know why
                raise StoreOutage(f"a term ended while it began: {error}") from error
            raise
        self._candidate = session
        if self._foreign_holder:
            raise LeaseTaken(self._foreign_holder)
        return None

    async def released(self, seconds: float) -> None:
        """Wait until a leader that ends says so, for at most ``seconds``."""
        session = self._candidate if self._listens else None
        if session is None:
            await anyio.sleep(seconds)
            return
        try:
            async for _ in session.connection.notifies(timeout=seconds, stop_after=1):
                pass
        except psycopg.Error:
            session.drop()  # the next campaign sees that, and connects anew

    async def storage(self) -> OutboxStorage:
        """Look at what the outbox takes up."""
        async with self.pool.session() as session:
            row = await session.row(self._query("storage"), deadline=STORAGE_DEADLINE)
        if row is None:
            raise StoreOutage("the look at the outbox's storage returned nothing")
        size_bytes, dead_rows, oldest_transaction = row
        return OutboxStorage(size_bytes, dead_rows, oldest_transaction, self.sessions())

    async def close(self) -> None:
        """Stop standing by, and let go of every session."""
        if self._candidate is not None:
            self._candidate.drop()
            self._candidate = None
        await self.pool.close()

    async def _candidacy(self) -> Session:
        """Open the session of a candidate, and stay with its server from now on."""
        self._listens = False
        options = {**_WRITING, **ended_when_silent(self.lease_lifetime)}
        self._server = await self._hosts.choose()
        session = await self._connect("term", options)
        try:
            await self._hosts.admit(session)
            self._server = one_host(self._server, session.connection)
            self.pool.begin_anew()
            await migrations.verify(session.connection, self.schema)
        except BaseException:
            session.drop()
            raise
        return session

    async def _listen(self, session: Session) -> None:
        """Hear from now on what a leader that ends says; a server that can't is asked in turns."""
        if not self._listens:
            channel = sql.Identifier(lease_channel(self.schema))
            with suppress(psycopg.NotSupportedError):  # a hot standby's
                await session.rows(sql.SQL("listen {}").format(channel))
                self._listens = True

    async def _look_who_holds(self, session: Session) -> None:
        """Remember who holds the lease, if that is no relay."""
        now = clock()
        if now >= self._holder_looked_at + HOLDER_EVERY:
            self._holder_looked_at = now
            holder = await status.stranger(session, self.schema)
            self._foreign_holder = holder and (
                f"the lease of schema {self.schema} is held by a session that is no relay's:"
                f" {holder}; end it"
            )

    async def _begin(self, term: Session, holder: str, asked: float) -> PostgresStore:
        """Begin the term whose lease ``term`` holds."""
        await migrations.up_to_date(term, self.schema)  # while this one stood by it was migrated
        if self._listens:
            await term.rows(_HEAR_NO_MORE)
        await self._hosts.confirm(self._server)
        async with term.transaction():
            await term.rows(_DURABLE)
            row = await term.row(self._query("begin_term"), {"holder": holder})
        if row is None:
            raise StoreOutage(f"the cursor row of schema {self.schema} is gone")
        epoch, base, target, last_id, same_cluster, from_xid = row
        position = Position(base, target, last_id)
        lease = Lease(term, self.schema, (epoch, holder), asked=asked, lifetime=self.lease_lifetime)
        if await self._take_in(lease, from_xid, all_rows=not same_cluster):
            position = Position()
        limits: dict[str, Any] = {
            "dead_blocks": self._dead_blocks,
            "longest_delay": self._longest_delay,
        }
        parked = PostgresParked(self.pool, self.schema, **self._pages, **limits)
        await parked.promote_all(term)
        reader = Reader(await self._connect("reader", PLANS), self.schema, position, **self._pages)
        try:
            await self._confirm(lease, reader.session)
        except BaseException:
            reader.session.drop()
            raise
        checkpoints = PostgresCheckpoints(
            self.pool, self.schema, lease.term, position, self._retention, own=lease.alone
        )
        how: dict[str, Any] = {"schema": self.schema, "dead_blocks": self._dead_blocks}
        how["promotions"] = partial(self._hosts.watch, self._server)
        return PostgresStore(lease, reader, parked, checkpoints, self.pool, **how)

    async def _confirm(self, lease: Lease, reader: Session) -> None:
        """Raise TermLost unless ``reader`` is at the term's server, and the lease lasts."""
        if await reader.row(self._query("still_mine"), lease.term) is None:
            raise TermLost("the reader's session reached another server than the term's")
        await lease.renew()

    async def _take_in(self, lease: Lease, from_xid: str, *, all_rows: bool) -> bool:
        """Stamp rows of another cluster anew, before the term's first read; True if all were."""
        if not all_rows and await lease.row(self._query("foreign_rows"), {}) is None:
            return False
        place = {"chunk_rows": STAMP_CHUNK_ROWS, "from_xid": from_xid, "all_rows": all_rows}
        last_id, stamped = -(1 << 63), 0
        while last_id is not None:
            row = await lease.row(self._query("stamp"), {**place, "after_id": last_id})
            assert row is not None
            last_id, stamped = row[0], stamped + row[1]
        if all_rows and await lease.row(self._query("adopt"), {}) is None:
            raise TermLost("another term began while this one began")
        log.warning(
            "the outbox has rows that came from another cluster: they are published, those that"
            " were retained there again, under the same message ids",
            extra={"events": stamped},
        )
        return all_rows

    async def _connect(self, duty: str, options: Mapping[str, str]) -> Session:
        """Open a session for ``duty`` to the last candidate's server."""
        session = await Session.connect(self._server, duty, options=options)
        self._note(duty, session.connection)
        return session

    async def _open_pooled(self, connection_class: type[Connection]) -> Connection:
        connection = await open_connection(self._server, "pool", PLANS, connection_class)
        self._note("pool", connection)
        return connection

    def _note(self, duty: str, connection: psycopg.AsyncConnection[Any]) -> None:
        self._opened = [each for each in self._opened if _is_open(each[1])]
        self._opened.append((duty, weakref.ref(connection)))

    def _query(self, name: str) -> sql.Composed:
        return load(f"queries/{name}", self.schema)


def _is_open(reference: weakref.ref[psycopg.AsyncConnection[Any]]) -> bool:
    connection = reference()
    return connection is not None and not connection.closed
