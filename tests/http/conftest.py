<<<<<<< HEAD
"""What the tests of the page share: one nats-server a test, the shared Postgres for all."""
=======
"""Servers, a relay and a browser for the tests of the page: one Postgres a module."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
>>>>>>> refs/heads/http

import pytest
from playwright.async_api import Browser

from relay import devstack
<<<<<<< HEAD
=======
from relay.postgres import migrations
from tests.conftest import let_test_roles_in
from tests.http.asking import TOKEN, Served, serving
from tests.http.browsing import chromium
from tests.system.harness import until
>>>>>>> refs/heads/http


@pytest.fixture(scope="session")
def server(one_postgres: devstack.Postgres) -> devstack.Postgres:
    """One major version will do: nothing here depends on which."""
    return one_postgres


@pytest.fixture
<<<<<<< HEAD
def dsn(one_dsn: str) -> str:
    return one_dsn
=======
def dsn(server: devstack.Postgres) -> str:
    made = server.create_database(f"web_{uuid.uuid4().hex[:12]}")
    asyncio.run(migrations.migrate(made, "relay"))
    return made


@pytest.fixture(scope="module")
async def browser(anyio_backend: object) -> AsyncIterator[Browser]:
    async with chromium() as started:
        yield started


@pytest.fixture
def shown(dsn: str, own_nats: devstack.NatsServer, tmp_path: Path) -> Iterator[Served]:
    """The page of a relay that leads."""
    log = tmp_path / "relay.log"
    settings = {"http_token": TOKEN, "max_attempts": "3", "max_retry_delay": "100ms"}
    with serving(dsn, own_nats.url, log, **settings) as found:
        until(lambda: found.is_role("leader") and found.reason("nats") == "connected", 20)
        yield found
    assert "Traceback" not in log.read_text()
>>>>>>> refs/heads/http
