"""The plans of the hot statements, with a million delivered rows and with a million waiting ones.

Every statement is planned as the relay runs it: prepared, generic, with its session's settings, and
with the statistics of a table just filled (none) as well as of an analyzed one. What is held is
what the statement touches, not how long it takes.
"""

import asyncio
from collections.abc import Iterator

import psycopg
import pytest

from relay import devstack
from relay.postgres import migrations
from relay.postgres.reader import SESSION_OPTIONS
from tests.postgres.explain import nodes, touched

MILLION = 1_000_000
FEW = 10
PAGE = 2000

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def filled(postgres_server: devstack.Postgres) -> Iterator[psycopg.Connection]:
    """A million rows, then one transaction of ten more; the snapshot between is ``middle``."""
    dsn = postgres_server.create_database("plans")
    asyncio.run(migrations.migrate(dsn, "relay"))
    options = " ".join(f"-c {name}={value}" for name, value in SESSION_OPTIONS.items())
    with psycopg.connect(dsn, autocommit=True, options=options) as connection:
        connection.execute("alter table relay.outbox set (autovacuum_enabled = off)")
        insert = (
            "insert into relay.outbox (subject, key, payload)"
            " select 'orders.placed', 'k' || n %% 1000, '{\"some\": \"payload\"}'"
            " from generate_series(1, %s) as n"
        )
        connection.execute(insert, (MILLION,))
        connection.execute("create table middle as select pg_current_snapshot() as base")
        connection.execute(insert, (FEW,))
        yield connection
    postgres_server.drop_database("plans")


@pytest.fixture(params=["never analyzed", "analyzed"], scope="module")
def outbox(request: pytest.FixtureRequest, filled: psycopg.Connection) -> psycopg.Connection:
    if request.param == "analyzed":
        filled.execute("analyze relay.outbox")
    return filled


def middle(connection: psycopg.Connection) -> str:
    row = connection.execute("select base::text from middle").fetchone()
    assert row is not None
    return row[0]


def now(connection: psycopg.Connection) -> str:
    row = connection.execute("select pg_current_snapshot()::text").fetchone()
    assert row is not None
    return row[0]


def test_new_events_are_found_without_a_look_at_a_million_delivered_ones(
    outbox: psycopg.Connection,
) -> None:
    plan = nodes(outbox, "recent", base=middle(outbox), limit_rows=PAGE, limit_bytes=8 << 20)
    assert touched(plan, "outbox_xid_id") == FEW


def test_a_poll_that_finds_nothing_touches_nothing(outbox: psycopg.Connection) -> None:
    plan = nodes(outbox, "recent", base=now(outbox), limit_rows=PAGE, limit_bytes=8 << 20)
    assert touched(plan, "outbox_xid_id") == 0


def test_a_million_waiting_events_overflow_a_page_after_one_row_too_many(
    outbox: psycopg.Connection,
) -> None:
    plan = nodes(outbox, "recent", base="1:1:", limit_rows=PAGE, limit_bytes=8 << 20)
    assert touched(plan, "outbox_xid_id") == PAGE + 1


@pytest.mark.parametrize("last_id", [0, MILLION // 2])
def test_a_page_of_a_million_waiting_events_touches_no_more_than_itself(
    outbox: psycopg.Connection, last_id: int
) -> None:
    plan = nodes(
        outbox,
        "page",
        base="1:1:",
        target=now(outbox),
        last_id=last_id,
        limit_rows=PAGE,
        limit_bytes=8 << 20,
    )
    assert touched(plan, "outbox_pkey") <= PAGE + 1
    assert all(node["Node Type"] != "Sort" for node in plan)


def test_the_first_of_a_million_waiting_events_is_found_at_the_head_of_the_key(
    outbox: psycopg.Connection,
) -> None:
    plan = nodes(outbox, "first_id", base="1:1:")
    assert touched(plan) == 10_001 + 1  # as many as say that there are more, and the first


def test_the_first_new_event_behind_a_million_delivered_ones_is_found_among_the_new(
    outbox: psycopg.Connection,
) -> None:
    plan = nodes(outbox, "first_id", base=middle(outbox))
    assert touched(plan) == FEW


@pytest.mark.parametrize("delivered", [True, False])
def test_the_backlog_is_estimated_from_a_bounded_look(
    outbox: psycopg.Connection, delivered: bool
) -> None:
    base = middle(outbox) if delivered else "1:1:"
    outbox.execute("update relay.cursor set base = %s, target = null, last_id = 0", (base,))
    plan = nodes(outbox, "backlog", exact_up_to=10_000, dead_blocks=False)
    assert touched(plan) <= (FEW if delivered else 10_000) + 1


def test_pruning_walks_one_chunk_of_the_key(outbox: psycopg.Connection) -> None:
    outbox.execute("update relay.cursor set base = %s, target = null", (middle(outbox),))
    with outbox.transaction(force_rollback=True):
        plan = nodes(outbox, "prune", floor=0, chunk_rows=5000, retention="0 seconds")
    reads = [n for n in plan if n["Node Type"].endswith("Scan") and n.get("Alias") == "o"]
    assert {node.get("Index Name") for node in reads} == {"outbox_pkey"}
    assert touched(plan) <= 2 * 5000
