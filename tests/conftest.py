"""The servers that every test shares: real ones, started once, thrown away at the end.

A test that asks for ``postgres_server`` (or for a database in it) runs once for every major version
found and carries the marker ``postgres``; for all but the newest one, ``older_postgres`` as well. A
test that does not depend on the version asks for ``one_postgres``, the newest. Two variables say
what "found" has to mean:

    RELAY_TEST_POSTGRES=15,18   only these; one that is not there fails its tests
    RELAY_TEST_REQUIRE=15,18    everything found, and these must be among it
"""

import asyncio
import functools
import logging
import os
import signal
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psycopg
import pytest
from hypothesis import settings

from relay import devstack
from relay.postgres import migrations
from tests import warm

# An example that waits for a busy machine is no fault; speed belongs in bench/.
settings.register_profile("relay", settings(), deadline=None)
settings.load_profile("relay")

# A shell starts what runs in the background so, and `nohup` everything. Every child would inherit
# it, and nothing that a test signals would hear it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

RULES = """\
host all postgres 127.0.0.1/32 scram-sha-256
host all all 127.0.0.1/32 trust
"""
SETTINGS = {"fsync": "off", "synchronous_commit": "on", "max_connections": "100"}
MEMORY = Path("/dev/shm")
MEMORY_BYTES = 4 << 30
"""What must be free there: each worker's clusters take some hundred MB."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "postgres_server" in metafunc.fixturenames:
        newest, *older = _majors()
        params = [pytest.param(newest, id=f"pg{newest}")]
        marks = [pytest.mark.older_postgres]
        params += [pytest.param(major, id=f"pg{major}", marks=marks) for major in older]
        metafunc.parametrize("postgres_server", params, indirect=True, scope="session")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "postgres_server" in getattr(item, "fixturenames", ()):
            item.add_marker("postgres")


@pytest.fixture(scope="session", autouse=True)
def warm_starts() -> Iterator[None]:
    """Let relays that tests start be forks: see ``tests/warm.py``."""
    warm.turn_on()
    yield
    warm.turn_off()


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


class Cluster:
    """A running Postgres that a whole session uses."""

    def __init__(self, server: devstack.Postgres) -> None:
        self.server = server

    @functools.cached_property
    def template(self) -> str:
        """The name of a database with an empty outbox in the schema `relay`, migrated once."""
        dsn = self.server.create_database("outbox_template")
        asyncio.run(migrations.migrate(dsn, "relay"))
        return "outbox_template"


@pytest.fixture(scope="session")
def clusters() -> Iterator[Callable[[int], Cluster]]:
    """Give the cluster of a major version: started when the first test needs it, and then kept.

    A parametrized session fixture can't keep them: pytest ends its value at every other parameter,
    which comes twice in each module. They live in memory if there is room: a test's database is
    some 300 files, and to make and drop them there costs a tenth of what it costs on a disk.
    """
    found = {installation.major: installation for installation in devstack.find_postgres()}
    running: dict[int, Cluster] = {}
    with ExitStack() as stack:

        def of(major: int) -> Cluster:
            if major not in found:
                pytest.fail(f"Postgres {major} is asked for, but only {sorted(found)} found")
            if major not in running:
                made = devstack.postgres(found[major], settings=SETTINGS)
                with in_memory():
                    running[major] = Cluster(stack.enter_context(made))
                let_test_roles_in(running[major].server)
            return running[major]

        yield of


@contextmanager
def in_memory() -> Iterator[None]:
    """Let temporary folders be made in memory, if that is possible and has room."""
    before = tempfile.tempdir
    with suppress(OSError):
        there = os.statvfs(MEMORY)
        if there.f_bavail * there.f_frsize > MEMORY_BYTES and not there.f_flag & os.ST_NOEXEC:
            tempfile.tempdir = str(MEMORY)
    try:
        yield
    finally:
        tempfile.tempdir = before


@pytest.fixture(scope="session")
def postgres_server(
    request: pytest.FixtureRequest, clusters: Callable[[int], Cluster]
) -> devstack.Postgres:
    """A Postgres cluster of the major version that the test runs for."""
    return clusters(request.param).server


@pytest.fixture(scope="session")
def one_postgres(clusters: Callable[[int], Cluster]) -> devstack.Postgres:
    """The newest Postgres, for what does not depend on the version. Not to be stopped."""
    return clusters(_majors()[0]).server


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
def outbox_template(clusters: Callable[[int], Cluster], postgres_server: devstack.Postgres) -> str:
    """The name of a database with the schema `relay` in it, to be copied."""
    return clusters(postgres_server.major).template


@pytest.fixture
def outbox_dsn(postgres_server: devstack.Postgres, outbox_template: str) -> Iterator[str]:
    """The connection string of a fresh database with an empty outbox in the schema `relay`."""
    with _copy(postgres_server, outbox_template) as dsn:
        yield dsn


@pytest.fixture(scope="session")
def one_template(clusters: Callable[[int], Cluster], one_postgres: devstack.Postgres) -> str:
    """The same in ``one_postgres``."""
    return clusters(one_postgres.major).template


@pytest.fixture
def one_dsn(one_postgres: devstack.Postgres, one_template: str) -> Iterator[str]:
    """The connection string of a fresh database with an empty outbox in ``one_postgres``."""
    with _copy(one_postgres, one_template) as dsn:
        yield dsn


@contextmanager
def _copy(server: devstack.Postgres, template: str) -> Iterator[str]:
    name = f"outbox_{uuid.uuid4().hex[:12]}"
    yield server.create_database(name, template=template)
    server.drop_database(name)


@functools.cache
def _majors() -> list[int]:
    """The major versions that tests run for, the newest first.

    Kept, since every test function asks at collection, and each look starts three programs.
    """
    only = _listed("RELAY_TEST_POSTGRES")
    found = only or [installation.major for installation in devstack.find_postgres()]
    wanted = {*found, *([] if only else _listed("RELAY_TEST_REQUIRE"))}
    if not wanted:
        # Not a skip: without Postgres nothing that matters has been tested.
        raise pytest.UsageError("no Postgres found: install the extra `test`, or set RELAY_PG_BIN")
    return sorted(wanted, reverse=True)


def _listed(variable: str) -> list[int]:
    return [int(part) for part in os.environ.get(variable, "").split(",") if part.strip()]
