"""Events by Django: ``emit`` and ``emit_many``, within ``transaction.atomic``; and an app.

    INSTALLED_APPS = [..., "relay.producer.django"]

The app brings the outbox in by ``manage.py migrate``, and ``manage.py check --database default``
says whether it is there and may be written to. RELAY_SCHEMA in Django's settings names a schema
other than ``relay``. Over psycopg or psycopg2.
"""

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connections
from django.db.transaction import mark_for_rollback_on_error

from relay.errors import SchemaError
from relay.producer import core
from relay.producer.core import Event


def emit(
    subject: str,
    payload: object,
    *,
    key: str | None = None,
    headers: Mapping[str, str] | None = None,
    idempotency_key: str | None = None,
    ttl: timedelta | None = None,
    using: str = "default",
) -> UUID:
    """Write one event in the transaction of the database ``using``; return its id. See ``Event``.

    With an ``idempotency_key`` that the outbox holds already, nothing is written, and the id is
    that of the first event.

    Raises:
        EventRefused: a rule of the outbox refuses the event.
        NoTransaction: the call is outside of ``transaction.atomic``.
        SchemaError: there is no outbox, or this login may not write to it.
        TypeError, ValueError: something given can't be written at all; nothing was sent.
    """
    name, values = core.one(Event(subject, payload, key, headers, idempotency_key, ttl))
    ((found,),) = _execute(name, values, using)
    return core.event_id(found)


def emit_many(events: Iterable[Event], *, using: str = "default") -> list[UUID]:
    """Write ``events`` by one statement, in their order; return the ids of those written.

    An event whose ``idempotency_key`` the outbox holds already is not written, and has no id in
    the list. Memory holds all of them: some thousands at a time.

    Raises as ``emit``; then none of them is written.
    """
    name, values = core.many(events)
    return [core.event_id(found) for (found,) in _execute(name, values, using)]


def schema() -> str:
    """Return the name of the outbox's schema."""
    return str(getattr(settings, "RELAY_SCHEMA", "relay"))


def _execute(name: str, values: tuple[Any, ...], using: str) -> list[tuple[Any]]:
    connection = connections[using]
    if connection.vendor != "postgresql":
        raise SchemaError(f"the outbox lives in PostgreSQL, {using!r} is {connection.vendor}")
    if connection.get_autocommit():
        raise core.no_transaction("use `with transaction.atomic():` around both")
    if not values:
        return []
    home = schema()
    # What has failed in Postgres must not look well to whoever catches it within the block.
    with core.explained(home), mark_for_rollback_on_error(using), connection.cursor() as cursor:
        cursor.execute(core.statement(name, home, core.POSITIONAL), values)
        rows: list[tuple[Any]] = cursor.fetchall()
        return rows
