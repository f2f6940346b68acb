"""Both breakers, heard every sequence of news that can reach them."""

from hypothesis import given
from hypothesis import strategies as st

from relay.core.breakers import NEXT, TRIP_AFTER, BusBreaker, Heard, LagBreaker, State

answers = st.lists(st.booleans(), max_size=40)
lags = st.floats(0, 1e9)


@given(answers)
def test_the_bus_breaker_opens_at_the_third_outage_in_a_row_and_any_answer_closes_it(
    answers: list[bool],
) -> None:
    breaker, in_a_row = BusBreaker(), 0
    for answered in answers:
        assert breaker.state is not State.OPEN
        if answered:
            breaker.succeeded()
            in_a_row = 0
            assert breaker.state is State.CLOSED
            continue
        in_a_row += 1
        breaker.failed()
        assert (breaker.state is State.OPEN) == (in_a_row >= TRIP_AFTER)
        breaker.pause_over()
        assert (breaker.state is State.HALF_OPEN) == (in_a_row >= TRIP_AFTER)


def test_a_pause_leads_out_of_the_open_state_to_a_single_try_and_standing_by_out_of_all() -> None:
    assert [(heard, to) for (state, heard), to in NEXT.items() if state is State.OPEN] == [
        (Heard.PAUSE_OVER, State.HALF_OPEN),
        (Heard.NOT_OURS, State.CLOSED),
    ]


def test_whatever_the_single_try_comes_to_decides() -> None:
    tried = {heard: to for (state, heard), to in NEXT.items() if state is State.HALF_OPEN}
    assert tried == {
        Heard.SUCCESS: State.CLOSED,
        Heard.OUTAGE: State.OPEN,
        Heard.TRIPPED: State.OPEN,
        Heard.NOT_OURS: State.CLOSED,
    }


@given(st.floats(0.001, 3600), st.lists(lags, max_size=30))
def test_the_lag_breaker_stands_as_the_last_clear_look_said(
    limit: float, looks: list[float]
) -> None:
    breaker, expected = LagBreaker(limit), State.CLOSED
    for lag in looks:
        if lag > limit:
            expected = State.OPEN
        if lag <= limit / 2:
            expected = State.CLOSED
        breaker.saw(lag)
        assert breaker.state is expected


def test_who_stands_by_forgets_what_it_heard_of_the_bus() -> None:
    breaker = BusBreaker()
    for _ in range(TRIP_AFTER):
        breaker.failed()
    breaker.forget()
    assert breaker.state is State.CLOSED
    breaker.failed()
    assert breaker.state is State.CLOSED


@given(st.floats(0.001, 3600), st.floats(0.51, 1.0))
def test_a_lag_about_the_limit_rings_once(limit: float, part: float) -> None:
    breaker = LagBreaker(limit)
    breaker.saw(limit * 2)
    for _ in range(10):
        breaker.saw(limit * part)
        assert breaker.state is State.OPEN
        breaker.saw(limit * 1.1)
    breaker.saw(limit / 2)
    assert breaker.state is State.CLOSED
