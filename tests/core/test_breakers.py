"""The lag breaker, shown every sequence of lags."""

from hypothesis import given
from hypothesis import strategies as st

from relay.core.backoff import LagBreaker, State

lags = st.floats(0, 1e9)


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
