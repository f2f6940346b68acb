"""What the outbox takes up in Postgres: looked at now and then, over a session of its own.

Nobody waits for it: whatever is wrong ends this look alone, and the next one connects again.
"""

from collections.abc import Callable, Mapping

from relay.core.storage import OutboxStorage
from relay.errors import StoreOutage
from relay.postgres.session import Connect, Session
from relay.postgres.sqlfiles import load

LOOK_DEADLINE = 2.0


class PostgresStorage:
    """Looks at one outbox; ``close`` it."""

    def __init__(
        self, connect: Connect, schema: str, sessions: Callable[[], Mapping[str, int]]
    ) -> None:
        """Look over a session from ``connect``; ``sessions`` counts those that are open."""
        self._connect = connect
        self._query = load("queries/storage", schema)
        self._sessions = sessions
        self._session: Session | None = None

    async def look(self) -> OutboxStorage:
        """Look once.

        Raises:
            StoreOutage, SchemaError: it can't be seen now.
        """
        if self._session is None or self._session.connection.closed:
            self._session = await self._connect("storage")
        row = await self._session.row(self._query, deadline=LOOK_DEADLINE)
        if row is None:
            raise StoreOutage("the look at the outbox's storage returned nothing")
        size_bytes, dead_rows, oldest_transaction = row
        return OutboxStorage(size_bytes, dead_rows, oldest_transaction, self._sessions())

    def close(self) -> None:
        """Drop the session. Never raises."""
        if self._session is not None:
            self._session.drop()
            self._session = None
