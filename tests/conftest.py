"""The servers that every test shares: real ones, started once, thrown away at the end.

A test that asks for ``postgres_server`` (or ``database``) runs once for every major version found
and carries the marker ``postgres``. Two variables say what "found" has to mean:

    RELAY_TEST_POSTGRES=15,18   only these; one that is not there fails its tests
    RELAY_TEST_REQUIRE=15,18    everything found, and these must be among it
"""

import asyncio
import logging
import os
import signal
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from relay import devstack
from relay.postgres import migrations

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts what runs in the background so, and every child would inherit it: nothing that
    # a test interrupts could hear it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

RULES = """\
host all postgres 127.0.0.1/32 scram-sha-256
host all all 127.0.0.1/32 trust
"""
SETTINGS = {"fsync": "off", "synchronous_commit": "on", "max_connections": "100"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "postgres_server" in metafunc.fixturenames:
        params = [pytest.param(major, id=f"pg{major}") for major in _majors()]
        metafunc.parametrize("postgres_server", params, indirect=True, scope="session")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "postgres_server" in getattr(item, "fixturenames", ()):
            item.add_marker("postgres")


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": False}


@pytest.fixture
def own_logging() -> Iterator[None]:
    """Put the process's logging and its hooks back afterwards."""
    root, names = logging.getLogger(), ("relay", "nats", "psycopg", "psycopg.pool")
    handlers, level = list(root.handlers), root.level
    levels = {name: logging.getLogger(name).level for name in names}
    hooks = sys.excepthook, sys.unraisablehook, threading.excepthook
    yield
    logging.captureWarnings(capture=False)
    sys.excepthook, sys.unraisablehook, threading.excepthook = hooks
    for handler in list(root.handlers):
        if handler not in handlers:
            root.removeHandler(handler)
    root.setLevel(level)
    for name, former in levels.items():
        logging.getLogger(name).setLevel(former)


@pytest.fixture(scope="session")
def postgres_server(request: pytest.FixtureRequest) -> Iterator[devstack.Postgres]:
    """A Postgres cluster of the major version that the test runs for."""
    found = {installation.major: installation for installation in devstack.find_postgres()}
    if request.param not in found:
        pytest.fail(f"Postgres {request.param} is asked for, but only {sorted(found)} found")
    with devstack.postgres(found[request.param], settings=SETTINGS) as server:
        let_test_roles_in(server)
        yield server


def let_test_roles_in(server: devstack.Postgres) -> None:
    """Ask the superuser alone for a password: the roles that tests make have none."""
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        (path,) = connection.execute("show hba_file").fetchone() or ("",)
        Path(path).write_text(RULES, encoding="utf-8")
        connection.execute("select pg_reload_conf()")


@pytest.fixture(scope="session")
def nats_server() -> Iterator[devstack.NatsServer]:
    """A nats-server with JetStream; tests name their streams apart."""
    with devstack.nats_server() as server:
        yield server


@pytest.fixture
def own_nats() -> Iterator[devstack.NatsServer]:
    """A nats-server that the test may stop, kill or reconfigure."""
    with devstack.nats_server() as server:
        yield server


@pytest.fixture
def database(postgres_server: devstack.Postgres) -> Iterator[str]:
    """The connection string of a fresh, empty database."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    yield postgres_server.create_database(name)
    postgres_server.drop_database(name)


@pytest.fixture(scope="session")
def outbox_template(postgres_server: devstack.Postgres) -> Iterator[str]:
    """The name of a database with the schema `relay` in it, which each server migrates once."""
    name = f"template_{uuid.uuid4().hex[:12]}"
    dsn = postgres_server.create_database(name)
    asyncio.run(migrations.migrate(dsn, "relay"))
    yield name
    postgres_server.drop_database(name)


@pytest.fixture
def outbox_dsn(postgres_server: devstack.Postgres, outbox_template: str) -> Iterator[str]:
    """The connection string of a fresh database with an empty outbox in the schema `relay`."""
    name = f"outbox_{uuid.uuid4().hex[:12]}"
    yield postgres_server.create_database(name, template=outbox_template)
    postgres_server.drop_database(name)


def _majors() -> list[int]:
    only = _listed("RELAY_TEST_POSTGRES")
    if only:
        return only
    found = [installation.major for installation in devstack.find_postgres()]
    wanted = found + [major for major in _listed("RELAY_TEST_REQUIRE") if major not in found]
    if not wanted:
        # Not a skip: without Postgres nothing that matters has been tested.
        raise pytest.UsageError("no Postgres found: install the extra `test`, or set RELAY_PG_BIN")
    return wanted


def _listed(variable: str) -> list[int]:
    return [int(part) for part in os.environ.get(variable, "").split(",") if part.strip()]
