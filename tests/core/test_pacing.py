"""The pause between reads: never long, never shrinking while the rate grows."""

from hypothesis import given
from hypothesis import strategies as st

from relay.core.pacing import BUSIEST, PAUSE_MOST, Pace

rates = st.floats(0, 1e7)


@given(rates, rates)
def test_a_busier_outbox_never_pauses_less(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert 0 <= Pace(low).pause <= Pace(high).pause <= PAUSE_MOST


def test_five_hundred_events_a_second_feel_next_to_nothing() -> None:
    assert Pace(500).pause < 0.0001
    assert Pace(BUSIEST).pause == PAUSE_MOST


@given(
    st.lists(st.tuples(st.integers(0, 2000), st.floats(0, 1)), max_size=50),
)
def test_the_rate_stays_between_nothing_and_the_fastest_read(
    reads: list[tuple[int, float]],
) -> None:
    pace, now = Pace(), 0.0
    for events, elapsed in reads:
        now += elapsed
        pace = pace.seen(events, now)
        assert 0 <= pace.rate <= 2000 / 1e-6


@given(st.integers(1, 100), st.integers(1, 20))
def test_a_steady_stream_is_seen_at_its_rate(events: int, interval_ms: int) -> None:
    pace, now = Pace(), 0.0
    for _ in range(500):
        now += interval_ms / 1000
        pace = pace.seen(events, now)
    expected = events / interval_ms * 1000
    assert abs(pace.rate - expected) <= expected * 0.01
