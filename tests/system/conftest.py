"""What the tests share that do not depend on Postgres' major version."""

import asyncio
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from relay import devstack
from relay.postgres import migrations
from tests.system.harness import RelayProcess, Start


@pytest.fixture(scope="session")
def one_postgres() -> Iterator[devstack.Postgres]:
    """Any Postgres: one major version will do."""
    with devstack.postgres() as found:
        yield found


@pytest.fixture(scope="session")
def one_template(one_postgres: devstack.Postgres) -> str:
    name = f"template_{uuid.uuid4().hex[:12]}"
    asyncio.run(migrations.migrate(one_postgres.create_database(name), "relay"))
    return name


@pytest.fixture
def one_dsn(one_postgres: devstack.Postgres, one_template: str) -> Iterator[str]:
    """A fresh outbox on any Postgres."""
    name = f"outbox_{uuid.uuid4().hex[:12]}"
    yield one_postgres.create_database(name, template=one_template)
    one_postgres.drop_database(name)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start relays that end with the test, each with a log of its own."""
    started: list[RelayProcess] = []

    def start(dsn: str, nats_url: str, **settings: str) -> RelayProcess:
        log = tmp_path / f"relay-{len(started)}.log"
        started.append(RelayProcess(dsn, nats_url, log, **settings))
        return started[-1]

    yield start
    for relay in started:
        relay.end()
