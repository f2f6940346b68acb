"""What a replay counts: what it takes, what it has handed over, what of that is its own."""
# R-BOUND, R-ORDER

import anyio
import psycopg
import pytest

from relay.postgres.replay import Replay, Replays
from relay.postgres.store import PostgresStore
from tests.postgres.replaying import Leader, begin, deliver, emit, run

pytestmark = pytest.mark.anyio


async def test_while_nobody_leads_no_more_is_handed_over_however_often_it_is_gone_on_with(
    store: PostgresStore,
    writer: psycopg.AsyncConnection,
    replays: Replays,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # R-BOUND
    monkeypatch.setattr("relay.postgres.replay.CHUNK_ROWS", 2)
    monkeypatch.setattr("relay.postgres.replay.IN_FLIGHT", 4)
    await emit(writer, *"abcdefgh")
    await deliver(store)

    async def run_for_a_while(replay: Replay) -> Replay:
        stop, left = anyio.Event(), iter(range(8))

        def progress(_: Replay) -> None:
            if next(left, None) is None:
                stop.set()

        assert not await replays.run(replay, rate=None, stop=stop, progress=progress)
        return replay

    first = await run_for_a_while(await begin(replays))
    again = await run_for_a_while(await replays.go_on(first.id, by="anna"))
    other = await run_for_a_while(await begin(replays))
    assert [(each.marked, each.published) for each in (first, again, other)] == [
        (4, 0),
        (4, 0),
        (0, 0),
    ]
    assert other.in_flight == 4


async def test_a_replay_counts_its_own_events_and_waits_for_no_other_one_s(
    store: PostgresStore, writer: psycopg.AsyncConnection, replays: Replays
) -> None:
    ids = await emit(writer, *"abc")
    await deliver(store)
    first = await begin(replays)
    await replays._mark(first, [(ids[0], ids[0], False)], goes_on=False)
    await writer.execute("update relay.parked set next_attempt_at = now() + interval '20 s'")
    other, leader = await begin(replays), Leader(store)
    assert await run(replays, other, leader)
    assert (other.published, other.skipped, other.in_flight) == (2, 0, 1)
    assert sorted(leader.ids) == ids[1:]


async def test_what_is_delivered_while_a_replay_begins_is_neither_counted_nor_replayed(
    store: PostgresStore,
    writer: psycopg.AsyncConnection,
    replays: Replays,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ids = await emit(writer, "a", "b")
    await deliver(store)
    lock = replays._lock

    async def deliver_more() -> None:
        await emit(writer, "a", "c")
        await deliver(store)
        await lock()

    monkeypatch.setattr(replays, "_lock", deliver_more)
    replay, leader = await begin(replays), Leader(store)
    assert await run(replays, replay, leader)
    assert sorted(leader.ids) == ids
    assert (replay.events, replay.published) == (2, 2)
