"""What the tests of the page share: one nats-server a test, the shared Postgres for all."""

import pytest

from relay import devstack


@pytest.fixture(scope="session")
def server(one_postgres: devstack.Postgres) -> devstack.Postgres:
    """One major version will do: nothing here depends on which."""
    return one_postgres


@pytest.fixture
def dsn(one_dsn: str) -> str:
    return one_dsn
