"""Rows that appear late, in the holes between the ids that were read."""

import psycopg
import pytest

from relay.audit.outbox import OutboxReader
from relay.postgres.session import Session

pytestmark = pytest.mark.anyio

ROWS, EVERY = 200_000, 10
FILL = """
insert into relay.outbox (id, subject, payload)
overriding system value
select n, 'orders.paid', '{}' from generate_series(1, %s) as n where n %% %s > 0
"""
LATE = """
insert into relay.outbox (id, subject, payload) overriding system value
values (%s, 'orders.paid', '{}')
"""


@pytest.mark.slow
async def test_what_appears_in_one_of_very_many_holes_is_read_hole_by_hole(outbox_dsn: str) -> None:
    """As one join each row is held against each hole, which takes longer than the deadline."""
    with psycopg.connect(outbox_dsn, autocommit=True) as producer:
        producer.execute(FILL, [ROWS, EVERY])
        async with await Session.connect(outbox_dsn, "audit") as session:
            reader = OutboxReader(session, "relay", None)
            await reader.begin()
            while not reader.exhausted:
                await reader.page()
            late = [EVERY, ROWS // 2, ROWS - EVERY]
            for number in late:
                producer.execute(LATE, [number])
            assert [row.sequence for row in await reader.late(0.0)] == late
            assert await reader.late(0.0) == []
