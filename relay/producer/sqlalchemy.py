"""Events by SQLAlchemy 2: ``emit`` and ``emit_many``; ``aemit`` and ``aemit_many`` for its asyncio.

Takes a ``Session`` (scoped or not) or a ``Connection``, over psycopg, psycopg2 or asyncpg, and
writes in its transaction, which SQLAlchemy begins by itself. A session with several engines: give
``session.connection(bind_arguments=…)``. An object's id that the database makes is there after
``session.flush()``; before it, ``str(order.id)`` is ``"None"``.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from functools import cache
from typing import Any, TypeAlias
from uuid import UUID

from sqlalchemy import Connection, CursorResult, TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session

from relay.errors import SchemaError
from relay.producer import core
from relay.producer.core import Event

Bound: TypeAlias = Session | scoped_session[Any] | Connection
AsyncBound: TypeAlias = AsyncSession | async_scoped_session[Any] | AsyncConnection


def emit(
    session: Bound,
    subject: str,
    payload: object,
    *,
    key: str | None = None,
    headers: Mapping[str, str] | None = None,
    idempotency_key: str | None = None,
    ttl: timedelta | None = None,
    schema: str = "relay",
) -> UUID:
    """Write one event in the session's transaction; return its id. See ``Event``.

    With an ``idempotency_key`` that the outbox holds already, nothing is written, and the id is
    that of the first event.

    Raises:
        EventRefused: a rule of the outbox refuses the event.
        NoTransaction: the engine's isolation level is AUTOCOMMIT.
        SchemaError: there is no outbox, or this login may not write to it.
        TypeError, ValueError: something given can't be written at all; nothing was sent.
    """
    name, values = core.one(Event(subject, payload, key, headers, idempotency_key, ttl))
    with core.explained(schema):
        return core.event_id(_execute(session, name, schema, values).scalar_one())


def emit_many(session: Bound, events: Iterable[Event], *, schema: str = "relay") -> list[UUID]:
    """Write ``events`` by one statement, in their order; return the ids of those written.

    An event whose ``idempotency_key`` the outbox holds already is not written, and has no id in
    the list. Memory holds all of them: some thousands at a time.

    Raises as ``emit``; then none of them is written.
    """
    name, values = core.many(events)
    if not values:
        return []
    with core.explained(schema):
        found = _execute(session, name, schema, values).scalars()
        return [core.event_id(each) for each in found]


async def aemit(
    session: AsyncBound,
    subject: str,
    payload: object,
    *,
    key: str | None = None,
    headers: Mapping[str, str] | None = None,
    idempotency_key: str | None = None,
    ttl: timedelta | None = None,
    schema: str = "relay",
) -> UUID:
    """Do what ``emit`` does, by an ``AsyncSession`` or ``AsyncConnection``."""
    found: UUID = await _run_sync(
        session,
        emit,
        subject,
        payload,
        key=key,
        headers=headers,
        idempotency_key=idempotency_key,
        ttl=ttl,
        schema=schema,
    )
    return found


async def aemit_many(
    session: AsyncBound, events: Iterable[Event], *, schema: str = "relay"
) -> list[UUID]:
    """Do what ``emit_many`` does, by an ``AsyncSession`` or ``AsyncConnection``."""
    found: list[UUID] = await _run_sync(session, emit_many, events, schema=schema)
    return found


def _execute(session: Bound, name: str, schema: str, values: tuple[Any, ...]) -> CursorResult[Any]:
    connection = _connection(session)
    parameters = {f"p{place}": value for place, value in enumerate(values, 1)}
    return connection.execute(_text(name, schema), parameters)


def _connection(session: Bound) -> Connection:
    if isinstance(session, Session | scoped_session):
        connection = session.connection()
    elif isinstance(session, Connection):
        connection = session
    else:
        raise core.wrong_type(session, "a Session or Connection of SQLAlchemy")
    if connection.dialect.name != "postgresql":
        raise SchemaError(f"the outbox lives in PostgreSQL, this is {connection.dialect.name}")
    if getattr(connection.connection.dbapi_connection, "autocommit", False):
        raise core.no_transaction('take an engine whose isolation level is not "AUTOCOMMIT"')
    return connection


async def _run_sync(session: AsyncBound, write: Callable[..., Any], *args: Any, **kw: Any) -> Any:
    if isinstance(session, async_scoped_session):
        session = session()
    if not isinstance(session, AsyncSession | AsyncConnection):
        raise core.wrong_type(session, "an AsyncSession or AsyncConnection of SQLAlchemy")
    return await session.run_sync(write, *args, **kw)


@cache
def _text(name: str, schema: str) -> TextClause:
    return text(core.statement(name, schema, core.NAMED))
