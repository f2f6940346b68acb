"""Write events into the outbox, in the transaction that changes your own tables.

    from relay.producer.psycopg import emit      # or .sqlalchemy, .asyncpg, .django

    with connection.transaction():
        connection.execute("update orders set state = 'paid' where id = %s", [7])
        emit(connection, "orders.paid", {"order": 7}, key="order-7")

One file a framework; each takes the application's own connection, and neither commits nor closes
it. Nothing here imports the relay itself, NATS, or OpenTelemetry's SDK. See README.md.
"""

from relay.errors import EventRefused, NoTransaction, SchemaError
from relay.producer.core import Event, JsonText

__all__ = ["Event", "EventRefused", "JsonText", "NoTransaction", "SchemaError"]
