"""The inbox over psycopg: ``PsycopgDatabase(pool)``; the handler gets an ``AsyncConnection``.

The pool is the application's: it is opened, sized and closed there. The consumer uses one
connection a lane, and one more now and then.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg.rows import tuple_row
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout

from relay.consumer.database import Row
from relay.postgres.sqlfiles import load

CONNECTION_DEADLINE: Final = 3.0
"""Seconds that a connection is waited for. A pool that lost all of them makes new ones when it is
asked again, so a long wait would outlast the outage."""


class PsycopgDatabase:
    """Transactions of a pool. ``schema`` holds the inbox."""

    def __init__(self, pool: AsyncConnectionPool[Any], schema: str = "relay") -> None:
        """Use ``pool``, which stays the caller's."""
        self._pool = pool
        self._schema = schema

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator["_Transaction"]:
        """Begin a transaction on a connection of the pool."""
        async with (
            self._pool.connection(timeout=CONNECTION_DEADLINE) as connection,
            connection.transaction(),
        ):
            yield _Transaction(connection, self._schema)

    def sqlstate(self, error: BaseException) -> str | None:
        """Return the SQLSTATE; "" if the connection failed, None if it is no database error."""
        if isinstance(error, PoolTimeout):
            return ""
        if isinstance(error, PoolClosed):
            return None  # nobody will open it for us
        if not isinstance(error, psycopg.Error):
            return None
        if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
            return error.sqlstate or ""
        return error.sqlstate


@dataclass(slots=True)
class _Transaction:
    connection: psycopg.AsyncConnection[Any]
    _schema: str

    async def rows(self, name: str, params: Mapping[str, object]) -> Sequence[Row]:
        cursor = self.connection.cursor(row_factory=tuple_row)
        await cursor.execute(load(f"inbox/queries/{name}", self._schema), params)
        return await cursor.fetchall() if cursor.description else []
