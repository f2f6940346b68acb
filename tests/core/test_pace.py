"""The pause between reads: bounded, and longer the busier the outbox is."""

from hypothesis import given
from hypothesis import strategies as st

from relay.core.pace import BUSIEST, PAUSE_LEAST, PAUSE_MOST, Pace

POLL = 0.1
rates = st.floats(0, 1e7)
busy_rates = st.floats(1_000, 1e7)


@given(rates, st.floats(0.001, 60))
def test_a_pause_is_never_under_the_least_nor_over_the_poll(rate: float, poll: float) -> None:
    assert PAUSE_LEAST <= Pace(rate).pause(poll) <= max(poll, PAUSE_LEAST)


@given(busy_rates, busy_rates)
def test_a_busier_outbox_never_pauses_less(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert Pace(low).pause(POLL) <= Pace(high).pause(POLL) <= PAUSE_MOST


def test_little_is_read_at_half_its_distance_and_nothing_at_the_poll() -> None:
    assert Pace(0).pause(POLL) == POLL
    assert Pace(100).pause(POLL) == 0.005
    assert Pace(1_000).pause(POLL) == PAUSE_LEAST
    assert Pace(5_000).pause(POLL) < 0.004  # or half of all wait for longer than the rest takes
    assert Pace(BUSIEST).pause(POLL) == PAUSE_MOST


@given(
    st.lists(st.tuples(st.integers(0, 2000), st.floats(0, 1)), max_size=50),
)
def test_the_rate_stays_between_nothing_and_the_fastest_read(
    reads: list[tuple[int, float]],
) -> None:
    pace, now = Pace(), 0.0
    for events, elapsed in reads:
        now += elapsed
        pace = pace.after(events, now)
        assert 0 <= pace.rate <= 2000 / 1e-6


@given(st.integers(1, 100), st.integers(1, 20))
def test_a_steady_stream_is_seen_at_its_rate(events: int, interval_ms: int) -> None:
    pace, now = Pace(), 0.0
    for _ in range(500):
        now += interval_ms / 1000
        pace = pace.after(events, now)
    expected = events / interval_ms * 1000
    assert abs(pace.rate - expected) <= expected * 0.01
