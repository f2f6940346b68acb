"""Servers of their own for the tests of the page: one Postgres a module, one nats-server a test."""

import asyncio
import uuid
from collections.abc import Iterator

import pytest

from relay import devstack
from relay.postgres import migrations
from tests.conftest import let_test_roles_in


@pytest.fixture(scope="module")
def server() -> Iterator[devstack.Postgres]:
    """One major version will do: nothing here depends on which."""
    with devstack.postgres(settings={"fsync": "off"}) as found:
        let_test_roles_in(found)
        yield found


@pytest.fixture
def dsn(server: devstack.Postgres) -> str:
    made = server.create_database(f"web_{uuid.uuid4().hex[:12]}")
    asyncio.run(migrations.migrate(made, "relay"))
    return made
