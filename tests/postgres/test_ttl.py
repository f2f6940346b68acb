"""An event's ttl: what the outbox takes, and that every way to read an event has it."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from relay.core.event import Event
from relay.ports import Settlement
from relay.postgres.operator import DeadEvents
from relay.postgres.sqlfiles import load
from relay.postgres.store import PostgresStore
from tests.postgres.parking import retried

pytestmark = pytest.mark.anyio

HEADERS = [None, {"Nats-TTL": "90"}, {"a": "b"}, {"a": "b", "Nats-TTL": "3600"}]
"""Of the events that ``producer`` writes."""


@pytest.fixture
def producer(outbox_dsn: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(outbox_dsn, autocommit=True) as connection:
        connection.execute("select relay.emit('a.b', '1', key => 'k')")
        connection.execute("select relay.emit('a.b', '1', key => 'k', ttl => '1 min 30 s')")
        connection.execute("select relay.emit('a.b', '1', 'k', '{\"a\": \"b\"}', null)")
        connection.execute(
            "select relay.emit_bytes('a.b', '1', 'k', '{\"a\": \"b\"}', null, %s)",
            (timedelta(hours=1),),
        )
        yield connection


def headers_of(events: list[Event]) -> list[Any]:
    return [event.headers for event in events]


@pytest.mark.parametrize("limit", [100, 2])
async def test_a_page_has_it_among_the_headers(
    store: PostgresStore, producer: psycopg.Connection, limit: int
) -> None:
    found: list[Event] = []
    while (page := await store.read(limit)).events:
        found += page.events
    assert headers_of(found) == HEADERS


@pytest.mark.parametrize("query", ["page_of", "event"])
def test_so_has_what_is_read_by_its_id(producer: psycopg.Connection, query: str) -> None:
    events = producer.execute("select id, event_id::text from relay.outbox order by id").fetchall()
    found = []
    for id_, event_id in events:
        row = producer.execute(
            load(f"queries/{query}", "relay"),
            {"ids": [id_], "id": id_, "event_id": event_id}
            | {"limit_bytes": 1 << 20, "prefix": "", "bare": False},
        ).fetchone()
        assert row is not None
        found.append(row[6])
    assert [text is not None and "Nats-TTL" in text for text in found] == [False, True, False, True]


async def test_so_has_what_was_parked_or_is_replayed_and_a_person_sees_it(
    store: PostgresStore, producer: psycopg.Connection, outbox_dsn: str
) -> None:
    page = await store.read(100)
    await store.settle(Settlement(page.position, list(map(retried, page.events))))
    async with DeadEvents.open(outbox_dsn, "relay") as dead_events:
        shown = [await dead_events.show(str(event.id)) for event in page.events]
    assert [one.headers for (one,) in shown] == HEADERS
    due = [each.event for each in await store.parked.due(100)]
    assert headers_of(due) == HEADERS
    await store.settle(Settlement(None, (), [event.event_id for event in due]))
    producer.execute("select relay.begin_replay(null, '{}', false, 1, 9, 4, null)")
    producer.execute("select relay.mark_replay(1, %s, 1, false, true)", ([e.id for e in due],))
    again = [each.event for each in await store.parked.due(100)]
    assert headers_of(again) == [{**(headers or {}), "Relay-Replay": "1"} for headers in HEADERS]


@pytest.mark.parametrize(("ttl", "header"), [("infinity", "Infinity"), ("1.5 s", "1.5")])
async def test_one_that_passed_the_door_is_its_own_event_s_fate(
    store: PostgresStore, producer: psycopg.Connection, ttl: str, header: str
) -> None:
    """The server refuses such a header. R-FATE"""
    if ttl == "infinity" and producer.info.server_version < 170_000:
        pytest.skip("intervals are finite before Postgres 17")
    producer.execute("alter table relay.outbox drop constraint outbox_publishable")
    producer.execute("update relay.outbox set ttl = %s where id = 1", (ttl,))
    page = await store.read(100)
    assert headers_of(list(page.events)) == [{"Nats-TTL": header}, *HEADERS[1:]]


def test_the_headers_are_inlined_into_the_query_that_asks(producer: psycopg.Connection) -> None:
    plan = producer.execute(
        "explain (verbose) select relay.message_headers(o.headers, o.ttl)::text from relay.outbox o"
    ).fetchall()
    assert "message_headers" not in str(plan)
