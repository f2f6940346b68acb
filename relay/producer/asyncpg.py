"""Events by asyncpg: ``emit`` and ``emit_many``, both to be awaited.

The connection is the application's own, from its pool or not. Its codecs for json do not matter:
everything is sent as text. Behind a pooler that keeps no prepared statements the application
connects with ``statement_cache_size=0``, as for its own statements.
"""

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

from asyncpg import Connection
from asyncpg.pool import PoolConnectionProxy

from relay.producer import core
from relay.producer.core import Event


async def emit(
    connection: "Connection[Any] | PoolConnectionProxy[Any]",
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
        NoTransaction: none is open, so asyncpg would commit the event by itself.
        SchemaError: there is no outbox, or this login may not write to it.
        TypeError, ValueError: something given can't be written at all; nothing was sent.
    """
    name, values = core.one(Event(subject, payload, key, headers, idempotency_key, ttl))
    _refuse_autocommit(connection)
    with core.explained(schema):
        statement = core.statement(name, schema, core.NUMBERED)
        return core.event_id(await connection.fetchval(statement, *values))


async def emit_many(
    connection: "Connection[Any] | PoolConnectionProxy[Any]",
    events: Iterable[Event],
    *,
    schema: str = "relay",
) -> list[UUID]:
    """Write ``events`` by one statement, in their order; return the ids of those written.

    An event whose ``idempotency_key`` the outbox holds already is not written, and has no id in
    the list. Memory holds all of them: some thousands at a time.

    Raises as ``emit``; then none of them is written.
    """
    name, values = core.many(events)
    _refuse_autocommit(connection)
    if not values:
        return []
    with core.explained(schema):
        statement = core.statement(name, schema, core.NUMBERED)
        return [core.event_id(found) for (found,) in await connection.fetch(statement, *values)]


def _refuse_autocommit(connection: "Connection[Any] | PoolConnectionProxy[Any]") -> None:
    if not isinstance(connection, Connection):
        raise core.wrong_type(connection, "an asyncpg connection")
    if not connection.is_in_transaction():
        raise core.no_transaction("use `async with connection.transaction():` around both")
