"""Outboxes with a lease of a chosen lifetime, and their terms."""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import anyio

from relay.errors import StoreOutage, TermLost
from relay.postgres.outbox import PostgresOutbox
from relay.postgres.store import PostgresStore

LIFETIME = 1.0

PATIENT = 60.0
"""Seconds: a lease that nothing renews, on a busy machine that takes longer than five."""

TERMS = (
    "select pid from pg_stat_activity where application_name = 'relay term'"
    " and datname = current_database()"
)


@asynccontextmanager
async def outbox_of(dsn: str, lifetime: float = LIFETIME) -> AsyncIterator[PostgresOutbox]:
    outbox = PostgresOutbox(dsn, "relay", page_bytes=1024, lease_lifetime=lifetime)
    yield outbox
    await outbox.close()


async def begun(outbox: PostgresOutbox) -> PostgresStore:
    """Campaign until a term begins: a short lease can be over before its term has begun."""
    with anyio.fail_after(LIFETIME + 9):
        while True:
            with suppress(StoreOutage, TermLost):
                if (store := await outbox.campaign(uuid.uuid4().hex)) is not None:
                    return store
            await anyio.sleep(0.05)
