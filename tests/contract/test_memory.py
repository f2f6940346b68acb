"""The memory adapters keep the contracts, on asyncio and on trio."""

from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from relay.core.event import Event
from relay.memory import MemoryBus, MemoryOutbox, MemoryStore
from relay.ports import OutboxStore
from tests.contract.bus_contract import BusContract
from tests.contract.outbox_contract import OutboxContract
from tests.contract.parked_contract import ParkedContract
from tests.contract.wake_contract import WakeContract

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"], scope="module")
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return request.param


class MemoryOutboxHarness:
    def __init__(self) -> None:
        self.outbox = MemoryOutbox()
        self.terms: list[OutboxStore] = []

    async def commit(self, *subjects: str, key: str | None = None) -> list[str]:
        events = [self.outbox.draw(subject, b'{"n": 1}', key=key) for subject in subjects]
        self.outbox.commit(events)
        return [event.event_id for event in events]

    async def retry(self, event: Event) -> None:
        self.outbox.parked.retry(event.event_id)

    async def replay(self, *events: Event) -> None:
        self.outbox.replay([event.event_id for event in events])

    async def dead_events_block(self) -> None:
        self.outbox = MemoryOutbox(dead_blocks=True)


class TestMemoryOutbox(OutboxContract, ParkedContract):
    @pytest.fixture
    def harness(self) -> MemoryOutboxHarness:
        return MemoryOutboxHarness()

    @pytest.fixture
    def usurp(self, harness: MemoryOutboxHarness) -> Any:
        async def begin_another_term(store: OutboxStore) -> None:
            assert isinstance(store, MemoryStore)
            harness.outbox.leader = None
            other = await harness.outbox.campaign("usurper")
            assert other is not None
            await other.close()

        return begin_another_term


def test_an_idempotency_key_that_is_there_commits_nothing_more() -> None:
    outbox = MemoryOutbox()
    first = outbox.emit("orders.placed", b"1", idempotency_key="order-7")
    assert outbox.emit("orders.placed", b"2", idempotency_key="order-7") == first
    assert outbox.emit("orders.placed", b"3", idempotency_key="order-8") != first
    assert [each.payload for each in outbox.events] == [b"1", b"3"]


class MemoryBusHarness:
    def __init__(self) -> None:
        self.bus = MemoryBus()
        self.bus.refuse["nobody.listens"] = "no stream captures it"

    async def stored(self) -> list[tuple[str, str, bytes]]:
        return [(m.subject, m.message_id, m.payload) for m in self.bus.messages]

    async def go_away(self) -> None:
        self.bus.away = True

    async def come_back(self) -> None:
        self.bus.away = False


class TestMemoryBus(BusContract):
    @pytest.fixture
    def harness(self) -> MemoryBusHarness:
        return MemoryBusHarness()


class MemoryWakeHarness:
    def __init__(self) -> None:
        self.outbox = MemoryOutbox()
        self.source = self.outbox.bell

    async def commit(self) -> None:
        await anyio.lowlevel.checkpoint()
        self.outbox.emit("a.b", b"{}")


class TestMemoryBell(WakeContract):
    @pytest.fixture
    async def harness(self) -> AsyncIterator[MemoryWakeHarness]:
        harness = MemoryWakeHarness()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(harness.source.run)
            yield harness
            tasks.cancel_scope.cancel()
