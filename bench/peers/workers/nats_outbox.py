"""nats-outbox's polling relay, set up as its own command does, with the largest batch it takes.

It publishes one by one with ``Nats-Msg-Id``; only the interval between idle polls and the size of
a batch can be chosen. Its command would log a line for every event: this one only warns.
"""

# mypy: disable-error-code="import-not-found,no-untyped-call"

import asyncio
import logging
import signal
import sys

import nats
from nats_outbox.core.models import Base
from nats_outbox.publishers.nats_publisher import NatsPublisher
from nats_outbox.relay.polling import PollingRelay
from nats_outbox.settings import OutboxSettings
from sqlalchemy import create_mock_engine
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine


def schema() -> None:
    """Print the tables as its SQLAlchemy models say them."""
    dialect = postgresql.dialect()
    engine = create_mock_engine(
        "postgresql+asyncpg://", lambda ddl, *_, **__: print(ddl.compile(dialect=dialect), ";")
    )
    Base.metadata.create_all(engine, checkfirst=False)


async def relay(dsn: str, nats_url: str) -> None:
    logging.basicConfig(level=logging.WARNING)
    settings = OutboxSettings(
        database_url=dsn, nats_url=nats_url, polling_interval=0.01, batch_size=1000
    )
    engine = create_async_engine(dsn)
    client = await nats.connect(nats_url)
    publisher = await NatsPublisher.from_nats_client(client)
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    worker = PollingRelay(sessions, publisher, settings)

    def stop() -> None:
        stopping.append(asyncio.ensure_future(worker.stop()))

    stopping: list[asyncio.Future[None]] = []
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)
    print("ready", flush=True)
    await worker.start()
    await client.close()
    await engine.dispose()


if __name__ == "__main__":
    if sys.argv[1:] == ["schema"]:
        schema()
    else:
        asyncio.run(relay(*sys.argv[1:3]))
