"""What a look at many parked events touches."""

import asyncio
import json
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from relay import devstack
from relay.postgres import migrations
from relay.postgres.reading import PLANS
from tests.postgres.explain import nodes, touched

MANY = 100_000

PAGE = 2000

DUE: dict[str, Any] = {
    "limit_rows": PAGE,
    "limit_bytes": 8 << 20,
    "dead_blocks": False,
    "longest": 7200.0,
    "prefix": "",
    "bare": False,
}

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

FILL = """
    insert into relay.parked (id, event_id, created_at, subject, key, attempts,
                              next_attempt_at, last_error, dead_at, held_by)
    select n + %(after)s, gen_random_uuid(), now(), 'a.b', %(key)s, 0,
           now() + %(due)s::interval, 'why', %(dead)s::timestamptz, %(held_by)s
      from generate_series(1, %(rows)s::int) as n
"""


def fill(connection: psycopg.Connection, after: int, rows: int = MANY, **columns: Any) -> None:
    given = {"key": None, "due": None, "dead": None, "held_by": ""} | columns
    connection.execute(FILL, {"after": after, "rows": rows, **given})


@pytest.fixture(scope="module")
def filled(postgres_server: devstack.Postgres) -> Iterator[psycopg.Connection]:
    """Many waiting behind one that is not due, many held up, many dead; and three that are due."""
    name = f"crowded_{uuid.uuid4().hex[:8]}"
    dsn = postgres_server.create_database(name)
    asyncio.run(migrations.migrate(dsn, "relay"))
    options = " ".join(f"-c {name}={value}" for name, value in PLANS.items())
    with psycopg.connect(dsn, autocommit=True, options=options) as connection:
        connection.execute("alter table relay.parked set (autovacuum_enabled = off)")
        fill(connection, 0, 1, key="hot", due="1 hour")
        fill(connection, MANY, key="hot")
        fill(connection, 2 * MANY, held_by="stream FULL", due="-1 second")
        fill(connection, 3 * MANY, key="hot", dead="2026-01-01")
        fill(connection, 4 * MANY, 3, due="-1 second")
        yield connection
    postgres_server.drop_database(name)


@pytest.fixture(scope="module", params=["never analyzed", "analyzed"])
def crowded(request: pytest.FixtureRequest, filled: psycopg.Connection) -> psycopg.Connection:
    if request.param == "analyzed":
        filled.execute("analyze relay.parked")
    return filled


def test_a_look_at_what_is_due_touches_that_and_little_else(crowded: psycopg.Connection) -> None:
    plan = nodes(crowded, "due", without=["stream FULL"], **DUE)
    assert touched(plan, table="parked") < 50


def test_what_an_outage_held_up_comes_a_page_at_a_time(crowded: psycopg.Connection) -> None:
    plan = nodes(crowded, "due", without=[], **DUE)
    assert touched(plan, table="parked") < 3 * PAGE


def test_a_hot_key_is_read_no_further_than_a_page(crowded: psycopg.Connection) -> None:
    with crowded.transaction(force_rollback=True):
        crowded.execute("update relay.parked set next_attempt_at = now() where id = 1")
        plan = nodes(crowded, "due", without=["stream FULL"], **DUE)
    assert touched(plan, table="parked") < 3 * PAGE


def test_whether_a_key_is_blocked_costs_one_look_a_key(crowded: psycopg.Connection) -> None:
    keys = ["hot", *(f"k{number}" for number in range(1000))]
    plan = nodes(crowded, "blocked", keys=json.dumps(keys), dead_blocks=True)
    assert touched(plan, table="parked") <= 2 * len(keys)


def test_the_backlog_counts_the_parked_no_further_than_asked(crowded: psycopg.Connection) -> None:
    place = {"base": None, "target": None, "last_id": None, "at": None}
    plan = nodes(crowded, "look", exact_up_to=1000, dead_blocks=False, **place)
    assert touched([n for n in plan if "Index Name" in n], table="parked") <= 3000 + 2
