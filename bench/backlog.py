"""Waiting events, written fast: what a relay finds after an outage.

They are inserted by two connections, 500,000 a statement. Then the table is vacuumed and analyzed,
as autovacuum does with so many inserts, so that every drain of it reads the same pages in the same
state. Draining moves a cursor and changes no event: set back, the cursor makes the same backlog
wait again.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import psycopg

MOST_ROWS = 500_000


@dataclass(frozen=True)
class Shape:
    """Events of one kind.

    Attributes:
        name: for the report.
        bytes: of payload.
        key: an SQL expression of the event's number ``n``.
        headers: another one.
    """

    name: str
    bytes: int = 256
    key: str = "'k' || n % 1000"
    headers: str = "null::jsonb"


USUAL = Shape("256 B, 1,000 keys")


def fill(dsn: str, events: int, shape: Shape = USUAL) -> None:
    """Add ``events`` to the outbox."""
    statement = f"""
        insert into relay.outbox (subject, key, payload_bytes, headers)
        select 'orders.placed', {shape.key}, convert_to(repeat('x', {shape.bytes}), 'UTF8'),
               {shape.headers}
          from generate_series($1::int, $2::int) as n
    """.encode()

    def insert(first: int) -> None:
        with psycopg.connect(dsn, autocommit=True, cursor_factory=psycopg.RawCursor) as connection:
            connection.execute(statement, (first, min(first + MOST_ROWS - 1, events)))

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(insert, range(1, events + 1, MOST_ROWS)))
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("vacuum (analyze) relay.outbox")
        connection.execute("checkpoint")


def wait_again(dsn: str) -> None:
    """Set the cursor back to where it began: all events are new once more."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("update relay.cursor set base = '1:1:', target = null, last_id = 0")
        connection.execute("vacuum relay.cursor")


def pass_over(dsn: str) -> None:
    """Empty the outbox, and have the cursor know."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("truncate relay.outbox")
        connection.execute(
            "update relay.cursor set base = pg_current_snapshot(), target = null, last_id = 0"
        )
        connection.execute("vacuum relay.cursor")
        connection.execute("checkpoint")
