"""Events by psycopg 3: ``emit`` and ``emit_many``; ``aemit`` and ``aemit_many`` for asyncio.

The connection is the application's own, from its pool or not; its row factory, cursor factory and
prepared statements stay as they are set.
"""

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection, AsyncCursor, Connection, Cursor
from psycopg.pq import TransactionStatus
from psycopg.raw_cursor import AsyncRawCursor, RawCursor
from psycopg.rows import tuple_row

from relay.producer import core
from relay.producer.core import Event

_Row = tuple[Any, ...]


def emit(
    connection: Connection[Any],
    subject: str,
    payload: object,
    *,
    key: str | None = None,
    headers: Mapping[str, str] | None = None,
    idempotency_key: str | None = None,
    ttl: timedelta | None = None,
    schema: str = "relay",
) -> UUID:
    """Write one event in the connection's transaction; return its id. See ``Event``.

    With an ``idempotency_key`` that the outbox holds already, nothing is written, and the id is
    that of the first event.

    Raises:
        EventRefused: a rule of the outbox refuses the event.
        NoTransaction: none is open, and the connection commits each statement by itself.
        SchemaError: there is no outbox, or this login may not write to it.
        TypeError, ValueError: something given can't be written at all; nothing was sent.
    """
    name, values = core.one(Event(subject, payload, key, headers, idempotency_key, ttl))
    with core.explained(schema), _cursor(connection) as cursor:
        cursor.execute(_statement(name, schema, cursor), values)
        (found,) = cursor.fetchone() or ()
        return core.event_id(found)


def emit_many(
    connection: Connection[Any], events: Iterable[Event], *, schema: str = "relay"
) -> list[UUID]:
    """Write ``events`` by one statement, in their order; return the ids of those written.

    An event whose ``idempotency_key`` the outbox holds already is not written, and has no id in
    the list. Memory holds all of them: some thousands at a time.

    Raises as ``emit``; then none of them is written.
    """
    name, values = core.many(events)
    with core.explained(schema), _cursor(connection) as cursor:
        if not values:
            return []
        cursor.execute(_statement(name, schema, cursor), values)
        return [core.event_id(found) for (found,) in cursor.fetchall()]


async def aemit(
    connection: AsyncConnection[Any],
    subject: str,
    payload: object,
    *,
    key: str | None = None,
    headers: Mapping[str, str] | None = None,
    idempotency_key: str | None = None,
    ttl: timedelta | None = None,
    schema: str = "relay",
) -> UUID:
    """Do what ``emit`` does, by an ``AsyncConnection``."""
    name, values = core.one(Event(subject, payload, key, headers, idempotency_key, ttl))
    with core.explained(schema):
        async with _async_cursor(connection) as cursor:
            await cursor.execute(_statement(name, schema, cursor), values)
            (found,) = await cursor.fetchone() or ()
            return core.event_id(found)


async def aemit_many(
    connection: AsyncConnection[Any], events: Iterable[Event], *, schema: str = "relay"
) -> list[UUID]:
    """Do what ``emit_many`` does, by an ``AsyncConnection``."""
    name, values = core.many(events)
    with core.explained(schema):
        async with _async_cursor(connection) as cursor:
            if not values:
                return []
            await cursor.execute(_statement(name, schema, cursor), values)
            return [core.event_id(found) for (found,) in await cursor.fetchall()]


def _cursor(connection: Connection[Any]) -> Cursor[_Row]:
    if not isinstance(connection, Connection):
        raise core.wrong_type(connection, "a psycopg.Connection")
    _refuse_autocommit(connection)
    return connection.cursor(row_factory=tuple_row)


def _async_cursor(connection: AsyncConnection[Any]) -> AsyncCursor[_Row]:
    if not isinstance(connection, AsyncConnection):
        raise core.wrong_type(connection, "a psycopg.AsyncConnection")
    _refuse_autocommit(connection)
    return connection.cursor(row_factory=tuple_row)


def _refuse_autocommit(connection: Connection[Any] | AsyncConnection[Any]) -> None:
    if connection.autocommit and connection.info.transaction_status is TransactionStatus.IDLE:
        raise core.no_transaction("use `with connection.transaction():` around both")


def _statement(name: str, schema: str, cursor: Cursor[_Row] | AsyncCursor[_Row]) -> bytes:
    raw = isinstance(cursor, RawCursor | AsyncRawCursor)
    return core.statement(name, schema, core.NUMBERED if raw else core.POSITIONAL).encode()
