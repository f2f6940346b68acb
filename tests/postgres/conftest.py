"""What several of these tests have."""

from collections.abc import AsyncIterator, Callable, Iterator

import psycopg
import pytest

from relay import devstack
from relay.postgres.bell import PostgresBell
from relay.postgres.outbox import PostgresOutbox
from relay.postgres.replay import Replays
from relay.postgres.store import PostgresStore
from tests.postgres.bells import bell_running
from tests.postgres.databases import Program, further_databases, programs
from tests.postgres.leases import PATIENT


@pytest.fixture
def admin(outbox_dsn: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(outbox_dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
async def bell(outbox_dsn: str) -> AsyncIterator[PostgresBell]:
    async with bell_running(PostgresOutbox(outbox_dsn, "relay", page_bytes=1 << 20)) as bell:
        yield bell


@pytest.fixture
async def writer(outbox_dsn: str) -> AsyncIterator[psycopg.AsyncConnection]:
    connect = psycopg.AsyncConnection.connect
    async with await connect(outbox_dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
async def store(outbox_dsn: str) -> AsyncIterator[PostgresStore]:
    outbox = PostgresOutbox(outbox_dsn, "relay", page_bytes=8 << 20, lease_lifetime=PATIENT)
    store = await outbox.campaign("tester")
    assert store is not None
    yield store
    await store.close()
    await outbox.close()


@pytest.fixture
def producer(outbox_dsn: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(outbox_dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def program(postgres_server: devstack.Postgres) -> Program:
    return programs(postgres_server)


@pytest.fixture
def fresh(postgres_server: devstack.Postgres) -> Iterator[Callable[[], str]]:
    with further_databases(postgres_server) as make:
        yield make


@pytest.fixture
async def replays(outbox_dsn: str) -> AsyncIterator[Replays]:
    async with Replays.open(outbox_dsn, "relay") as replays:
        yield replays
