"""The consumer's end: messages of a stream, each one's effect committed once, in order per key.

    from relay.consumer import Consumer, Message
    from relay.consumer.psycopg import PsycopgDatabase

    async def handle(connection, message: Message) -> None:
        await connection.execute("update ...")

    await Consumer(PsycopgDatabase(pool), handle, name="billing", stream="ORDERS").run()

What it needs in the database: ``python -m relay inbox migrate``. Guide: this folder's README.
"""

from relay.consumer.calling import HandlerError
from relay.consumer.consumer import Consumer
from relay.consumer.message import Message
from relay.consumer.options import Options

__all__ = ["Consumer", "HandlerError", "Message", "Options"]
