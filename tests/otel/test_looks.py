"""Looking now and then, while leading: what it tells, and that nothing depends on it."""

from typing import Any

import anyio
import pytest
import trio.testing

from relay.core.storage import OutboxStorage, StreamStorage
from relay.errors import StoreOutage
from relay.facts import HousekeepingFailed, Looked
from relay.otel import telemetry
from relay.otel.telemetry import keep_looking

pytestmark = pytest.mark.anyio

OUTBOX = OutboxStorage(1, 2, 3.0, {})


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Virtual time: on a busy machine a real turn may not come in time."""
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


class Side:
    """A side that answers as it is told, in turn; the last answer for ever."""

    def __init__(self, *answers) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def look(self):
        self.asked += 1
        answer = self.answers[0] if len(self.answers) == 1 else self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


async def kept_looking(side: Side, turns: int, leading=lambda: True):
    """Look for so many turns; what was told."""
    told = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keep_looking, leading, told.append, "it", side.look)
        await anyio.sleep(telemetry.TURN * (turns + 0.5))
        tasks.cancel_scope.cancel()
    return told


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "TURN", 0.02)


async def test_a_look_is_not_made_at_every_turn() -> None:
    side = Side(OUTBOX)
    assert await kept_looking(side, 4) == [Looked(OUTBOX)]
    assert side.asked == 1


async def test_where_nothing_is_there_yet_it_looks_at_the_next_turn() -> None:
    streams = [StreamStorage("ORDERS", 1, 2)]
    told = await kept_looking(Side([], streams), 4)
    assert told == [Looked([]), Looked(streams)]


async def test_what_has_nothing_to_be_seen_is_asked_again_and_not_told() -> None:
    told = await kept_looking(Side(None, None, OUTBOX), 5)
    assert told == [Looked(OUTBOX)]


async def test_a_standby_does_not_look_and_a_new_leader_does_at_once() -> None:
    leading, side = [False], Side(OUTBOX)
    assert await kept_looking(side, 3, lambda: leading[0]) == []
    turns = iter([True, False, True, True])
    told = await kept_looking(side, 4, lambda: next(turns, True))
    assert told == [Looked(OUTBOX)] * 2


async def test_failing_is_told_once_until_it_works_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "LOOK_EVERY", 0.0)
    away = StoreOutage("away")
    told = await kept_looking(Side(away, away, OUTBOX, away, OUTBOX), 5)
    failed = HousekeepingFailed("it can't be looked at: away")
    assert told[:4] == [failed, Looked(OUTBOX), failed, Looked(OUTBOX)]


async def test_a_bug_in_it_ends_it_alone(caplog: pytest.LogCaptureFixture) -> None:
    assert await kept_looking(Side(ValueError("a bug")), 2) == []
    assert "delivery goes on without it" in caplog.text
