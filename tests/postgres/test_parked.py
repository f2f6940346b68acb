"""The parked: what only Postgres can get wrong."""

import secrets
from typing import Any

import psycopg
import pytest

from relay.core import disposition
from relay.core.disposition import Limits, Parking
from relay.core.outcome import Held, Refused
from relay.errors import StoreBusy, StoreOutage
from relay.ports import Report, Settlement, Wake
from relay.postgres.reading import GONE
from relay.postgres.store import PostgresStore
from tests.postgres.leases import begun, outbox_of
from tests.postgres.parking import emit, retried

PAGE = 2000

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]


async def test_a_whole_page_is_parked_and_comes_back_as_it_was(
    store: PostgresStore, producer: psycopg.Connection
) -> None:
    emit(producer, PAGE)
    page = await store.read(PAGE)
    first, *others = page.events
    await store.settle(
        Settlement(page.position, [retried(first), *map(disposition.behind, others)])
    )
    due = await store.parked.due(PAGE)
    assert [each.event for each in due] == list(page.events)
    assert [each.age > 0 for each in due] == [True] + [False] * len(others)
    assert not any(each.unreadable for each in due)
    await store.settle(Settlement(None, (), [each.event.event_id for each in due]))
    assert producer.execute("select count(*) from relay.parked").fetchone() == (0,)


async def test_an_event_that_waited_long_is_as_old_as_its_first_refusal(
    store: PostgresStore, producer: psycopg.Connection
) -> None:
    # R-FATE: no event dies for want of a stream within 10 minutes of its first refusal

    async def age_of(*parked: Parking) -> float:
        await store.settle(Settlement(None, parked))
        producer.execute(
            "update relay.parked set first_refused_at = first_refused_at - '1 h'::interval"
        )
        (due,) = await store.parked.due(PAGE)
        return due.age

    emit(producer, 1)
    ((event,), position) = (page := await store.read(PAGE)).events, page.position
    await store.settle(Settlement(position, [disposition.held(event, Held("stream A", "full"))]))
    assert await age_of() == 0
    assert 3600 <= await age_of(retried(event)) < 3660
    assert 7200 <= await age_of(retried(event, 2)) < 7260
    assert await age_of(disposition.held(event, Held("stream A", "full"), attempts=2)) >= 10800
    assert 3600 <= await age_of(retried(event)) < 3660


async def test_an_event_that_is_nowhere_stops_the_settlement_whole(
    store: PostgresStore, producer: psycopg.Connection
) -> None:
    # R-LOSS
    emit(producer, 2)
    page = await store.read(2)
    gone = page.events[0]
    producer.execute("delete from relay.outbox where id = %s", (gone.id,))
    with pytest.raises(StoreOutage, match=f"1 of 2 events.*{gone.event_id}"):
        await store.settle(Settlement(page.position, list(map(disposition.behind, page.events))))
    assert producer.execute("select count(*) from relay.parked").fetchone() == (0,)
    assert producer.execute("select settled_at from relay.cursor").fetchone() == (None,)


@pytest.mark.parametrize("state", ["dead", "live", "held"])
async def test_a_parked_row_is_this_event_s_only_if_the_event_id_agrees(
    store: PostgresStore, producer: psycopg.Connection, state: str
) -> None:
    """The ids began again; an earlier event with the same id is still parked."""
    # R-LOSS, R-ORDER
    emit(producer, 1, "old")
    page = await store.read(1)
    old = page.events[0]
    parked = {
        "dead": Parking(old.id, old.event_id, 9, None, dead=True, error="no"),
        "live": retried(old, delay=20),
        "held": Parking(old.id, old.event_id, 0, 20.0, held_by="stream FULL", error="no"),
    }[state]
    await store.settle(Settlement(page.position, [parked]))
    producer.execute("delete from relay.outbox")
    producer.execute("alter sequence relay.outbox_id_seq restart")
    emit(producer, 2, "new")
    page = await store.read(2)
    assert [event.id for event in page.events] == [1, 2]
    first, second = page.events
    await store.settle(Settlement(page.position, [retried(first), disposition.behind(second)]))
    assert producer.execute("select count(*) from relay.parked where id = 1").fetchone() == (2,)
    due = await store.parked.due(10)
    assert [each.event.event_id for each in due] == [first.event_id, second.event_id]
    await store.settle(Settlement(None, [retried(first, 2, 20.0)]))
    assert list(await store.parked.due(10)) == []
    await store.settle(Settlement(None, (), [first.event_id, second.event_id]))
    row = producer.execute("select event_id::text, attempts from relay.parked").fetchone()
    assert row == (old.event_id, parked.attempts)


