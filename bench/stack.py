"""The servers of a benchmark: durable, with file storage, on loopback, gone afterwards."""

import asyncio
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from bench import streams
from relay import devstack
from relay.postgres import migrations

POSTGRES_SETTINGS = {
    "fsync": "on",
    "synchronous_commit": "on",
    "shared_buffers": "512MB",
    "max_wal_size": "8GB",  # no checkpoint storm within a run
    "max_connections": "120",
}
LOGICAL = {"wal_level": "logical"}
"""What some peers need. Only where they are measured: everybody's WAL grows by it."""


@dataclass(frozen=True)
class Stack:
    """A running Postgres and a running nats-server."""

    postgres: devstack.Postgres
    nats: devstack.NatsServer

    @contextmanager
    def database(self) -> Iterator[str]:
        """Yield the connection string of a fresh, empty database."""
        name = f"bench_{uuid.uuid4().hex[:8]}"
        dsn = self.postgres.create_database(name)
        try:
            yield dsn
        finally:
            self.postgres.drop_database(name)

    @contextmanager
    def outbox(self) -> Iterator[str]:
        """Yield the connection string of a fresh database with an empty outbox."""
        with self.database() as dsn:
            asyncio.run(migrations.migrate(dsn, "relay"))
            yield dsn

    @contextmanager
    def stream(self, *, batched: bool = True) -> Iterator[str]:
        """Yield the name of a fresh stream in file storage that captures ``orders.>``."""
        name = f"BENCH-{uuid.uuid4().hex[:8]}"
        asyncio.run(streams.make(self.nats.url, name, batched=batched))
        try:
            yield name
        finally:
            asyncio.run(streams.delete(self.nats.url, name))


@contextmanager
def stack(more: Mapping[str, str] | None = None) -> Iterator[Stack]:
    """Start both servers, with ``more`` settings for Postgres."""
    settings = POSTGRES_SETTINGS | dict(more or {})
    with devstack.postgres(settings=settings) as postgres, devstack.nats_server() as nats:
        yield Stack(postgres, nats)
