"""The second bank's consumer, as a process: ``python -m tests.soak.bank.applier DSN NATS``."""

import asyncio
import json
import logging
import signal
import sys
from typing import Any

from psycopg_pool import AsyncConnectionPool

from relay import logs
from relay.consumer import Consumer, Message, Options
from relay.consumer.psycopg import PsycopgDatabase
from tests.system.harness import STREAM

NAME = "bank"
_ACCOUNT = """
insert into account values (%(aid)s, %(delta)s)
on conflict (aid) do update set balance = account.balance + excluded.balance
"""
_TELLER = """
insert into teller values (%(tid)s, %(delta)s)
on conflict (tid) do update set balance = teller.balance + excluded.balance
returning balance
"""
_MOVEMENT = (
    "insert into movement (tid, bid, aid, delta) values (%(tid)s, %(bid)s, %(aid)s, %(delta)s)"
)


async def apply(connection: Any, message: Message) -> None:
    """Move the money; keep what the teller's balance is, if that is not what it should be."""
    movement = json.loads(message.payload)
    await connection.execute(_ACCOUNT, movement)
    row = await (await connection.execute(_TELLER, movement)).fetchone()
    await connection.execute(_MOVEMENT, movement)
    if row[0] != movement["teller"]:
        await connection.execute(
            "insert into wrong (tid, expected, found) values (%s, %s, %s)",
            (movement["tid"], movement["teller"], row[0]),
        )


async def main(dsn: str, nats_url: str) -> None:
    logs.configure("json", "info")
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)  # it tells of every lost connection
    where = {"connect_timeout": 2, "tcp_user_timeout": 4000}
    pool = AsyncConnectionPool[Any](dsn, min_size=1, max_size=8, open=False, kwargs=where)
    async with pool:
        consumer = Consumer(
            PsycopgDatabase(pool),
            apply,
            name=NAME,
            stream=STREAM,
            servers=nats_url,
            options=Options(
                batch=50, lanes=3, lease_lifetime=2.0, handler_timeout=5.0, ack_wait=5.0
            ),
        )
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, consumer.stop)
        await consumer.run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
