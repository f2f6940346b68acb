"""What the tests of the page share: one Postgres for all, and a relay and a browser to look at."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from playwright.async_api import Browser

from relay import devstack
from tests.http.asking import TOKEN, Served, serving
from tests.http.browsing import chromium
from tests.system.harness import until


@pytest.fixture(scope="session")
def server(one_postgres: devstack.Postgres) -> devstack.Postgres:
    """One major version will do: nothing here depends on which."""
    return one_postgres


@pytest.fixture
def dsn(one_dsn: str) -> str:
    return one_dsn


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
