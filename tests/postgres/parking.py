"""Events that are written, and parked."""

from typing import Any

import psycopg

from relay.core.disposition import Parking
from relay.core.event import Event


def retried(event: Event, attempts: int = 1, delay: float = 0.0, **more: Any) -> Parking:
    return Parking(event.id, event.event_id, attempts, delay, error="no", **more)


def emit(producer: psycopg.Connection, rows: int, key: str | None = "k") -> None:
    producer.execute(
        "insert into relay.outbox (subject, key, payload_bytes, headers)"
        " select 'a.b', %s, '\\x00ff', '{\"h\": \"v\"}' from generate_series(1, %s)",
        (key, rows),
    )
