"""The pool of two sessions for everything but the term, the reader and the listener.

What goes through it: looks at the backlog and the parked, housekeeping, reports, sizes, and the
bell's trial commits. A session is made when it is needed, checked each time it is handed out (is
this still a primary that takes writes?), and closed by the pool when nobody needs it for a while.

The pool stays with the server of the term: ``point_at`` says which one. Losing all of it ends
nothing by itself; whoever waited for a session gets a StoreOutage.
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
from relay.postgres.connecting import Connection
from relay.postgres.session import Session

MOST: Final = 2
WAIT: Final = 3.0
"""Seconds to wait for a session: less than every deadline of those who ask."""

CHECK_DEADLINE: Final = 2.0
IDLE: Final = 60.0
CLOSE_DEADLINE: Final = 0.5

_CHECK = "select pg_catalog.pg_is_in_recovery() or pg_catalog.current_setting('%s') = 'on'"
_WRITABLE = _CHECK % "transaction_read_only"
_NO_WAITING = "select pg_catalog.set_config('synchronous_commit', 'off', false)"
"""Said once a session, and not among its first settings, so that a trial commit can go back to what
producers have by default. What housekeeping loses in a crash of the server is done again."""

Open = Callable[[type[Connection]], Awaitable[Connection]]


class PooledConnection(Connection):
    """A connection that the pool opens in our way."""

    @classmethod
    async def connect(cls, conninfo: str = "", **given: Any) -> Self:
        """Open one as ``opener`` does; psycopg_pool calls this."""
        assert not conninfo
        connection = await given["opener"](cls)
        assert isinstance(connection, cls)
        return connection


class Pool:
    """Hands out sessions. One event loop uses it; ``close`` it, after which it opens anew."""

    def __init__(self, opener: Open) -> None:
        """Open connections by ``opener``, when first needed."""
        self._opener = opener
        self._pool: AsyncConnectionPool[PooledConnection] | None = None
        self._server = ""
        self._reason = ""
        self._closing: set[asyncio.Task[None]] = set()

    def point_at(self, server: str) -> None:
        """Stay with ``server`` from now on: sessions to another one are let go."""
        if server != self._server:
            self._server = server
            self._let_go()

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        """Lend a session; at most ``MOST`` are out at a time.

        Raises:
            StoreBusy: there is none within ``WAIT`` s. Whether the server is away, others say.
        """
        pool = await self._opened()
        try:
            connection = await pool.getconn()
        except psycopg_pool.PoolTimeout:
            raise StoreBusy(
                f"no session of the pool within {WAIT:g} s: {self._reason or 'all are in use'}"
            ) from None
        except psycopg_pool.PoolClosed:
            raise StoreOutage("the pool of sessions is closed") from None
        try:
            yield Session(connection)
        finally:
            if connection.pgconn.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                connection.pgconn.finish()
            with anyio.CancelScope(shield=True):
                await pool.putconn(connection)

    async def close(self) -> None:
        """Let go of all sessions. Never raises, never waits long."""
        self._let_go()
        if self._closing:
            await asyncio.wait(set(self._closing), timeout=4 * CLOSE_DEADLINE)

    async def _opened(self) -> AsyncConnectionPool[PooledConnection]:
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
        try:
            async with asyncio.timeout(CHECK_DEADLINE):
                await connection.execute(_NO_WAITING, prepare=False)
        except BaseException:
            connection.pgconn.finish()
            raise
        self._reason = ""
        return connection

    def _let_go(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            task = asyncio.create_task(pool.close(CLOSE_DEADLINE), name="close the pool")
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


async def _check(connection: PooledConnection) -> None:
    """Refuse a session that is dead, or whose server takes no writes any more."""
    try:
        async with asyncio.timeout(CHECK_DEADLINE):
            answer = await (await connection.execute(_WRITABLE)).fetchone()
    except TimeoutError:
        connection.pgconn.finish()
        raise
    if answer is None or answer[0]:
        connection.pgconn.finish()
        raise psycopg.OperationalError("the server takes no writes here")


def _is_ours(record: logging.LogRecord) -> bool:
    arguments = record.args if isinstance(record.args, tuple) else ()
    return any(argument == "relay" or type(argument) is PooledConnection for argument in arguments)


# An outage is said once, by the relay; the pool would say it again at each try.
logging.getLogger("psycopg.pool").addFilter(lambda record: not _is_ours(record))
