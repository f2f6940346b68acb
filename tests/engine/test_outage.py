"""The book of one side's failures in a row: its pauses, its label, and what it lasted."""

from collections.abc import Callable

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.backoff import State
from relay.engine.outage import SAY_AGAIN, TRIP_AFTER, OutageBook
from relay.errors import BusLoginRefused, BusOutage, StoreBusy, StoreFull
from relay.facts import BreakerChanged, Fact, OutageBegan, OutageChanged, OutageEnded

AWAY, REFUSED = BusOutage("away"), BusLoginRefused("refused")

answers = st.lists(st.tuples(st.booleans(), st.floats(0, 10)), max_size=40)
jitters = st.floats(0, 1, exclude_max=True)


def book(
    jitter: float, facts: list[Fact] | None = None, now: Callable[[], float] = lambda: 0.0
) -> OutageBook:
    """The book of NATS, by a clock of its own."""
    record = [].append if facts is None else facts.append
    return OutageBook("nats", jitter=lambda: jitter, record=record, breaker="bus", now=now)


@given(answers, jitters)
def test_the_label_opens_at_the_third_failure_in_a_row_and_any_answer_closes_it(
    answers: list[tuple[bool, float]], jitter: float
) -> None:
    facts: list[Fact] = []
    in_a_row, now, began = 0, 0.0, 0.0
    outage = book(jitter, facts, lambda: now)
    for answered, passed in answers:
        now += passed
        assert outage.state is not State.OPEN
        assert outage.lasts == (in_a_row > 0)
        if answered:
            facts.clear()
            outage.answered()
            ended = [fact for fact in facts if isinstance(fact, OutageEnded)]
            assert ended == [OutageEnded("nats", now - began, in_a_row)][: in_a_row > 0]
            in_a_row = 0
            assert outage.state is State.CLOSED
            continue
        began = now if in_a_row == 0 else began
        in_a_row += 1
        assert 0 <= outage.failed(AWAY) <= 0.5
        assert (outage.state is State.OPEN) == (in_a_row >= TRIP_AFTER)
        outage.trying()
        assert (outage.state is State.HALF_OPEN) == (in_a_row >= TRIP_AFTER)


def test_the_pauses_of_a_side_that_lets_us_in_and_fails_go_on_growing() -> None:
    outage = book(0.999)
    pauses = []
    for _ in range(6):
        pauses.append(outage.failed(AWAY))
        outage.answered(forget_pauses=False)
    assert pauses == sorted(pauses)
    assert pauses[-1] > 0.4
    outage.answered()
    assert outage.failed(AWAY) < 0.05


def test_a_standby_forgets_what_it_knew_of_the_side() -> None:
    outage = book(0.5)
    for _ in range(TRIP_AFTER):
        outage.failed(AWAY)
    outage.forget()
    assert (outage.state, outage.lasts) == (State.CLOSED, False)
    outage.failed(AWAY)
    assert outage.state is State.CLOSED


def test_a_reason_of_another_kind_is_recorded_once_in_a_while_and_no_reason_twice() -> None:
    facts: list[Fact] = []
    now = 0.0
    outage = book(0.5, facts, lambda: now)
    for why in (AWAY, BusOutage("away still"), REFUSED, REFUSED, AWAY, REFUSED):
        outage.failed(why)
    now = SAY_AGAIN
    for why in (AWAY, AWAY, REFUSED):
        outage.failed(why)
    outage.answered()
    outage.failed(REFUSED)
    assert [fact for fact in facts if not isinstance(fact, BreakerChanged)] == [
        OutageBegan("nats", "away"),
        OutageChanged("nats", "refused"),
        OutageChanged("nats", "away"),
        OutageChanged("nats", "refused"),
        OutageEnded("nats", SAY_AGAIN, 9),
        OutageBegan("nats", "refused"),
    ]


@pytest.mark.anyio
async def test_an_outage_that_two_wait_out_is_over_when_both_have_an_answer() -> None:
    """And who has never failed says nothing about it: a full disk is read as before."""
    facts: list[Fact] = []
    outage = book(0.5, facts)
    may_write = may_read = False

    async def write() -> None:
        if not may_write:
            raise StoreFull("no space left")

    async def read() -> None:
        if not may_read:
            raise StoreBusy("no session")

    async def kept_on(kind: type[Fact]) -> bool:
        await anyio.sleep(1)
        return not any(isinstance(fact, kind) for fact in facts)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(outage.wait_out, write, anyio.sleep)
        tasks.start_soon(outage.wait_out, read, anyio.sleep)
        await anyio.sleep(0.2)
        may_read = True
        assert await kept_on(OutageEnded)
        await outage.wait_out(read, anyio.sleep)
        assert await kept_on(OutageEnded)
        may_write = True
    assert [type(fact) for fact in facts].count(OutageEnded) == 1
    assert not outage.lasts
