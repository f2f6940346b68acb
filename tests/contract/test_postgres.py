"""The Postgres adapters keep the contracts, on every major version found."""

from collections.abc import AsyncIterator
from typing import Any

import anyio
import psycopg
import pytest

from relay.core.event import Event
from relay.ports import OutboxStore
from relay.postgres.bell import PostgresBell
from relay.postgres.operator import DeadEvents, Wanted
from relay.postgres.outbox import PostgresOutbox
from tests.contract.outbox_contract import OutboxContract
from tests.contract.parked_contract import ParkedContract
from tests.contract.wake_contract import WakeContract
from tests.postgres.bells import TRIAL_MAY_TAKE
from tests.postgres.leases import PATIENT

pytestmark = pytest.mark.anyio

INSERT = """
    insert into relay.outbox (subject, key, payload) values (%s, %s, '{"n": 1}')
    returning event_id::text
"""


class PostgresHarness:
    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.terms: list[OutboxStore] = []
        self.outbox = PostgresOutbox(dsn, "relay", page_bytes=8 << 20, lease_lifetime=PATIENT)

    async def commit(self, *subjects: str, key: str | None = None) -> list[str]:
        async with await psycopg.AsyncConnection.connect(self.dsn) as producer:
            written = []
            for subject in subjects:
                row = await (await producer.execute(INSERT, (subject, key))).fetchone()
                assert row is not None
                written.append(row[0])
            return written

    async def retry(self, event: Event) -> None:
        async with DeadEvents.open(self.dsn, "relay") as dead:
            wanted = Wanted(ids=[event.id])
            found = await dead.find(wanted, 1)
            retried: list[int] = []
            await dead.decide("retry", wanted, by="a test", as_of=found.as_of, done=retried.extend)
            assert retried == [event.id]

    async def replay(self, *events: Event) -> None:
        ids = [event.id for event in events]
        async with await psycopg.AsyncConnection.connect(self.dsn) as person:
            begun = await person.execute(
                "select relay.begin_replay(null, '{}', false, %s, %s, %s, 'a test')",
                (min(ids), max(ids), len(ids)),
            )
            (replay,) = await begun.fetchone() or ()
            mark = "select relay.mark_replay(%s, %s, %s, false, true)"
            marked = await person.execute(mark, (replay, ids, min(ids)))
            assert await marked.fetchone() == (len(ids),)

    async def dead_events_block(self) -> None:
        self.outbox = PostgresOutbox(
            self.dsn, "relay", page_bytes=8 << 20, dead_blocks=True, lease_lifetime=PATIENT
        )


class TestPostgresOutbox(OutboxContract, ParkedContract):
    @pytest.fixture
    async def harness(self, outbox_dsn: str) -> AsyncIterator[PostgresHarness]:
        harness = PostgresHarness(outbox_dsn)
        yield harness
        for term in harness.terms:
            await term.close()
        await harness.outbox.close()

    @pytest.fixture
    def usurp(self, outbox_dsn: str) -> Any:
        async def begin_another_term(_: OutboxStore) -> None:
            async with await psycopg.AsyncConnection.connect(outbox_dsn, autocommit=True) as other:
                await other.execute("update relay.cursor set epoch = epoch + 1")

        return begin_another_term


class PostgresWakeHarness:
    def __init__(self, dsn: str) -> None:
        self._harness = PostgresHarness(dsn)
        self.source = PostgresBell(self._harness.outbox)

    async def commit(self) -> None:
        await self._harness.commit("a.b")

    async def close(self) -> None:
        await self._harness.outbox.close()


class TestPostgresBell(WakeContract):
    @pytest.fixture
    async def harness(
        self, outbox_dsn: str, monkeypatch: pytest.MonkeyPatch
    ) -> AsyncIterator[PostgresWakeHarness]:
        monkeypatch.setattr("relay.postgres.trial.TOO_LONG", TRIAL_MAY_TAKE)
        harness = PostgresWakeHarness(outbox_dsn)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(harness.source.run)
            yield harness
            tasks.cancel_scope.cancel()
        await harness.close()
