"""A leader made by hand, and replays that it publishes."""

import anyio
import psycopg

from relay.ports import Settlement
from relay.postgres.replay import Replay, Replays
from relay.postgres.selection import Selection
from relay.postgres.store import PostgresStore

EMIT = """
insert into relay.outbox (subject, key, payload, idempotency_key) values (%s, %s, '1', %s)
returning id
"""
EVERYTHING = Selection()


async def emit(
    producer: psycopg.AsyncConnection, *keys: str | None, subject: str = "a.b", name: str = ""
) -> list[int]:
    ids = []
    for key in keys:
        row = await (await producer.execute(EMIT, (subject, key, name or None))).fetchone()
        assert row is not None
        ids.append(row[0])
    return ids


async def deliver(store: PostgresStore) -> None:
    while (page := await store.read(1000)).events:
        await store.settle(Settlement(page.position))


class Leader:
    """Publishes what is due until cancelled; ``published`` holds (id, message id) in order."""

    def __init__(self, store: PostgresStore, at_once: int = 1000) -> None:
        self.published: list[tuple[int, str]] = []
        self._store = store
        self._at_once = at_once

    async def run(self) -> None:
        while True:
            due = await self._store.parked.due(self._at_once)
            self.published += [(each.event.id, each.event.message_id) for each in due]
            if due:
                settled = Settlement(None, (), [each.event.event_id for each in due])
                with anyio.CancelScope(shield=True):  # cut off in its COMMIT, the term would end
                    await self._store.settle(settled)
            else:
                await anyio.sleep(0.01)

    @property
    def ids(self) -> list[int]:
        return [id_ for id_, _ in self.published]


async def begin(
    replays: Replays, selection: Selection = EVERYTHING, *, same_id: bool = False
) -> Replay:
    return await replays.begin(selection, same_id=same_id, by="anna")


async def run(
    replays: Replays,
    replay: Replay,
    leader: Leader,
    *,
    rate: float | None = None,
    until: int | None = None,
) -> bool:
    """Run to the end, or until so many are marked."""
    stop = anyio.Event()

    def progress(now: Replay) -> None:
        if until is not None and now.marked >= until:
            stop.set()

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(leader.run)
            whole = await replays.run(replay, rate=rate, stop=stop, progress=progress)
            while not whole and replay.left:
                await anyio.sleep(0.01)
                await replays._count(replay)
            tasks.cancel_scope.cancel()
    return whole
