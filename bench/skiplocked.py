"""A queue as many write one: SELECT ... FOR UPDATE SKIP LOCKED, publish, DELETE.

``python -m bench.skiplocked DSN URL`` is its worker. It is here to show what a table that loses its
rows does while an old snapshot is held: every look at its head passes over all dead rows.
"""

import asyncio
import sys
from collections.abc import Mapping, Sequence

import nats
import psycopg
import uvloop

from bench.peers.base import READY, SUBJECT
from bench.processes import python

PAGE = 500
REST = 0.01
TABLE = """
    create table queue (
      id bigint generated always as identity primary key, key text, payload text not null
    )
"""
TAKE = """
    delete from queue where id in (
      select id from queue order by id limit %s for update skip locked
    ) returning id, payload
"""


class SkipLockedQueue:
    """The queue as a peer."""

    name = "SKIP LOCKED queue"
    source = "bench/skiplocked.py"
    guarantees = "at least once"
    lacks = "order, deduplication, a bell"

    def install(self) -> str:
        """Be here already."""
        return "1"

    def prepare(self, dsn: str) -> None:
        """Make the table."""
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(TABLE)

    def unburden(self, dsn: str) -> None:
        """Have no trigger."""

    def events_from(self, rows: str) -> str:
        """Return the INSERT."""
        return (
            "insert into queue (key, payload)"
            f" select event.key, event.payload from {rows} as event (key, payload)"
        )

    def command(self, dsn: str, nats_url: str, stream: str) -> Sequence[str]:
        """Return the worker's command."""
        del stream  # it publishes to the subject
        return python("bench.skiplocked", dsn, nats_url)

    def environment(self) -> Mapping[str, str]:
        """Add nothing."""
        return {}


async def work(dsn: str, url: str) -> None:
    """Take, publish all at once, await every PubAck, commit; for ever."""
    connection = await psycopg.AsyncConnection.connect(dsn)
    async with connection, await nats.connect(url) as client:
        jetstream = client.jetstream()
        print(READY, flush=True)
        while True:
            async with connection.transaction():
                taken = await (await connection.execute(TAKE, (PAGE,))).fetchall()
                await asyncio.gather(
                    *(jetstream.publish(SUBJECT, payload.encode()) for _, payload in sorted(taken))
                )
            if not taken:
                await asyncio.sleep(REST)


if __name__ == "__main__":
    uvloop.run(work(sys.argv[1], sys.argv[2]))
