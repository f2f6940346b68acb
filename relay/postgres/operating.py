"""What both faces for operators need: their session, and what came after a dead event.

operator    the parked and the dead: find, look, retry, drop
replay      delivered events, to be published again
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from psycopg import errors

from relay.errors import SchemaError
from relay.postgres import migrations
from relay.postgres.session import Session
from relay.postgres.sqlfiles import load

LATER_MOST: Final = 10_000
"""Later events of a key that are looked at."""

LATER_DEADLINE: Final = 60.0
"""s for a look over the outbox behind a dead event, which nobody else waits for."""


@asynccontextmanager
async def operator_session(dsn: str, schema: str) -> AsyncIterator[Session]:
    """Connect as a login that needs the operator's role, and check the schema.

    Raises:
        StoreOutage: the database is away, or a statement got no answer.
        SchemaError: the schema is not as required, or this login may not do this.
    """
    async with await Session.connect(dsn, "operator") as session:
        try:
            await migrations.up_to_date(session, schema)
            yield session
        except SchemaError as error:
            if isinstance(error.__cause__, errors.InsufficientPrivilege):
                reason = " ".join(str(error.__cause__).split())
                raise SchemaError(
                    f'{reason}: grant the role "{schema}_operator" to this login'
                ) from error
            raise


@dataclass(frozen=True, slots=True)
class Later:
    """Ids of a key's later events: stored before its dead ones, or waiting for them if retried.

    ``is_cut``: there are more.
    """

    published: Sequence[int]
    waiting: Sequence[int]
    is_cut: bool


async def later(session: Session, schema: str, key: str, after: int) -> Later:
    """Look at the events of ``key`` with an id above ``after``, the first 10,000 of them."""
    params = {"key": key, "after": after, "limit_rows": LATER_MOST}
    query = load("queries/dead_later", schema)
    rows = await session.rows(query, params, deadline=LATER_DEADLINE)
    published = [id_ for id_, is_published in rows if is_published]
    waiting = [id_ for id_, is_published in rows if not is_published]
    return Later(published, waiting, len(rows) == LATER_MOST)
