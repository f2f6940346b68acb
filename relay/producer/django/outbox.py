"""What a database has of the outbox, and the operation that brings it up to date.

    no outbox, or one that this login owns     brought up to date, as by ``relay migrate``
    somebody else's outbox                     left to its owner
    not Postgres, or not for the router        nothing to do

``relay.postgres.migrations`` is authoritative, and works in a session and a transaction of its own,
for it gives way to producers that use the table: whatever comes behind in Django's transaction, the
outbox stays. Backwards nothing happens: an outbox may hold events that are not delivered yet.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from django.db import connections, router
from django.db.migrations.operations.base import Operation

from relay.producer import core
from relay.producer.django import schema


class Outbox(NamedTuple):
    """What a database has. ``login`` is who asks."""

    is_there: bool
    may_write: bool
    may_migrate: bool
    login: str


def look(alias: str) -> Outbox | None:
    """Return what the database ``alias`` has; None if it is not one for the outbox."""
    connection = connections[alias]
    if connection.vendor != "postgresql" or not router.allow_migrate(alias, "relay_outbox"):
        return None
    with connection.cursor() as cursor:
        cursor.execute(core.statement("may_emit", schema(), core.POSITIONAL))
        return Outbox(*cursor.fetchone())


class BringUpToDate(Operation):
    """Make the outbox, or bring it to this release's."""

    reduces_to_sql = True
    reversible = True

    def state_forwards(self, app_label: str, state: Any) -> None:
        """Change no model: there is none."""

    def database_forwards(
        self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any
    ) -> None:
        """Migrate; under ``sqlmigrate`` say how a new outbox is made.

        Raises:
            SchemaError: this login may not make it, or the outbox is newer than this release.
            StoreOutage: it stayed locked.
        """
        from relay.postgres import migrations

        connection = schema_editor.connection
        found = look(connection.alias)
        if found is None or (found.is_there and not found.may_migrate):
            return
        if schema_editor.collect_sql:
            schema_editor.collected_sql.append(migrations.script(schema()))
            return
        work = migrations.migrate(_conninfo(connection), schema())
        with ThreadPoolExecutor(1) as pool:  # a loop may be running in this thread
            pool.submit(asyncio.run, work).result()

    def database_backwards(
        self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any
    ) -> None:
        """Leave the outbox where it is."""

    def describe(self) -> str:
        """Say it as ``migrate --plan`` does."""
        return "Bring the outbox up to date"


def _conninfo(connection: Any) -> str:
    """Return Django's parameters as libpq takes them."""
    from psycopg import pq
    from psycopg.conninfo import make_conninfo

    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
    given = connection.get_connection_params()
    return make_conninfo(
        **{name: str(value) for name, value in given.items() if name in known and value is not None}
    )
