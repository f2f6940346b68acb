"""The plans of the hot statements, with a million delivered rows and with a million waiting ones.

Every statement is planned as the relay runs it: prepared, generic, with its session's settings, and
with the statistics of a table just filled (none) as well as of an analyzed one. What is held is
what the statement touches, not how long it takes.
"""

import asyncio
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from relay import devstack
from relay.postgres import migrations
from relay.postgres.reading import FEW, LOOKS, PLANS
from tests.postgres.explain import nodes, touched

MILLION = 1_000_000
NEW = 10
PAGE = 2000
ROOM: dict[str, Any] = {"limit_rows": PAGE, "limit_bytes": 8 << 20, "prefix": ""}

pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]


@pytest.fixture(scope="module")
def filled(postgres_server: devstack.Postgres) -> Iterator[psycopg.Connection]:
    """A million rows, then one transaction of ten more; the snapshot between is ``middle``."""
    dsn = postgres_server.create_database("plans")
    asyncio.run(migrations.migrate(dsn, "relay"))
    options = " ".join(f"-c {name}={value}" for name, value in PLANS.items())
    with psycopg.connect(dsn, autocommit=True, options=options) as connection:
        connection.execute("alter table relay.outbox set (autovacuum_enabled = off)")
        insert = (
            "insert into relay.outbox (subject, key, payload)"
            " select 'orders.placed', 'k' || n %% 1000, '{\"some\": \"payload\"}'"
            " from generate_series(1, %s) as n"
        )
        connection.execute(insert, (MILLION,))
        connection.execute("create table middle as select pg_current_snapshot() as base")
        connection.execute(insert, (NEW,))
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
    plan = nodes(outbox, "recent", base=middle(outbox), **ROOM)
    assert touched(plan, "outbox_xid_id") == NEW


def test_a_poll_that_finds_nothing_touches_nothing(outbox: psycopg.Connection) -> None:
    plan = nodes(outbox, "recent", base=now(outbox), **ROOM)
    assert touched(plan, "outbox_xid_id") == 0


def test_a_million_waiting_events_overflow_a_page_after_one_row_too_many(
    outbox: psycopg.Connection,
) -> None:
    plan = nodes(outbox, "recent", base="1:1:", **ROOM)
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
        up_to=last_id + LOOKS,
        bare=False,
        **ROOM,
    )
    assert touched(plan, "outbox_pkey") <= PAGE + 1
    assert all(node["Node Type"] != "Sort" for node in plan)


def test_a_page_among_a_million_delivered_events_looks_at_its_range_of_ids_and_no_further(
    outbox: psycopg.Connection,
) -> None:
    place = {"base": middle(outbox), "target": now(outbox), "last_id": 5, "up_to": 5 + LOOKS}
    plan = nodes(outbox, "page", **place, bare=False, **ROOM)
    assert touched(plan, "outbox_pkey") <= LOOKS


def test_events_that_are_known_by_id_are_found_one_by_one(outbox: psycopg.Connection) -> None:
    ids = [*range(1, MILLION, MILLION // 100)]
    plan = nodes(outbox, "page_of", ids=ids, bare=False, limit_bytes=8 << 20, prefix="")
    assert touched(plan, "outbox_pkey") == len(ids)


@pytest.mark.parametrize("delivered", [True, False])
def test_a_window_begins_with_a_bounded_look_at_what_is_new(
    outbox: psycopg.Connection, delivered: bool
) -> None:
    base = middle(outbox) if delivered else "1:1:"
    plan = nodes(outbox, "window", base=base, few=FEW)
    assert touched(plan) == (NEW + 1 if delivered else FEW + 1 + 2)


def test_a_look_ahead_is_one_bounded_piece_of_the_index(outbox: psycopg.Connection) -> None:
    place = {"after_xid": "1", "after_id": 0, "up_to_xid": now(outbox).split(":")[1]}
    plan = nodes(
        outbox, "ahead", target=now(outbox), last_id=MILLION // 2, limit_rows=LOOKS, **place
    )
    assert touched(plan, "outbox_xid_id") == LOOKS
    reads = [node for node in plan if node.get("Index Name")]
    assert all("Sort" not in node["Node Type"] for node in reads)


@pytest.mark.parametrize("delivered", [True, False])
def test_the_backlog_is_estimated_from_a_bounded_look(
    outbox: psycopg.Connection, delivered: bool
) -> None:
    base = middle(outbox) if delivered else "1:1:"
    outbox.execute("update relay.cursor set base = %s, target = null, last_id = 0", (base,))
    place = {"base": None, "target": None, "last_id": None, "at": None}
    plan = nodes(outbox, "look", exact_up_to=10_000, dead_blocks=False, **place)
    assert touched(plan) <= (NEW if delivered else 10_000) + 1


def test_pruning_walks_one_chunk_of_the_key(outbox: psycopg.Connection) -> None:
    with outbox.transaction(force_rollback=True):
        outbox.execute("insert into relay.settled values ('2020-01-01', %s)", (middle(outbox),))
        plan = nodes(outbox, "prune", floor=0, chunk_rows=5000, retention="0 seconds", at=None)
    reads = [n for n in plan if n["Node Type"].endswith("Scan") and n.get("Alias") == "o"]
    assert {node.get("Index Name") for node in reads} == {"outbox_pkey"}
    assert touched(reads) <= 2 * 5000
    assert touched(plan, table="parked") <= 5000
