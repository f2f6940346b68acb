"""What waits to be settled: from when on it counts as delivered, and how long it has waited."""
# R-ONCE, R-LOSS

from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from relay.core.disposition import Parking
from relay.engine.outage import OutageBook
from relay.engine.settle import BEHIND_SHARE, SETTLE_EVERY, Done, Settler
from relay.ports import Settlement

pytestmark = pytest.mark.anyio

WINDOW = 10.0


class SlowStore:
    """Writes for ``takes`` s each time."""

    def __init__(self, takes: float) -> None:
        self._takes = takes

    async def settle(self, _: Settlement) -> None:
        await anyio.sleep(self._takes)


def settler_over(store: SlowStore) -> Settler:
    link = SimpleNamespace(bus=SimpleNamespace(duplicate_window=WINDOW), learnt=dict)
    outage = OutageBook("postgres", jitter=lambda: 0.0, record=lambda _: None)
    given: Any = store, link, outage, lambda _: None
    return Settler(*given)


async def test_a_position_with_parked_events_counts_once_these_are_settled() -> None:
    settler = settler_over(SlowStore(5.0))
    parking = Parking(1, "e1", attempts=0, delay=None)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(settler.run)
        settler.add(Done("first"))
        assert settler.position == "first"
        tasks.start_soon(settler.add_and_wait, Done("second", [parking]))
        await anyio.sleep(4.0)
        assert settler.position == "first"
        await anyio.sleep(2.0)
        assert settler.position == "second"
        settler.finish()


async def test_what_is_added_during_a_settlement_has_waited_since_then() -> None:
    settler = settler_over(SlowStore(6.0))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(settler.run)
        settler.add(Done("first"))
        await anyio.sleep(SETTLE_EVERY + 1.0)
        settler.add(Done("second"))
        await anyio.sleep(5.5)  # the first is written, the second has waited for 5.5 s
        assert settler.is_behind()
        assert WINDOW * BEHIND_SHARE < 5.5
        settler.finish()
