"""The floor of latency: nothing but LISTEN, SELECT by id, publish, PubAck.

    python -m bench.peers.workers.floor DSN NATS_URL

What was written before it started, and what it misses, it never delivers.
"""

import asyncio
import signal
import sys

import nats
import psycopg
import uvloop

from bench.peers.base import READY

SELECT = "select subject, convert_to(payload, 'UTF8') from floor where id = %s"


async def relay(dsn: str, nats_url: str) -> None:
    client = await nats.connect(nats_url)
    bus = client.jetstream()
    listening = await psycopg.AsyncConnection.connect(dsn, autocommit=True)
    reading = await psycopg.AsyncConnection.connect(dsn, autocommit=True)
    await listening.execute("listen floor")
    print(READY, flush=True)
    async for notification in listening.notifies():
        found = await reading.execute(SELECT, (int(notification.payload),), prepare=True)
        row = await found.fetchone()
        assert row is not None
        await bus.publish(*row)


async def until_sigterm(dsn: str, nats_url: str) -> None:
    work = asyncio.create_task(relay(dsn, nats_url))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, work.cancel)
    await asyncio.wait([work])
    if not work.cancelled():
        work.result()


if __name__ == "__main__":
    uvloop.run(until_sigterm(*sys.argv[1:]))
