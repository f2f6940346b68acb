"""A migrated database of a consumer's own, and a world around it."""

import uuid
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from relay import devstack
from tests.conftest import Cluster
from tests.consumer.rig import World, migrated, world


@pytest.fixture(scope="session")
def inbox_template(clusters: Callable[[int], Cluster], postgres_server: devstack.Postgres) -> str:
    """The name of a database with an inbox and tables for effects, to be copied."""
    name = "inbox_template"
    server = clusters(postgres_server.major).server
    made = getattr(server, "_inbox_template", None)
    if made is None:
        migrated(server.create_database(name))
        vars(server)["_inbox_template"] = name
    return name


@pytest.fixture
def inbox_dsn(postgres_server: devstack.Postgres, inbox_template: str) -> Iterator[str]:
    """The connection string of a fresh database with an inbox in the schema `relay`."""
    name = f"inbox_{uuid.uuid4().hex[:12]}"
    yield postgres_server.create_database(name, template=inbox_template)
    postgres_server.drop_database(name)


@pytest.fixture
async def there(
    inbox_dsn: str, nats_server: devstack.NatsServer, anyio_backend: object
) -> AsyncIterator[World]:
    async with world(inbox_dsn, nats_server.url) as made:
        yield made
