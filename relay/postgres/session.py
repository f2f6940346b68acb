"""A Postgres session: one connection with deadlines, and the table of what its errors mean.

R-BOUND. Every statement has a deadline. A session that misses one is dropped, never repaired,
because its state is unknown; ``connecting`` opens the next one.

``translated`` decides by SQLSTATE what an error means:

    no answer, connection gone, server starting or stopping, standby   StoreOutage
    schema, table or column missing, no privilege, rows hidden         SchemaError
    a lock's time-out                                                  StoreBusy
    no room                                                            StoreFull
    a cancelled statement                                              StatementCanceled
    anything else                                                      passes through: a bug
"""

import asyncio
import os
import select
import socket
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Mapping
from contextlib import ExitStack, asynccontextmanager, suppress
from typing import Any, Final, Self, TypeVar

import anyio
import psycopg
from psycopg import sql, waiting

from relay import errors
from relay.errors import RelayError, SchemaError, StoreBusy, StoreLoginRefused, StoreOutage
from relay.postgres.connecting import A_POOLER, in_words, open_connection

STATEMENT_DEADLINE: Final = 8.0
"""Seconds a statement may take."""

LOOK: Final = 0.1
"""Seconds between two looks at sockets where no epoll tells of their end: not on Linux."""

_GONE: Final = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR | select.POLLNVAL
"""What shows that the server closed the session; where POLLRDHUP is missing (not on Linux), only
the next statement finds out."""

Row = tuple[Any, ...]
Params = Mapping[str, Any] | None
_T = TypeVar("_T")


class StatementCanceled(StoreOutage):
    """Somebody cancelled the statement; the session is as good as before."""


class SilentTooLong(StoreOutage):
    """Postgres ended the session because its client was silent."""


class Connection(psycopg.AsyncConnection[Any]):
    """A connection whose interrupted statement costs the connection, at once.

    psycopg would ask the server to cancel, wait up to ten seconds for that, and leave an ERROR in
    the server's log.
    """

    is_waited_for = False
    """Whether its socket is registered with the loop."""

    async def wait(
        self,
        gen: Generator[Any, Any, _T],
        interval: float = 0.1,
        timeout: float | None = None,  # noqa: ASYNC109 - psycopg's signature
    ) -> _T:
        """Run psycopg's generator; on cancellation close the socket."""
        self.is_waited_for = True
        try:
            return await waiting.wait_async(gen, self.pgconn.socket, interval, timeout)
        except (asyncio.CancelledError, KeyboardInterrupt):
            self.pgconn.finish()
            raise
        finally:
            self.is_waited_for = False

    def hung_up(self) -> bool:
        """Say whether the socket is closed, by us or by the server. Asks nobody."""
        if self.closed:
            return True
        poller = select.poll()
        poller.register(self.pgconn.socket, _GONE)
        return bool(poller.poll(0))

    def drop(self) -> None:
        """Close the socket; where a task waits for it, shut it down, and that task closes it.

        Under uvloop the process dies (SIGABRT) of a socket that is closed in the very turn of the
        loop in which it was registered.
        """
        if not self.is_waited_for:
            self.pgconn.finish()
            return
        with (
            suppress(OSError, psycopg.Error),
            socket.socket(fileno=os.dup(self.pgconn.socket)) as same,
        ):
            same.shutdown(socket.SHUT_RDWR)


