"""An event: one committed row of the outbox, as it is handed from the store to the bus."""

from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple


class Event(NamedTuple):
    """One committed outbox row. A tuple, for a page of 2,000 is made in one pass of C.

    Attributes:
        id: the row's identity; ascending in the order of writing within a key.
        event_id: the row's UUID in its usual text form.
        message_id: what JetStream deduplicates by, made by the SQL function ``message_id``: the
            producer's idempotency key, else ``relay-<event_id>``, after a person's retry
            ``relay-<event_id>-<n>``; each behind RELAY_MESSAGE_ID_PREFIX.
        subject: a literal NATS subject.
        key: events of one key keep their order; None asks for no order.
        created_at: aware UTC, the database's wall clock when the row was written.
        headers: the producer's own headers, or None.
        payload: what the message carries, untouched: JSON text in UTF-8, or the producer's bytes.
    """

    id: int
    event_id: str
    message_id: str
    subject: str
    key: str | None
    created_at: datetime
    headers: Mapping[str, str] | None
    payload: bytes
