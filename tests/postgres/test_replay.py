"""Replays as the database keeps them: what is marked, in which order, by whom, until when."""
# R-ORDER, R-ONCE, R-BOUND

from datetime import UTC, datetime, timedelta

import anyio
import anyio.lowlevel
import psycopg
import pytest

from relay.errors import RelayError
from relay.ports import Settlement
from relay.postgres.replay import Replays
from relay.postgres.selection import Matches, Selection
from relay.postgres.store import PostgresStore
from tests.postgres.dead_events import park
from tests.postgres.replaying import EVERYTHING, Leader, begin, deliver, emit, run

pytestmark = pytest.mark.anyio


async def test_what_is_delivered_is_published_again_key_by_key_under_new_ids(
    store: PostgresStore, writer: psycopg.AsyncConnection, replays: Replays
) -> None:
    ids = await emit(writer, "a", "b", None, "a", "b", "c")
    ids += await emit(writer, "a", name="idempotent")
    await deliver(store)
    (waiting,) = await emit(writer, "a")
    leader = Leader(store)
    assert await run(replays, await begin(replays), leader)
    assert sorted(leader.ids) == ids
    assert waiting not in leader.ids
    rows = await (await writer.execute("select id, event_id::text from relay.outbox")).fetchall()
    assert dict(leader.published) == {
        id_: f"relay-{uuid}-r1" for id_, uuid in rows if id_ != waiting
    }


