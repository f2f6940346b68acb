"""The book of one side's failures in a row: its pauses, its label, and what it lasted."""

from hypothesis import given
from hypothesis import strategies as st

from relay.core.backoff import TRIP_AFTER, ConsecutiveFailures
from relay.core.breakers import State

answers = st.lists(st.tuples(st.booleans(), st.floats(0, 10)), max_size=40)
jitters = st.floats(0, 1, exclude_max=True)


@given(answers, jitters)
def test_the_label_opens_at_the_third_failure_in_a_row_and_any_answer_closes_it(
    answers: list[tuple[bool, float]], jitter: float
) -> None:
    outage, in_a_row, now, began = ConsecutiveFailures(base=0.05, cap=0.5), 0, 0.0, 0.0
    for answered, passed in answers:
        now += passed
        assert outage.state is not State.OPEN
        assert outage.lasts == (in_a_row > 0)
        if answered:
            lasted = outage.answered(now)
            assert (lasted is not None) == (in_a_row > 0)
            if lasted is not None:
                assert (lasted.seconds, lasted.attempts) == (now - began, in_a_row)
            in_a_row = 0
            assert outage.state is State.CLOSED
            continue
        began = now if in_a_row == 0 else began
        in_a_row += 1
        assert 0 <= outage.failed(now, jitter) <= 0.5
        assert (outage.state is State.OPEN) == (in_a_row >= TRIP_AFTER)
        outage.trying()
        assert (outage.state is State.HALF_OPEN) == (in_a_row >= TRIP_AFTER)


def test_the_pauses_of_a_side_that_lets_us_in_and_fails_go_on_growing() -> None:
    outage = ConsecutiveFailures(base=0.05, cap=0.5)
    pauses = []
    for _ in range(6):
        pauses.append(outage.failed(0.0, 0.999))
        outage.answered(0.0, forget_pauses=False)
    assert pauses == sorted(pauses)
    assert pauses[-1] > 0.4
    outage.answered(0.0)
    assert outage.failed(0.0, 0.999) < 0.05


def test_a_standby_forgets_what_it_knew_of_the_side() -> None:
    outage = ConsecutiveFailures(base=0.05, cap=0.5)
    for _ in range(TRIP_AFTER):
        outage.failed(0.0, 0.5)
    outage.forget()
    assert (outage.state, outage.lasts) == (State.CLOSED, False)
    outage.failed(0.0, 0.5)
    assert outage.state is State.CLOSED
