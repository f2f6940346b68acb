"""What becomes of dead events when people decide, at once and beside the relay."""

from collections.abc import AsyncIterator, Iterator, Sequence

import anyio
import psycopg
import pytest

from relay.postgres import operator
from relay.postgres.operator import Action, DeadEvents, Wanted
from tests.postgres.dead_events import FAR, decide, ids, park, row, until_blocked

pytestmark = pytest.mark.anyio


@pytest.fixture
def look(outbox_dsn: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(outbox_dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
async def dead_events(outbox_dsn: str) -> AsyncIterator[DeadEvents]:
    async with DeadEvents.open(outbox_dsn, "relay") as found:
        yield found


async def test_two_events_of_one_id_are_decided_on_one_by_one(
    dead_events: DeadEvents, look: psycopg.Connection
) -> None:
    """An outbox that was emptied and began its ids anew: an event is known by its event_id."""
    park(look, 1, key="k")
    look.execute("delete from relay.outbox")
    park(look, 1, key="k", error="other")
    found = await dead_events.find(Wanted(error="other"), 100)
    done: list[int] = []
    await dead_events.decide("drop", found.events, by="anna", as_of=FAR, done=done.extend)
    assert done == [1]
    (left,) = (await dead_events.find(Wanted(), 100)).events
    assert (left.error, left.is_gone) == ("too large", True)


async def test_what_died_before_the_clock_was_set_back_is_decided_on_all_the_same(
    dead_events: DeadEvents, look: psycopg.Connection
) -> None:
    park(look, 1, age=-3600.0)
    found = await dead_events.find(Wanted(), 100)
    assert found.as_of is not None
    done: list[int] = []
    await dead_events.decide("retry", found.events, by="anna", as_of=found.as_of, done=done.extend)
    assert done == [1]


async def test_a_retry_makes_an_event_due_under_a_new_message_id_and_keeps_its_errors(
    dead_events: DeadEvents, look: psycopg.Connection
) -> None:
    park(look, 1, key="k", idempotency_key="mine")
    assert await decide(dead_events, "retry", 1) == [1]
    assert row(look, "attempts, retries, dead_at, held_by, jsonb_array_length(errors)", 1) == (
        *(0, 1, None, "", 1),
    )
    assert row(look, "next_attempt_at between now() - interval '10s' and now()", 1) == (True,)
    (shown,) = await dead_events.show("1")
    assert shown.message_id == f"relay-{shown.event.event_id}-1"
    assert await decide(dead_events, "retry", 1) == [], "it is not dead any more"
    look.execute("update relay.parked set dead_at = now()")
    assert await decide(dead_events, "retry", 1) == [1]
    (shown,) = await dead_events.show("1")
    assert shown.message_id == f"relay-{shown.event.event_id}-2"


async def test_a_key_goes_back_at_once_and_is_due_when_the_relay_holds_it_back(
    dead_events: DeadEvents, look: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    # R-ORDER: in chunks, live events of the key could pass between two
    monkeypatch.setattr(operator, "CHUNK_ROWS", 2)
    for id_ in range(1, 6):
        park(look, id_, key="k")
    park(look, 6, key="other")
    done: list[list[int]] = []
    found = await dead_events.find(Wanted(key="k"), 1)
    assert found.as_of is not None
    await dead_events.decide(
        "retry",
        Wanted(key="k"),
        by="anna",
        as_of=found.as_of,
        done=lambda ids: done.append(list(ids)),
        pause=60.0,
    )
    assert done == [[1, 2, 3, 4, 5]]
    assert look.execute(
        "select bool_and(next_attempt_at > now() + interval '30 s') from relay.parked"
        " where dead_at is null"
    ).fetchone() == (True,)


async def test_every_decision_says_who_when_and_what_and_outlives_the_event(
    dead_events: DeadEvents, look: psycopg.Connection
) -> None:
    park(look, 1, key="k")
    park(look, 2, key="k")
    assert await decide(dead_events, "retry", 1) == [1]
    look.execute("update relay.parked set dead_at = now(), attempts = 3, last_error = 'again'")
    assert await decide(dead_events, "drop") == [1, 2]
    audit = look.execute(
        "select parked_id, action, subject, key, attempts, last_error, decided_by,"
        " decided_at between now() - interval '1min' and now() from relay.decision order by id"
    ).fetchall()
    who = f"{look.info.user} (anna)"
    assert audit == [
        (1, "retry", "orders.placed", "k", 10, "too large", who, True),
        (1, "drop", "orders.placed", "k", 3, "again", who, True),
        (2, "drop", "orders.placed", "k", 3, "again", who, True),
    ]
    told = await dead_events.decisions("1")
    assert [(each.action, each.decided_by, each.attempts) for each in told] == [
        ("retry", who, 10),
        ("drop", who, 3),
    ]


async def test_neither_decision_touches_what_is_still_tried(
    dead_events: DeadEvents, look: psycopg.Connection
) -> None:
    park(look, 1, dead=False, due=9.0)
    for action in ("retry", "drop"):
        assert await decide(dead_events, action) == []
        assert await decide(dead_events, action, 1) == []
    assert row(look, "attempts, retries", 1) == (10, 0)
    assert look.execute("select count(*) from relay.decision").fetchone() == (0,)


async def test_a_drop_lets_the_next_of_its_key_be_due_unless_another_dead_one_is_before_it(
    dead_events: DeadEvents, look: psycopg.Connection
) -> None:
    for id_, key in ((1, "one"), (2, "two"), (3, "two")):
        park(look, id_, key=key)
    for id_, key in ((4, "one"), (5, "two"), (6, "one"), (7, "three")):
        park(look, id_, key=key, dead=False)
    assert await decide(dead_events, "drop", 1, 2) == [1, 2]
    due = "select id from relay.parked where next_attempt_at <= now() order by id"
    assert look.execute(due).fetchall() == [(4,)]
    assert await decide(dead_events, "drop", 3) == [3]
    assert look.execute(due).fetchall() == [(4,), (5,)]


async def test_of_two_people_who_retry_one_event_at_once_the_first_wins(
    dead_events: DeadEvents, look: psycopg.Connection, outbox_dsn: str
) -> None:
    park(look, 1)
    park(look, 2)
    second: list[int] = []

    async def retry_too() -> None:
        second.extend(await decide(dead_events, "retry"))

    with psycopg.connect(outbox_dsn) as first:
        first.execute("update relay.parked set dead_at = null, retries = 1 where id = 1")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(retry_too)
            await until_blocked(look)
            first.commit()
    assert second == [2]
    assert row(look, "retries", 1) == (1,)
    assert look.execute("select parked_id from relay.decision").fetchall() == [(2,)]


@pytest.mark.parametrize("action", ["retry", "drop"])
async def test_what_a_relay_is_changing_is_waited_for_and_then_seen(
    dead_events: DeadEvents, look: psycopg.Connection, outbox_dsn: str, action: Action
) -> None:
    """The relay takes 1 away, and a person 2: whoever is second has to let 3 be due."""
    park(look, 1, key="k", dead=False, due=0.0)
    park(look, 2, key="k")
    park(look, 3, key="k", dead=False)

    async def drop_too() -> None:
        assert await decide(dead_events, action, 2) == [2]

    with psycopg.connect(outbox_dsn) as relay:
        relay.execute("delete from relay.parked where id = 1")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(drop_too)
            if action == "drop":
                await until_blocked(look)
            relay.commit()
    due = look.execute("select id from relay.parked where next_attempt_at <= clock_timestamp()")
    assert due.fetchall() == [(2 if action == "retry" else 3,)]


async def test_many_are_decided_on_in_bounded_chunks_in_the_order_of_id(
    dead_events: DeadEvents, look: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operator, "CHUNK_ROWS", 3)
    for id_ in range(1, 11):
        park(look, id_, subject=f"orders.{'odd' if id_ % 2 else 'even'}")
    chunks: list[Sequence[int]] = []
    now = look.execute("select clock_timestamp()").fetchone()
    assert now is not None
    park(look, 11, subject="orders.odd", age=-0.0)
    wanted = Wanted(subject="*.odd")
    await dead_events.decide("drop", wanted, by="anna", as_of=now[0], done=chunks.append)
    assert chunks == [[1, 3], [5], [7, 9]]
    assert await ids(dead_events) == [2, 4, 6, 8, 10, 11], "11 died after the person had looked"


async def test_a_failure_keeps_what_is_done_and_nothing_of_the_chunk_under_way(
    dead_events: DeadEvents, look: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operator, "CHUNK_ROWS", 2)
    for id_ in range(1, 6):
        park(look, id_)
    look.execute(
        "alter table relay.decision add constraint full_disk check (parked_id is distinct from 4)"
    )
    chunks: list[Sequence[int]] = []
    with pytest.raises(psycopg.errors.CheckViolation):
        await dead_events.decide("retry", Wanted(), by="anna", as_of=FAR, done=chunks.append)
    assert chunks == [[1, 2]]
    assert await ids(dead_events) == [3, 4, 5]