@pytest.mark.parametrize("pages", [[3], [1, 1, 1], [2, 1], [1, 2]])
async def test_rows_with_one_event_id_are_kept_apart(
    store: PostgresStore, producer: psycopg.Connection, pages: list[int]
) -> None:
    """Only an owner can write them."""
    # R-LOSS, R-ONCE
    emit(producer, 3)
    producer.execute(
        "update relay.outbox set event_id = (select event_id from relay.outbox where id = 1)"
    )
    for size in pages:
        page = await store.read(size)
        assert len(page.events) == size
        await store.settle(Settlement(page.position, [retried(event) for event in page.events]))
    due = await store.parked.due(10)
    assert [each.event.id for each in due] == [1, 2, 3]
    assert len({each.event.message_id for each in due}) == 3
    await store.settle(Settlement(None, (), [each.event.event_id for each in due]))
    assert producer.execute("select count(*) from relay.parked").fetchone() == (0,)


@pytest.mark.parametrize(
    "condition",
    [
        "check (last_error <> 'no') not valid",
        "check (attempts < 1) not valid",
        "exclude using btree (last_error with =)",
    ],
)
async def test_an_event_that_the_database_refuses_to_keep_is_named(
    store: PostgresStore, producer: psycopg.Connection, condition: str
) -> None:
    # R-LOSS
    emit(producer, 3, None)
    page = await store.read(3)
    producer.execute(f"alter table relay.parked add constraint odd {condition}")
    second = page.events[1]
    parkings = [
        Parking(page.events[0].id, page.events[0].event_id, 0, 1.0, error="fine"),
        retried(second),
        Parking(page.events[2].id, page.events[2].event_id, 0, 1.0, error="good"),
    ]
    if "exclude" in condition:
        parkings[0] = retried(page.events[0])
        producer.execute(
            "insert into relay.parked (event_id, id, subject, created_at, last_error)"
            " values (gen_random_uuid(), 9, 'a.b', now(), 'no')"
        )
    with pytest.raises(StoreOutage, match=parkings["exclude" not in condition].event_id):
        await store.settle(Settlement(page.position, parkings))
    assert producer.execute("select settled_at from relay.cursor").fetchone() == (None,)
    producer.execute("alter table relay.parked drop constraint odd")
    await store.settle(Settlement(page.position, parkings))  # the session is as good as before


async def test_a_lock_that_is_not_to_be_had_leaves_everything_as_it_was(
    outbox_dsn: str, producer: psycopg.Connection
) -> None:
    emit(producer, 1)
    async with outbox_of(outbox_dsn, 5.0) as outbox:  # it waits for a lock for a tenth of that
        store = await begun(outbox)
        page = await store.read(1)
        with producer.transaction():
            producer.execute("lock table relay.parked in share row exclusive mode")
            with pytest.raises(StoreBusy):
                await store.settle(Settlement(page.position, [retried(page.events[0])]))
        await store.renew()
        assert store.granted()
        await store.settle(Settlement(page.position, [retried(page.events[0])]))
        assert len(await store.parked.due(1)) == 1
        await store.close()


async def test_what_something_parked_refers_to_stays_past_retention(
    store: PostgresStore, producer: psycopg.Connection
) -> None:
    # R-LOSS
    emit(producer, 3)
    page = await store.read(3)
    first = page.events[0]
    await store.settle(Settlement(page.position, [retried(first)]))
    assert await store.tend(0.0) == 2
    await store.settle(Settlement(None, [retried(first, 2)]))
    (due,) = await store.parked.due(1)
    assert (due.event, due.attempts) == (first, 2)
    await store.settle(Settlement(None, (), [first.event_id]))
    store._housekeeping._bottom_at = float("-inf")  # a minute has gone by
    assert await store.tend(0.0) == 1


@pytest.mark.parametrize("outside", ["delete", "another event under its id"])
async def test_a_reference_whose_row_was_deleted_is_due_and_said_aloud(
    store: PostgresStore, producer: psycopg.Connection, outside: str
) -> None:
    # R-LOSS
    emit(producer, 2)
    page = await store.read(2)
    first, second = page.events
    await store.settle(Settlement(page.position, [retried(first), disposition.behind(second)]))
    if outside == "delete":
        producer.execute("delete from relay.outbox where id = %s", (first.id,))
    else:
        producer.execute("update relay.outbox set event_id = gen_random_uuid() where id = 1")
    gone, other = await store.parked.due(2)
    assert (gone.event.event_id, gone.event.key, gone.event.subject) == (first.event_id, "k", "a.b")
    assert gone.unreadable == GONE
    assert (other.event, other.unreadable) == (second, "")


