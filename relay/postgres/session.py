"""One Postgres session: a connection with deadlines, and the one table of what its errors mean.

R-BOUND. Every statement has a deadline; a session that misses one is dropped, never repaired,
because nothing is known of it any more. Who needs a session again makes another one
(``connecting``).

What an error means is decided in ``translated``, by SQLSTATE:

    no answer, connection gone, server starting or stopping, standby   StoreOutage
    schema, table or column missing, no privilege, rows hidden         SchemaError
    a lock's time-out                                                  StoreBusy
    no room                                                            StoreFull
    a cancelled statement                                              StatementCanceled
    anything else                                                      passes through: a bug
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self

import anyio
import psycopg
from psycopg import sql

from relay.errors import (
    RelayError,
    SchemaError,
    StoreBusy,
    StoreFull,
    StoreLoginRefused,
    StoreOutage,
    StoreReadOnly,
)
from relay.postgres.connecting import A_POOLER, Connection, open_connection

STATEMENT_DEADLINE = 8.0
"""Seconds a statement may take."""


class StatementCanceled(StoreOutage):
    """Somebody cancelled the statement; the session is as good as before."""


class SilentTooLong(StoreOutage):
    """Postgres ended the session, for its client was silent."""


class Session:
    """A connection in autocommit whose every wait is bounded. Not to be used by two tasks at once.

    A statement whose task is cancelled costs the session. Make it by ``await
    Session.connect(...)``; leave it by ``close()`` or ``async with``.
    """

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        """Wrap an open connection; use ``connect``."""
        self.connection = connection

    @classmethod
    async def connect(
        cls, dsn: str, name: str, *, options: Mapping[str, str] | None = None
    ) -> Self:
        """Connect under a deadline.

        Args:
            dsn: libpq connection string or URI; what it leaves out comes from the PG* variables.
            name: the session's duty; shown by pg_stat_activity as ``relay <name>``.
            options: server settings for this session, over those of ``connecting.PINNED``.

        Raises:
            StoreLoginRefused: it refuses the role, its password, TLS, or the database's name, or
                it is a pooler.
            StoreOutage: the server is away, is a standby, or does not answer.
            SettingsError: ``dsn`` can't be read.
        """
        try:
            return cls(await open_connection(dsn, name, options or {}))
        except psycopg.Error as error:
            raise translated(error) from None

    async def rows(
        self,
        query: sql.Composed,
        params: Mapping[str, Any] | None = None,
        *,
        deadline: float = STATEMENT_DEADLINE,
    ) -> list[tuple[Any, ...]]:
        """Run one prepared statement and return all its rows.

        Raises:
            StoreOutage: no answer within ``deadline`` s, or the connection is gone.
            SchemaError: something the statement names does not exist, or may not be used.
        """
        cursor = await self.execute(query, params, deadline=deadline)
        return await cursor.fetchall() if cursor.description else []

    async def row(
        self,
        query: sql.Composed,
        params: Mapping[str, Any] | None = None,
        *,
        deadline: float = STATEMENT_DEADLINE,
    ) -> tuple[Any, ...] | None:
        """Run one prepared statement and return its first row, or None. Raises as ``rows`` does."""
        found = await self.rows(query, params, deadline=deadline)
        return found[0] if found else None

    async def execute(
        self,
        query: sql.Composed,
        params: Mapping[str, Any] | None = None,
        *,
        deadline: float = STATEMENT_DEADLINE,
    ) -> psycopg.AsyncCursor[Any]:
        """Run one prepared statement; return its cursor, with the whole result in memory.

        Raises as ``rows`` does.
        """
        try:
            with anyio.fail_after(deadline):
                cursor = self.connection.cursor(binary=True)
                return await cursor.execute(query, params, prepare=True)
        except TimeoutError:
            self.drop()
            raise StoreOutage(f"Postgres did not answer within {deadline:g} s") from None
        except psycopg.Error as error:
            raise translated(error) from error

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """Make several statements one transaction, all of it within one deadline.

        Raises:
            StoreOutage: whether it committed is not known.
        """
        try:
            with anyio.fail_after(STATEMENT_DEADLINE):
                async with self.connection.transaction():
                    yield
        except TimeoutError:
            self.drop()
            raise StoreOutage(f"Postgres did not answer within {STATEMENT_DEADLINE:g} s") from None
        except psycopg.Error as error:
            raise translated(error) from error

    def drop(self) -> None:
        """Forget the connection at once; the server notices by the closed socket."""
        self.connection.pgconn.finish()

    async def close(self) -> None:
        """Say goodbye if that can be done at once. Never raises."""
        if not self.connection.closed:
            await self.connection.close()

    async def __aenter__(self) -> Self:
        """Return itself."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""
        await self.close()


Connect = Callable[[str], Awaitable[Session]]
"""Opens a session for the duty it is named by."""

__all__ = [
    "STATEMENT_DEADLINE",
    "Connect",
    "Connection",
    "Session",
    "SilentTooLong",
    "StatementCanceled",
    "translated",
]


def translated(error: psycopg.Error) -> RelayError | psycopg.Error:
    """Return our error for a driver's one, or the driver's own where it can only be a bug."""
    # The primary message alone: DETAIL and CONTEXT can quote a row.
    message = " ".join((error.diag.message_primary or str(error)).split()) or type(error).__name__
    known = _KINDS.get(error.sqlstate or "")
    if known is not None:
        kind, remedy = known
        return kind(f"{message}: {remedy}")
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return StoreOutage(message)
    return error


_MIGRATE = "something of the outbox is missing; run `python -m relay migrate`"

_KINDS: Mapping[str, tuple[type[SchemaError | StoreOutage], str]] = {
    "3F000": (SchemaError, _MIGRATE),  # schema
    "42P01": (SchemaError, _MIGRATE),  # table or view
    "42703": (SchemaError, _MIGRATE),  # column
    "42883": (SchemaError, _MIGRATE),  # function
    "42501": (  # row_security = off: rows that a policy hides are refused, too
        SchemaError,
        "grant this login the schema's relay role, or run as the schema's owner",
    ),
    "42P05": (StoreLoginRefused, A_POOLER),  # prepared statement exists: another one's backend
    "26000": (StoreLoginRefused, A_POOLER),  # prepared statement does not exist
    "25006": (StoreReadOnly, "Postgres is read-only here: a standby, or a demoted primary"),
    "25P03": (SilentTooLong, "the session was silent in a transaction"),
    "25P04": (StoreOutage, "transaction_timeout"),
    "57P05": (SilentTooLong, "the session was silent"),
    "53100": (StoreFull, "waiting and trying again"),  # disk full
    "55P03": (StoreBusy, "the session's lock_timeout"),
    "57014": (StatementCanceled, "waiting and trying again"),
}
"""SQLSTATE to the kind of our error and what to do about it."""