class Session:
    """A connection in autocommit whose every wait is bounded. Not to be used by two tasks at once.

    A statement whose task is cancelled costs the session.
    """

    def __init__(self, connection: Connection) -> None:
        """Wrap an open connection; ``connect`` opens one."""
        self.connection = connection
        self._cursor: psycopg.AsyncCursor[Any] | None = None

    @classmethod
    async def connect(
        cls, dsn: str, name: str, *, options: Mapping[str, str] | None = None
    ) -> Self:
        """Connect under a deadline. Raises as ``open_connection``, with every error translated.

        ``options`` are server settings for this session, over those of ``connecting.PINNED``.
        """
        try:
            return cls(await open_connection(dsn, name, options or {}, Connection))
        except psycopg.Error as error:
            raise translated(error) from None

    async def rows(
        self, query: sql.Composed, params: Params = None, *, deadline: float = STATEMENT_DEADLINE
    ) -> list[Row]:
        """Run one prepared statement and return all its rows. Raises as ``execute``."""
        cursor = await self.execute(query, params, deadline=deadline)
        return await cursor.fetchall() if cursor.description else []

    async def row(
        self, query: sql.Composed, params: Params = None, *, deadline: float = STATEMENT_DEADLINE
    ) -> Row | None:
        """Run one prepared statement and return its first row, or None. Raises as ``execute``."""
        cursor = await self.execute(query, params, deadline=deadline, cursor=self._cursor)
        self._cursor = cursor
        return await cursor.fetchone() if cursor.description else None

    async def execute(
        self,
        query: sql.Composed,
        params: Params = None,
        *,
        deadline: float = STATEMENT_DEADLINE,
        cursor: psycopg.AsyncCursor[Any] | None = None,
    ) -> psycopg.AsyncCursor[Any]:
        """Run one prepared statement; return its cursor, with the whole result in memory.

        A ``cursor`` of the same query is 40 us cheaper than a new one; it holds one result.

        Raises:
            StoreOutage: no answer within ``deadline`` s, or the connection is gone.
            SchemaError: something the statement names does not exist, or may not be used.
        """
        try:
            with anyio.move_on_after(deadline):
                cursor = cursor or self.connection.cursor(binary=True)
                return await cursor.execute(query, params, prepare=True)
        except psycopg.Error as error:
            raise translated(error) from error
        self.drop()
        raise StoreOutage(f"Postgres did not answer within {deadline:g} s")

    async def hear(self, pass_on: Callable[[str], None]) -> None:
        """Pass on the payload of each notification until cancelled, those that came before first.

        One costs a call by the loop, and no task's turn. psycopg registers the same socket while it
        runs a statement: not to be used at once, as all of a session.

        Raises:
            StoreOutage: the connection is gone.
        """
        libpq, loop = self.connection.pgconn, asyncio.get_running_loop()
        failed = loop.create_future()

        def pass_all() -> None:
            while notify := libpq.notifies():
                pass_on(notify.extra.decode())

        def readable() -> None:
            try:
                libpq.consume_input()
                pass_all()
            except psycopg.Error as error:
                loop.remove_reader(number)  # libpq has closed it: its number may be another's soon
                failed.set_exception(error)

        try:
            pass_all()  # what an answer brought along: no socket tells of it
            loop.add_reader(number := libpq.socket, readable)
            self.connection.is_waited_for = True
            try:
                await failed
            except asyncio.CancelledError:
                loop.remove_reader(number)
                raise
            finally:
                self.connection.is_waited_for = False
        except psycopg.Error as error:
            raise StoreOutage(f"the session that listens is gone: {error}") from error

    @asynccontextmanager
    async def transaction(self, *, deadline: float = STATEMENT_DEADLINE) -> AsyncIterator[None]:
        """Make several statements one transaction, all of it within ``deadline`` s.

        Raises:
            StoreOutage: whether it committed is not known.
        """
        try:
            with anyio.fail_after(deadline):
                async with self.connection.transaction():
                    yield
        except TimeoutError:
            self.drop()
            raise StoreOutage(f"Postgres did not answer within {deadline:g} s") from None
        except psycopg.Error as error:
            raise translated(error) from error

    def hung_up(self) -> bool:
        """Say whether the socket is closed, by us or by the server. Asks nobody."""
        return self.connection.hung_up()

    def drop(self) -> None:
        """Forget the connection at once; the server notices by the closed socket."""
        self.connection.drop()

    async def __aenter__(self) -> Self:
        """Return itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connection, if that can be done at once."""
        if not self.connection.closed:
            await self.connection.close()


async def until_hung_up(sessions: Iterable[Session], seconds: float) -> None:
    """Wait for ``seconds``, or less: until the server closes one of ``sessions``.

    A session that is closed at this end, before or meanwhile, is passed over; one that is shut down
    here counts. Where there is no epoll, or no descriptor for one, it is ``LOOK`` s at most: look,
    and wait again.
    """
    open_ones = [each.connection for each in sessions if not each.connection.closed]
    with ExitStack() as stack:
        try:
            poller = stack.enter_context(select.epoll())
            for connection in open_ones:
                poller.register(connection.pgconn.socket, select.EPOLLRDHUP)
        except (AttributeError, OSError):
            await anyio.sleep(min(seconds, LOOK))
            return
        with anyio.move_on_after(seconds):
            await anyio.wait_readable(poller.fileno())


async def clocks_of(cursor: psycopg.AsyncCursor[Any]) -> list[float]:
    """Return the epoch seconds among the results of several statements that were sent at once."""
    return [
        row[0]
        async for result in cursor.results()
        if result.description and (row := await result.fetchone()) and isinstance(row[0], float)
    ]


def translated(error: psycopg.Error) -> RelayError | psycopg.Error:
    """Return our error for a driver's one, or the driver's own where it can only be a bug."""
    message = in_words(error)
    if error.sqlstate in errors.NOT_THERE:
        return SchemaError(
            f"the outbox is not there, or not whole ({message}): run `python -m relay migrate`"
        )
    if (error.sqlstate or "") in _KINDS:
        kind, remedy = _KINDS[error.sqlstate or ""]
        return kind(f"{message}: {remedy}")
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return StoreOutage(message)
    return error


_KINDS: Final[Mapping[str, tuple[type[SchemaError | StoreOutage], str]]] = {
    # row_security = off: rows that a policy hides are refused, too
    "42501": (SchemaError, "grant this login the schema's relay role, or run as its owner"),
    "42P05": (StoreLoginRefused, A_POOLER),  # prepared statement exists: another one's backend
    "26000": (StoreLoginRefused, A_POOLER),  # prepared statement does not exist
    "25006": (errors.StoreReadOnly, "Postgres is read-only here: a standby, or a demoted primary"),
    "25P03": (SilentTooLong, "the session was silent in a transaction"),
    "25P04": (StoreOutage, "transaction_timeout"),
    "57P05": (SilentTooLong, "the session was silent"),
    "53100": (errors.StoreFull, "waiting and trying again"),  # disk full
    "55P03": (StoreBusy, "the session's lock_timeout"),
    "57014": (StatementCanceled, "waiting and trying again"),
}
"""SQLSTATE to the kind of our error and what to do about it."""
