"""Outboxes whose lease is short, and their terms."""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from relay.postgres.outbox import PostgresOutbox
from relay.postgres.store import PostgresStore

LIFETIME = 1.0

TERMS = (
    "select pid from pg_stat_activity where application_name = 'relay term'"
    " and datname = current_database()"
)


@asynccontextmanager
async def outbox_of(dsn: str) -> AsyncIterator[PostgresOutbox]:
    outbox = PostgresOutbox(dsn, "relay", page_bytes=1024, lease_lifetime=LIFETIME)
    yield outbox
    await outbox.close()


async def begun(outbox: PostgresOutbox) -> PostgresStore:
    with anyio.fail_after(LIFETIME + 9):
        while (store := await outbox.campaign(uuid.uuid4().hex)) is None:
            await anyio.sleep(0.05)
    return store
