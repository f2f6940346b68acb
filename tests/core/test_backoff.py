"""Backoff: bounds, growth, cap."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.backoff import Backoff, delay

bases = st.floats(1e-6, 60)
caps = st.floats(1e-6, 3600)
chances = st.floats(0, 1, exclude_max=True)


@given(st.integers(0, 10**6), bases, caps, chances)
def test_a_wait_is_never_negative_and_never_over_the_cap(attempt, base, cap, jitter):
    assert 0 <= delay(attempt, base=base, cap=cap, jitter=jitter) <= cap


@given(st.integers(0, 10**6), bases, caps, chances)
def test_the_ceiling_never_sinks_as_failures_go_on(attempt, base, cap, jitter):
    now = delay(attempt, base=base, cap=cap, jitter=jitter)
    assert delay(attempt + 1, base=base, cap=cap, jitter=jitter) >= now


@given(bases, caps, chances)
def test_a_million_failures_reach_the_cap_and_do_not_overflow(base, cap, jitter):
    assert delay(10**6, base=base, cap=cap, jitter=jitter) == jitter * cap


@pytest.mark.parametrize(("attempt", "ceiling"), [(0, 0.1), (1, 0.2), (4, 1.6), (9, 30.0)])
def test_the_ceiling_doubles_from_the_base_up_to_the_cap(attempt, ceiling):
    assert delay(attempt, base=0.1, cap=30, jitter=0.5) == pytest.approx(ceiling / 2)


def test_jitter_is_full_it_may_be_no_wait_at_all():
    assert delay(9, base=0.1, cap=30, jitter=0.0) == 0.0


def test_success_starts_the_count_again():
    backoff = Backoff(base=1.0, cap=30.0)
    assert [backoff.failed(0.5) for _ in range(7)] == [0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0]
    assert backoff.attempts == 7
    backoff.succeeded()
    assert backoff.failed(0.5) == 0.5
