"""A relay that is told to stop while its reader waits for Postgres and its page for the stream."""
# R-TERM, R-ONCE

from collections.abc import Collection, Sequence

import anyio
import psycopg
import pytest

from relay.core.event import Event
from relay.core.outcome import Outcome
from relay.engine.bell import PollOnly
from relay.engine.lead import Engine, Policy
from relay.facts import Fact, TermEnded
from relay.memory import MemoryBus
from relay.ports import Permit
from relay.postgres.outbox import PostgresOutbox

pytestmark = pytest.mark.anyio

INSERT = "insert into relay.outbox (subject, payload) values ('a.b', '{}')"


class Slow(MemoryBus):
    """Answers once it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.let = anyio.Event(), anyio.Event()

    async def publish(
        self, events: Sequence[Event], permit: Permit, *, closed: Collection[str] = ()
    ) -> Sequence[Outcome]:
        self.asked.set()
        await self.let.wait()
        return await super().publish(events, permit, closed=closed)


async def test_a_stop_in_the_middle_of_a_read_still_settles_the_page_in_hand(
    outbox_dsn: str,
) -> None:
    bus, facts = Slow(), list[Fact]()
    engine = Engine(
        PostgresOutbox(outbox_dsn, "relay", page_bytes=1 << 20),
        bus,
        PollOnly(),
        holder="one",
        policy=Policy(),
        record=facts.append,
    )
    connect = psycopg.AsyncConnection.connect
    async with await connect(outbox_dsn, autocommit=True) as producer:
        await producer.execute(INSERT)
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(engine.run)
                await bus.asked.wait()
                async with await connect(outbox_dsn) as blocker:
                    await blocker.execute("lock table relay.outbox in access exclusive mode")
                    while not await waits_for_a_lock(producer):
                        await anyio.sleep(0.01)
                    engine.stop()
                    await anyio.sleep(0.5)
                    bus.let.set()
                    await anyio.sleep(0.5)
        assert len(bus.messages) == 1
        found = await producer.execute("select count(*) from relay.pending")
        assert await found.fetchone() == (0,), "what was published is not settled"
    assert [fact.reason for fact in facts if isinstance(fact, TermEnded)] == [""]


async def waits_for_a_lock(connection: psycopg.AsyncConnection) -> bool:
    found = await connection.execute(
        "select from pg_stat_activity"
        " where application_name = 'relay reader' and wait_event_type = 'Lock'"
    )
    return bool(await found.fetchall())