async def test_one_key_with_more_than_a_chunk_is_never_let_go_between_two(
    store: PostgresStore,
    writer: psycopg.AsyncConnection,
    replays: Replays,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("relay.postgres.replay.CHUNK_ROWS", 3)
    ids = await emit(writer, *["k"] * 20)
    await deliver(store)
    replay, leader = await begin(replays), Leader(store, 2)
    free_after: list[int] = []

    async def look() -> None:
        while True:
            if leader.published and not await store.parked.blocked({"k"}):
                free_after.append(len(leader.published))
                return
            await anyio.lowlevel.checkpoint()

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(look)
            assert await run(replays, replay, leader, rate=100)
            tasks.cancel_scope.cancel()
    assert leader.ids == ids
    assert set(free_after) <= {20}


async def test_a_key_s_last_marked_event_is_let_go_after_a_while_if_the_rest_never_comes(
    store: PostgresStore, writer: psycopg.AsyncConnection, replays: Replays
) -> None:
    ids = await emit(writer, "k", "k", "k")
    await deliver(store)
    replay = await begin(replays)
    await replays._mark(replay, [(ids[0], ids[0], True), (ids[1], ids[0], True)], goes_on=True)
    assert [each.event.id for each in await store.parked.due(10)] == ids[:1]
    await store.settle(
        Settlement(None, (), [each.event.event_id for each in await store.parked.due(10)])
    )
    assert list(await store.parked.due(10)) == []
    await writer.execute(
        "update relay.parked set next_attempt_at = next_attempt_at - interval '20 s'"
    )
    assert [each.event.id for each in await store.parked.due(10)] == ids[1:2]


@pytest.mark.parametrize("chunk", [1, 2, 7])
async def test_an_interrupted_replay_goes_on_behind_what_was_marked_last(
    store: PostgresStore,
    writer: psycopg.AsyncConnection,
    outbox_dsn: str,
    monkeypatch: pytest.MonkeyPatch,
    chunk: int,
) -> None:
    monkeypatch.setattr("relay.postgres.replay.CHUNK_ROWS", chunk)
    ids = await emit(writer, *"abcabcabcaaaab", None, None)
    await deliver(store)
    leader = Leader(store)
    async with Replays.open(outbox_dsn, "relay") as replays:
        replay = await begin(replays)
        assert not await run(replays, replay, leader, until=4)
    before = len(leader.published)
    assert 4 <= before < len(ids)
    async with Replays.open(outbox_dsn, "relay") as replays:
        assert await run(replays, await replays.go_on(replay.id, by="berta"), leader)
        with pytest.raises(RelayError, match="has ended"):
            await replays.go_on(replay.id, by="berta")
        with pytest.raises(RelayError, match="no replay 99"):
            await replays.go_on(99, by="berta")
    assert sorted(leader.ids) == ids
    audit = await writer.execute(
        "select action, replay, split_part(decided_by, '(', 2) from relay.decision order by id"
    )
    assert await audit.fetchall() == [("replay", 1, "anna)"), ("replay", 1, "berta)")]


async def test_a_replay_whose_rows_were_pruned_meanwhile_is_not_gone_on_with(
    store: PostgresStore, writer: psycopg.AsyncConnection, replays: Replays
) -> None:
    await emit(writer, "a", "b")
    await deliver(store)
    replay = await begin(replays)
    await writer.execute("update relay.replay set kept_until = now()")
    await writer.execute("delete from relay.outbox where id = 1")
    with pytest.raises(RelayError, match="past retention"):
        await replays.go_on(replay.id, by="anna")


async def test_retention_leaves_the_rows_of_a_replay_until_it_has_ended(
    store: PostgresStore, writer: psycopg.AsyncConnection, replays: Replays
) -> None:
    # R-LOSS
    await emit(writer, "a", "b", "c")
    await deliver(store)
    await store.tend(900.0)
    replay = await begin(replays, Selection(from_id=2))
    await writer.execute("update relay.settled set settled_at = settled_at - interval '1 hour'")
    assert await store.tend(900.0) == 1
    assert await run(replays, replay, Leader(store))
    store._housekeeping._bottom_at -= 60.0
    assert await store.tend(900.0) == 2


async def test_parked_and_dead_events_and_what_is_not_delivered_are_left_out(
    store: PostgresStore, writer: psycopg.AsyncConnection, outbox_dsn: str, replays: Replays
) -> None:
    with psycopg.connect(outbox_dsn, autocommit=True) as connection:
        park(connection, 5)
    await emit(writer, "a")
    await deliver(store)
    await emit(writer, "a")
    found = await replays.look(EVERYTHING)
    assert (found.events, found.parked, found.waiting, found.matching) == (1, 1, 1, 3)
    leader, replay = Leader(store), await begin(replays)
    assert await run(replays, replay, leader)
    assert (leader.ids, replay.skipped) == ([1], 0)


async def test_every_filter_says_what_it_takes(
    store: PostgresStore, writer: psycopg.AsyncConnection, replays: Replays
) -> None:
    await emit(writer, "a", subject="orders.eu.placed")
    await emit(writer, "b", subject="orders.eu.paid", name="paid-1")
    await emit(writer, "b", subject="orders.us.paid")
    await writer.execute(
        "update relay.outbox set created_at = now() - interval '1 hour' where id = 1"
    )
    await deliver(store)
    row = await (
        await writer.execute("select event_id::text from relay.outbox where id = 3")
    ).fetchone()
    assert row is not None
    recently = datetime.now(UTC) - timedelta(minutes=30)

    async def ids(selection: Selection) -> Matches:
        again = Selection.of_json(selection.as_json())
        assert again.params() == selection.params()
        return await replays.look(again)

    for selection, events, first, last in (
        (Selection(), 3, 1, 3),
        (Selection(from_id=2), 2, 2, 3),
        (Selection(to_id=2), 2, 1, 2),
        (Selection(since=recently), 2, 2, 3),
        (Selection(until=recently), 1, 1, 1),
        (Selection(key="b"), 2, 2, 3),
        (Selection(key="b", subject="orders.us.>"), 1, 3, 3),
        (Selection(subject="orders.*.paid"), 2, 2, 3),
        (Selection(idempotency_keys=["paid-1"]), 1, 2, 2),
        (Selection(event_ids=[row[0]], idempotency_keys=["paid-1", "none"]), 2, 2, 3),
        (Selection(key="nobody"), 0, None, None),
    ):
        found = await ids(selection)
        assert (found.events, found.first_id, found.last_id) == (events, first, last), selection


async def test_with_the_same_ids_a_hand_retried_event_keeps_the_one_under_which_it_was_stored(
    store: PostgresStore, writer: psycopg.AsyncConnection, replays: Replays
) -> None:
    await emit(writer, "a", "b", name="")
    await emit(writer, "c", name="own")
    await deliver(store)
    await writer.execute(
        "insert into relay.decision (decided_by, action, parked_id, event_id, subject, attempts)"
        " select 'x', 'retry', id, event_id, subject, 1 from relay.outbox, generate_series(1, 2)"
        " where id = 2"
    )
    leader = Leader(store)
    assert await run(replays, await begin(replays, same_id=True), leader)
    rows = await (await writer.execute("select event_id from relay.outbox order by 1")).fetchall()
    assert len(rows) == 3
    named = dict(leader.published)
    assert named[1].startswith("relay-")
    assert named[1].count("-") == 5
    assert named[2] == f"{named[2][:42]}-2"
    assert named[3] == "own"


async def test_what_was_settled_within_the_window_is_young(
    store: PostgresStore, writer: psycopg.AsyncConnection, replays: Replays
) -> None:
    await emit(writer, "a")
    await deliver(store)
    assert (await replays.look(EVERYTHING, window=120.0)).young == 1
    await store.tend(900.0)
    assert (await replays.look(EVERYTHING, window=120.0)).young == 1
    await writer.execute("update relay.settled set settled_at = settled_at - interval '3 min'")
    await emit(writer, "a")
    await deliver(store)
    found = await replays.look(EVERYTHING, window=120.0)
    assert (found.events, found.young) == (2, 1)


@pytest.mark.parametrize("how", ["replayed", "retried"])
async def test_what_was_stored_again_under_the_same_id_is_young_again(
    store: PostgresStore, writer: psycopg.AsyncConnection, replays: Replays, how: str
) -> None:
    await emit(writer, "a", "b")
    await deliver(store)
    await store.tend(900.0)
    await writer.execute("update relay.settled set settled_at = settled_at - interval '1 hour'")
    assert (await replays.look(EVERYTHING, window=120.0)).young == 0
    if how == "replayed":
        assert await run(
            replays, await begin(replays, Selection(key="a"), same_id=True), Leader(store)
        )
    else:
        await writer.execute(
            "insert into relay.decision"
            " (decided_by, action, parked_id, event_id, subject, attempts)"
            " select 'x', 'retry', id, event_id, subject, 1 from relay.outbox where id = 1"
        )
    assert (await replays.look(EVERYTHING, window=120.0)).young == 1
    await writer.execute(
        "update relay.replay set ended_at = ended_at - interval '5 min';"
        "update relay.decision set decided_at = decided_at - interval '5 min'"
    )
    assert (await replays.look(EVERYTHING, window=120.0)).young == 0


async def test_two_replays_at_once_are_refused(
    store: PostgresStore, writer: psycopg.AsyncConnection, replays: Replays, outbox_dsn: str
) -> None:
    await emit(writer, "a")
    await deliver(store)
    await begin(replays)
    async with Replays.open(outbox_dsn, "relay") as others:
        with pytest.raises(RelayError, match="another replay is under way"):
            await begin(others)


async def test_a_replayed_row_that_cannot_be_read_with_the_others_keeps_its_id_and_header(
    store: PostgresStore, writer: psycopg.AsyncConnection, replays: Replays
) -> None:
    # R-FATE
    (good, bad) = await emit(writer, None, None)
    await deliver(store)
    await writer.execute(
        "alter table relay.outbox drop constraint outbox_publishable;"
        f"update relay.outbox set headers = '[1]' where id = {bad}"
    )
    replay = await begin(replays)
    listed = [(good, good, False), (bad, bad, False)]
    await replays._mark(replay, listed, goes_on=False)
    first, second = await store.parked.due(10)
    assert first.event.message_id == f"relay-{first.event.event_id}-r1"
    assert first.event.headers == {"Relay-Replay": "1"}
    assert first.event.payload == b"1"
    assert second.unreadable
