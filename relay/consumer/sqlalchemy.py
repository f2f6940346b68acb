"""The inbox over SQLAlchemy 2, asyncio, on any of its Postgres drivers.

``SqlalchemyDatabase(engine)``: the handler gets an ``AsyncConnection``;
``SqlalchemyDatabase(async_sessionmaker(engine))``: an ``AsyncSession``. Either stays the caller's.
"""

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, cast

import sqlalchemy
from sqlalchemy import exc
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker

from relay.consumer.database import Row
from relay.postgres.sqlfiles import load

_PARAMETER: Final = re.compile(r"%\((\w+)\)s")


class SqlalchemyDatabase:
    """Transactions of an engine, or of a maker of sessions. ``schema`` holds the inbox."""

    def __init__(
        self, source: AsyncEngine | async_sessionmaker[AsyncSession], schema: str = "relay"
    ) -> None:
        """Use ``source``, which stays the caller's."""
        self._source = source
        self._schema = schema

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator["_Transaction"]:
        """Begin a transaction on a connection of the engine's pool."""
        async with self._source.begin() as connection:
            yield _Transaction(connection, self._schema)

    def sqlstate(self, error: BaseException) -> str | None:
        """Return the SQLSTATE; "" if the connection failed, None if it is no database error."""
        if isinstance(error, exc.TimeoutError | exc.DisconnectionError):
            return ""
        if not isinstance(error, exc.DBAPIError):
            return None
        if error.connection_invalidated:
            return ""
        state: str | None = getattr(error.orig, "sqlstate", None)
        if isinstance(error, exc.OperationalError | exc.InterfaceError):
            return state or ""
        return state


@dataclass(slots=True)
class _Transaction:
    connection: AsyncConnection | AsyncSession
    _schema: str

    async def rows(self, name: str, params: Mapping[str, object]) -> Sequence[Row]:
        ran = await self.connection.execute(_statement(name, self._schema), params)
        result = cast("sqlalchemy.CursorResult[Any]", ran)
        return [tuple(row) for row in result] if result.returns_rows else []


@cache
def _statement(name: str, schema: str) -> Any:
    text = load(f"inbox/queries/{name}", schema).as_string().replace(":", r"\:")
    return sqlalchemy.text(_PARAMETER.sub(r":\1", text))
