"""The parked in bulk: what a look at them touches, and what only Postgres can get wrong."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import psycopg
import pytest

from relay import devstack
from relay.core import parking
from relay.core.outcome import Refused
from relay.core.parking import Parking
from relay.errors import StoreOutage
from relay.ports import Settlement
from relay.postgres import migrations
from relay.postgres.reader import SESSION_OPTIONS
from relay.postgres.store import PostgresOutbox, PostgresStore
from tests.postgres.explain import nodes, touched

MANY = 100_000
PAGE = 2000
DUE: dict[str, Any] = {
    "limit_rows": PAGE,
    "limit_bytes": 8 << 20,
    "dead_blocks": False,
    "longest": 30.0,
}

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

FILL = """
    insert into relay.parked (id, event_id, created_at, subject, key, payload, attempts,
                              next_attempt_at, last_error, dead_at, held_by)
    select n + %(after)s, gen_random_uuid(), now(), 'a.b', %(key)s, '{}', 0,
           now() + %(due)s::interval, 'why', %(dead)s::timestamptz, %(held_by)s
      from generate_series(1, %(rows)s::int) as n
"""


def fill(connection: psycopg.Connection, after: int, rows: int = MANY, **columns: Any) -> None:
    given = {"key": None, "due": None, "dead": None, "held_by": ""} | columns
    connection.execute(FILL, {"after": after, "rows": rows, **given})


@pytest.fixture(scope="module", params=["never analyzed", "analyzed"])
def crowded(
    request: pytest.FixtureRequest, postgres_server: devstack.Postgres
) -> Iterator[psycopg.Connection]:
    """Many waiting behind one that is not due, many held up, many dead; and three that are due."""
    name = f"crowded_{uuid.uuid4().hex[:8]}"
    dsn = postgres_server.create_database(name)
    asyncio.run(migrations.migrate(dsn, "relay"))
    options = " ".join(f"-c {name}={value}" for name, value in SESSION_OPTIONS.items())
    with psycopg.connect(dsn, autocommit=True, options=options) as connection:
        connection.execute("alter table relay.parked set (autovacuum_enabled = off)")
        fill(connection, 0, 1, key="hot", due="20 seconds")
        fill(connection, MANY, key="hot")
        fill(connection, 2 * MANY, held_by="stream FULL", due="-1 second")
        fill(connection, 3 * MANY, key="hot", dead="2026-01-01")
        fill(connection, 4 * MANY, 3, due="-1 second")
        if request.param == "analyzed":
            connection.execute("analyze relay.parked")
        yield connection
    postgres_server.drop_database(name)


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
    plan = nodes(crowded, "blocked", keys=keys, dead_blocks=True)
    assert touched(plan, table="parked") <= 2 * len(keys)


def test_the_backlog_counts_the_parked_no_further_than_asked(crowded: psycopg.Connection) -> None:
    plan = nodes(crowded, "backlog", exact_up_to=1000, dead_blocks=False)
    assert touched([n for n in plan if "Index Name" in n], table="parked") < 3000


@pytest.fixture
async def store(outbox_dsn: str) -> AsyncIterator[PostgresStore]:
    store = await PostgresOutbox(outbox_dsn, "relay", page_bytes=8 << 20).campaign("tester")
    assert store is not None
    yield store
    await store.close()


@pytest.fixture
def producer(outbox_dsn: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(outbox_dsn, autocommit=True) as connection:
        yield connection


def emit(producer: psycopg.Connection, rows: int, key: str | None = "k") -> None:
    producer.execute(
        "insert into relay.outbox (subject, key, payload_bytes, headers)"
        " select 'a.b', %s, '\\x00ff', '{\"h\": \"v\"}' from generate_series(1, %s)",
        (key, rows),
    )


async def test_a_whole_page_is_parked_and_comes_back_as_it_was(
    store: PostgresStore, producer: psycopg.Connection
) -> None:
    emit(producer, PAGE)
    page = await store.read(PAGE)
    first, *others = page.events
    parkings = [Parking(first.id, 1, 0.0, error="no"), *(parking.behind(e.id) for e in others)]
    await store.settle(Settlement(page.position, 0, parkings))
    due = await store.parked.due(PAGE)
    assert [each.event for each in due] == list(page.events)
    await store.settle(Settlement(None, PAGE, (), [each.event.id for each in due]))
    assert producer.execute("select count(*) from relay.parked").fetchone() == (0,)
    assert producer.execute("select delivered from relay.cursor").fetchone() == (PAGE,)


async def test_an_event_that_is_nowhere_stops_the_settlement_whole(
    store: PostgresStore, producer: psycopg.Connection
) -> None:
    emit(producer, 2)
    page = await store.read(2)
    producer.execute("delete from relay.outbox where id = %s", (page.events[0].id,))
    with pytest.raises(StoreOutage, match="1 of 2 events"):
        await store.settle(
            Settlement(page.position, 0, [parking.behind(each.id) for each in page.events])
        )
    assert producer.execute("select count(*) from relay.parked").fetchone() == (0,)
    assert producer.execute("select settled_at from relay.cursor").fetchone() == (None,)


async def test_retention_takes_the_row_and_the_parked_event_goes_on(
    store: PostgresStore, producer: psycopg.Connection
) -> None:
    emit(producer, 1)
    page = await store.read(1)
    (event,) = page.events
    await store.settle(Settlement(page.position, 0, [Parking(event.id, 1, 0.0, error="no")]))
    assert await store.prune(0.0) == 1
    await store.settle(Settlement(None, 0, [Parking(event.id, 2, 0.0, error="still no")]))
    (due,) = await store.parked.due(1)
    assert (due.event, due.attempts) == (event, 2)


async def test_every_refusal_is_kept_but_no_more_than_fifty(
    store: PostgresStore, producer: psycopg.Connection
) -> None:
    emit(producer, 1)
    page = await store.read(1)
    for attempt in range(1, 61):
        parked = parking.refused(
            page.events[0].id,
            Refused(f"no {attempt}", 10054),
            attempts=attempt,
            most=100,
            longest=0.0,
            jitter=0.0,
        )
        await store.settle(Settlement(page.position, 0, [parked]))
    row = producer.execute("select errors, attempts from relay.parked").fetchone()
    assert row is not None
    errors, attempts = row
    assert attempts == 60
    assert [each["attempt"] for each in errors] == [*range(11, 61)]
    assert errors[-1]["error"] == "no 60"
    assert errors[-1]["code"] == 10054


async def test_an_event_is_due_when_the_server_s_clock_was_set_back(
    store: PostgresStore, producer: psycopg.Connection
) -> None:
    """Its next attempt lies further away than any delay: it was written by another clock."""
    emit(producer, 1)
    page = await store.read(1)
    (event,) = page.events
    await store.settle(Settlement(page.position, 0, [Parking(event.id, 1, 29.0, error="no")]))
    assert list(await store.parked.due(1)) == []
    producer.execute("update relay.parked set next_attempt_at = next_attempt_at + '1 hour'")
    assert len(await store.parked.due(1)) == 1


async def test_a_row_deleted_by_hand_leaves_nobody_waiting_for_ever(
    store: PostgresStore, producer: psycopg.Connection, outbox_dsn: str
) -> None:
    emit(producer, 2)
    page = await store.read(2)
    first, second = page.events
    await store.settle(
        Settlement(
            page.position, 0, [Parking(first.id, 1, 20.0, error="no"), parking.behind(second.id)]
        )
    )
    producer.execute("delete from relay.parked where id = %s", (first.id,))
    assert list(await store.parked.due(2)) == []
    await store.close()
    outbox = PostgresOutbox(outbox_dsn, "relay", page_bytes=8 << 20)
    later = None
    while later is None:
        later = await outbox.campaign("next")
    assert [each.event.id for each in await later.parked.due(2)] == [second.id]
    await later.close()
    await outbox.close()


async def test_dead_events_begin_and_cease_to_block_with_the_setting(
    store: PostgresStore, producer: psycopg.Connection, outbox_dsn: str
) -> None:
    emit(producer, 2)
    page = await store.read(2)
    first, second = page.events
    await store.settle(
        Settlement(
            page.position, 0, [Parking(first.id, 9, None, dead=True), parking.behind(second.id)]
        )
    )
    assert len(await store.parked.due(2)) == 1
    await store.close()
    for dead_blocks, due in [(True, 0), (False, 1)]:
        outbox = PostgresOutbox(outbox_dsn, "relay", page_bytes=8 << 20, dead_blocks=dead_blocks)
        later = None
        while later is None:
            later = await outbox.campaign("next")
        assert len(await later.parked.due(2)) == due
        await later.close()
        await outbox.close()


async def test_the_breakers_are_reported_when_they_change(
    store: PostgresStore, producer: psycopg.Connection
) -> None:
    from relay.core.breakers import Breakers, State

    def reported() -> Any:
        row = producer.execute("select lag_breaker, bus_breaker, xmin from relay.cursor").fetchone()
        assert row is not None
        return row

    await store.backlog(Breakers(State.CLOSED, State.CLOSED))
    before = reported()
    assert before[:2] == ("closed", "closed")
    await store.backlog(Breakers(State.CLOSED, State.CLOSED))
    assert reported() == before
    await store.backlog(Breakers(State.OPEN, State.HALF_OPEN))
    assert reported()[:2] == ("open", "half-open")
