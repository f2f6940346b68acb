"""The relay everybody writes first.

    python -m bench.peers.workers.loop DSN NATS_URL one|gathered

Every 100 ms, at once after a full page: select a page for update skip locked, publish, delete,
commit. ``one`` awaits each PubAck before the next publish, ``gathered`` those of a page together.
"""

import asyncio
import contextlib
import signal
import sys

import nats
import psycopg
import uvloop

from bench.peers.base import READY

INTERVAL = 0.1
PAGE = 500
SELECT = """
    select id, subject, convert_to(payload, 'UTF8')
      from outbox order by id limit %s for update skip locked
"""
DELETE = "delete from outbox where id = any(%s)"


async def relay(dsn: str, nats_url: str, manner: str) -> None:
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    client = await nats.connect(nats_url)
    bus = client.jetstream()
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        print(READY, flush=True)
        while not stopping.is_set():
            async with connection.transaction():
                found = await connection.execute(SELECT, (PAGE,), binary=True)
                page = await found.fetchall()
                publishing = [
                    bus.publish(subject, payload, headers={"Nats-Msg-Id": str(id_)}, timeout=30)
                    for id_, subject, payload in page
                ]
                if manner == "gathered":
                    await asyncio.gather(*publishing)
                else:
                    for publish in publishing:
                        await publish
                if page:
                    await connection.execute(DELETE, ([id_ for id_, _, _ in page],))
            if len(page) < PAGE:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stopping.wait(), INTERVAL)
    await client.close()


if __name__ == "__main__":
    uvloop.run(relay(*sys.argv[1:]))
