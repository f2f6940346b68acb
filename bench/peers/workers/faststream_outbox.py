"""faststream-outbox's relay to a foreign broker: a FastStream publisher upon its subscriber.

Its documentation's levers for throughput are all pulled: many rows a fetch, several workers,
terminal deletes by the hundreds. The publisher is FastStream's own for JetStream, which awaits each
PubAck. The row's headers travel along, and ``Nats-Msg-Id`` is among them: its documentation's way;
a handler that asks for the message, to set headers itself, halves the rate.
"""

# mypy: disable-error-code="import-not-found,no-untyped-call,untyped-decorator"

import logging
import sys

import uvloop
from faststream import FastStream
from faststream.nats import JStream, NatsBroker
from faststream_outbox import OutboxBroker, make_outbox_table, outbox_autovacuum_ddl
from sqlalchemy import MetaData, create_mock_engine
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import create_async_engine

QUEUE = "orders"
WORKERS = 20
BATCH = 1000
LOGGER = logging.getLogger(__name__)  # warns on standard error; by default each event is a line

metadata = MetaData()
table = make_outbox_table(metadata, table_name="outbox")


def schema() -> None:
    """Print the table as its SQLAlchemy model says it, and the advised autovacuum settings."""
    dialect = postgresql.dialect()
    engine = create_mock_engine(
        "postgresql+asyncpg://", lambda ddl, *_, **__: print(ddl.compile(dialect=dialect), ";")
    )
    metadata.create_all(engine, checkfirst=False)
    print(outbox_autovacuum_ddl("outbox"))


async def relay(dsn: str, nats_url: str, stream: str, subject: str) -> None:
    engine = create_async_engine(dsn, pool_size=WORKERS + 2)
    outbox = OutboxBroker(engine, outbox_table=table, logger=LOGGER)
    broker = NatsBroker(nats_url, logger=LOGGER)

    @broker.publisher(subject, stream=JStream(stream, declare=False), timeout=30)
    @outbox.subscriber(
        QUEUE,
        max_workers=WORKERS,
        fetch_batch_size=BATCH,
        min_fetch_interval=0.01,
        max_fetch_interval=0.1,
        terminal_flush_batch_size=500,
        propagate_inbound_headers=True,
    )
    async def forward(body: str) -> str:
        return body

    app = FastStream(outbox, on_startup=[broker.connect], after_startup=[ready], logger=LOGGER)
    await app.run()
    await broker.stop()
    await engine.dispose()


def ready() -> None:
    print("ready", flush=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["schema"]:
        schema()
    else:
        uvloop.run(relay(*sys.argv[1:]))