UNREADABLE = {
    "infinite": "created_at = 'infinity'",
    "before Christ": "created_at = '0044-03-15 BC'",
    "far away": "created_at = '10000-01-01'",
    "deep": "headers = (repeat('[', 5000) || repeat(']', 5000))::jsonb",
    "no texts": "headers = '{\"a\": 1}'",
    "no object": "headers = '[]'",
}


@pytest.mark.parametrize("change", UNREADABLE.values(), ids=UNREADABLE)
async def test_a_parked_row_that_cannot_be_decoded_is_its_own_fate(
    store: PostgresStore, producer: psycopg.Connection, change: str
) -> None:
    # R-FATE
    emit(producer, 3)
    page = await store.read(3)
    await store.settle(
        Settlement(
            page.position, [retried(page.events[0]), *map(disposition.behind, page.events[1:])]
        )
    )
    producer.execute("alter table relay.outbox drop constraint if exists outbox_is_publishable")
    for (name,) in producer.execute(
        "select conname from pg_constraint where conrelid = 'relay.outbox'::regclass"
        " and contype = 'c'"
    ).fetchall():
        producer.execute(f'alter table relay.outbox drop constraint "{name}"')
    producer.execute(f"update relay.outbox set {change} where id = 2")
    due = await store.parked.due(10)
    assert [bool(each.unreadable) for each in due] == [False, True, False]
    assert [each.event.event_id for each in due] == [event.event_id for event in page.events]
    assert (due[0].event, due[2].event) == (page.events[0], page.events[2])


async def test_an_event_whose_key_no_index_takes_is_parked_like_any_other(
    store: PostgresStore, producer: psycopg.Connection
) -> None:
    # R-FATE
    producer.execute("alter table relay.outbox drop constraint outbox_publishable")
    key = "".join(secrets.token_hex(16) for _ in range(256))
    emit(producer, 2, key)
    page = await store.read(3)
    first, second = page.events
    await store.settle(Settlement(page.position, [retried(first), disposition.behind(second)]))
    due = await store.parked.due(10)
    assert [each.event.event_id for each in due] == [first.event_id, second.event_id]
    assert await store.parked.blocked([first.key or ""]) == {first.key}


async def test_every_refusal_is_kept_but_no_more_than_fifty(
    store: PostgresStore, producer: psycopg.Connection
) -> None:
    emit(producer, 1)
    page = await store.read(1)
    for attempt in range(1, 61):
        parked = disposition.refused(
            page.events[0],
            Refused(f"no {attempt}", 10054),
            attempts=attempt,
            age=0.0,
            limits=Limits(max_attempts=100, max_retry_delay=0.0),
            jitter=0.0,
        )
        await store.settle(Settlement(page.position, [parked]))
    row = producer.execute("select errors, attempts from relay.parked").fetchone()
    assert row is not None
    errors, attempts = row
    assert attempts == 60
    assert [each["attempt"] for each in errors] == [*range(11, 61)]
    assert errors[-1]["error"] == "no 60"
    assert errors[-1]["code"] == 10054


async def test_the_leader_leaves_word_of_itself_while_its_term_lasts(
    store: PostgresStore, producer: psycopg.Connection
) -> None:
    def reported() -> Any:
        return producer.execute(
            "select epoch, lag_breaker, bus_breaker, delivered, refused, wakes_bell, wakes_poll"
            " from relay.report"
        ).fetchone()

    await store.report(Report("open", "closed", 7, 2, {Wake.BELL: 3, Wake.POLL: 1}))
    assert reported() == (store.epoch, "open", "closed", 7, 2, 3, 1)
    producer.execute("update relay.cursor set epoch = epoch + 1")
    await store.report(Report("closed", "closed", 8, 2, {}))
    assert reported() == (store.epoch, "open", "closed", 7, 2, 3, 1)


async def test_streams_are_remembered_with_every_filter_they_ever_had(store: PostgresStore) -> None:
    assert dict(await store.streams()) == {}
    await store.keep_streams({"ORDERS": {"orders.>"}, "PAY": ["pay.*", "pay.*"]})
    await store.keep_streams({"ORDERS": ["orders.eu.>"], "NONE": []})
    assert {name: set(found) for name, found in (await store.streams()).items()} == {
        "ORDERS": {"orders.>", "orders.eu.>"},
        "PAY": {"pay.*"},
    }
