"""What another session's snapshot may not slow: the cursor row is read where it was last."""

from typing import Any

import psycopg
import pytest

from relay.ports import Settlement
from relay.postgres.reading import PLANS
from relay.postgres.store import PostgresStore
from tests.postgres.explain import nodes

pytestmark = pytest.mark.anyio

SETTLED: dict[str, Any] = {"base": None, "target": None, "last_id": None, "tips": "[]", "top_id": 0}
ASKED: dict[str, dict[str, Any]] = {
    "settle": SETTLED,
    "still_mine": {},
    "look": {**SETTLED, "exact_up_to": 10, "dead_blocks": False},
    "mark": {"retention": "1 hour", "jump": "0 seconds"},
    "prune": {"retention": "0 seconds", "floor": 0, "chunk_rows": 10},
}


def walked(connection: psycopg.Connection, name: str, term: dict[str, Any]) -> bool:
    """Say whether the statement reads the cursor's table from its beginning."""
    plan = nodes(connection, name, **ASKED[name], **term)
    scans = [node for node in plan if node.get("Relation Name") == "cursor"]
    assert "Tid Scan" in {node["Node Type"] for node in scans}
    return any(node["Actual Loops"] for node in scans if node["Node Type"] == "Seq Scan")


async def test_the_cursor_row_is_read_where_it_was_last(
    store: PostgresStore, outbox_dsn: str
) -> None:
    options = " ".join(f"-c {name}={value}" for name, value in PLANS.items())
    await store.settle(Settlement(None))
    term = store._lease.term
    with psycopg.connect(outbox_dsn, options=options) as connection:
        for name in ASKED:
            assert not walked(connection, name, term), name
            connection.rollback()
        assert walked(connection, "look", term | {"at": "(7,1)"})


async def test_a_cursor_row_that_was_moved_is_found(
    store: PostgresStore, admin: psycopg.Connection
) -> None:
    await store.settle(Settlement(None))
    admin.execute("update relay.cursor set last_id = 7")
    admin.execute("vacuum full relay.cursor")
    await store.settle(Settlement(None))
    assert admin.execute("select last_id from relay.cursor").fetchall() == [(7,)]
    assert (await store.look(None)).undelivered == 0
