"""The pool of two sessions for everything but the term, the reader and the listener.

It serves the looks at the backlog and the parked, housekeeping, reports, sizes, and the bell's
trial commits. A session is made when it is needed, checked each time it is lent (does its server
still take writes?), and closed by the pool after ``IDLE`` s without use.

The pool stays with the term's server; each candidate's session has it ``begin_anew``. Losing every
session ends nothing by itself; whoever waits for a session gets a StoreOutage. So does whoever asks
a closed pool: one that opened again then would be closed by nobody, and psycopg_pool's task that
connects goes on when it is cancelled, so that the process would not end.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, Self

import anyio
import psycopg
import psycopg_pool
from psycopg_pool import AsyncConnectionPool

from relay.errors import RelayError, StoreBusy, StoreOutage
from relay.postgres.connecting import in_words
from relay.postgres.session import Connection, Session

MOST: Final = 2
WAIT: Final = 3.0
"""Seconds to wait for a session: less than every deadline of the callers."""

CHECK_DEADLINE: Final = 2.0
IDLE: Final = 60.0
CLOSE_DEADLINE: Final = 0.5

_READ_ONLY: Final = (
    "select pg_catalog.pg_is_in_recovery()"
    " or pg_catalog.current_setting('transaction_read_only') = 'on'"
)
_NO_WAITING: Final = "select pg_catalog.set_config('synchronous_commit', 'off', false)"
"""Set once a session, and not among its first settings, so that a trial commit can go back to what
producers have by default. What housekeeping loses in a crash of the server is done again."""


class PooledConnection(Connection):
    """A connection that the pool opens in our way."""

    @classmethod
    async def connect(cls, conninfo: str = "", **given: Any) -> Self:
        """Open a connection as ``opener`` does; psycopg_pool calls this."""
        assert not conninfo
        connection: Self = await given["opener"](cls)
        return connection


class Pool:
    """Lends sessions. One event loop uses it; after ``close`` it lends none until begun anew."""

    def __init__(self, opener: Callable[[type[Connection]], Awaitable[Connection]]) -> None:
        """Open connections by ``opener``, when first needed."""
        self._opener = opener
        self._pool: AsyncConnectionPool[PooledConnection] | None = None
        self._reason = ""
        self._is_closed = False
        self._closing: set[asyncio.Task[None]] = set()

    def begin_anew(self) -> None:
        """Close what is open, and connect at once when asked: the server was lost, or is another.

        A pool that failed to connect waits a second before it tries again.
        """
        self._is_closed = False
        self._let_go()

    def _let_go(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            task = asyncio.create_task(pool.close(CLOSE_DEADLINE), name="close the pool")
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        """Lend a session; at most ``MOST`` are out at a time.

        Raises:
            StoreBusy: there is none within ``WAIT`` s, whether the server is away or not.
            StoreOutage: the pool is closed; or the server refuses a statement by an error that is
                of no outage's kind, such as a broken index: what is asked here is asked again.
        """
        pool, connection = await self._lent()
        try:
            yield Session(connection)
        except psycopg.Error as error:
            raise StoreOutage(f"the database refuses it: {in_words(error)}") from error
        finally:
            if connection.pgconn.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                connection.pgconn.finish()
            with anyio.CancelScope(shield=True):
                await pool.putconn(connection)

    async def _lent(self) -> tuple[AsyncConnectionPool[PooledConnection], PooledConnection]:
        """Return a connection, and the pool that it goes back to."""
        while True:
            pool = await self._opened()
            try:
                return pool, await pool.getconn()
            except psycopg_pool.PoolClosed:  # begun anew while this waited; or closed for good
                continue
            except psycopg_pool.PoolTimeout:
                raise StoreBusy(
                    f"no session of the pool within {WAIT:g} s: {self._reason or 'all are in use'}"
                ) from None

    async def close(self) -> None:
        """Let go of all sessions. Never raises, never waits long."""
        self._is_closed = True
        self._let_go()
        if self._closing:
            await asyncio.wait(set(self._closing), timeout=4 * CLOSE_DEADLINE)

    async def _opened(self) -> AsyncConnectionPool[PooledConnection]:
        if self._is_closed:
            raise StoreOutage("the pool of sessions is closed")
        if self._pool is None:
            pool = self._pool = AsyncConnectionPool(
                connection_class=PooledConnection,
                kwargs={"opener": self._open},
                min_size=0,
                max_size=MOST,
                open=False,
                check=_check,
                name="relay",
                timeout=WAIT,
                max_idle=IDLE,
                reconnect_timeout=WAIT,
                num_workers=MOST,
            )
            await pool.open()
        return self._pool

    async def _open(self, connection_class: type[Connection]) -> Connection:
        try:
            connection = await self._opener(connection_class)
        except (psycopg.Error, RelayError) as error:
            self._reason = str(error)
            raise
        await _asked(connection, _NO_WAITING)
        self._reason = ""
        return connection


async def _check(connection: PooledConnection) -> None:
    """Refuse a session that is dead, or whose server takes no writes any more."""
    if await _asked(connection, _READ_ONLY) is not False:
        connection.pgconn.finish()
        raise psycopg.OperationalError("the server takes no writes here")


async def _asked(connection: Connection, question: str) -> Any:
    """Return the first column of the answer; without an answer, close the connection."""
    try:
        async with asyncio.timeout(CHECK_DEADLINE):
            row = await (await connection.execute(question)).fetchone()
    except BaseException:
        connection.pgconn.finish()
        raise
    return None if row is None else row[0]


def _is_ours(record: logging.LogRecord) -> bool:
    arguments = record.args if isinstance(record.args, tuple) else ()
    return any(argument == "relay" or type(argument) is PooledConnection for argument in arguments)


# The relay logs an outage once; the pool would log it again at each try.
logging.getLogger("psycopg.pool").addFilter(lambda record: not _is_ours(record))
