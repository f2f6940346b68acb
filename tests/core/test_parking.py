"""What becomes of an event that could not be stored: the pauses, and when it is dead."""

from hypothesis import given
from hypothesis import strategies as st

from relay.core.outcome import Held, Refused
from relay.core.parking import RETRY_FIRST, behind, held, refused

TOO_LARGE = Refused("too large", 10054)
FULL = Held("stream ORDERS", "the stream is full", 10077)

attempts_made = st.integers(1, 2000)
jitters = st.floats(0, 1, exclude_max=True)


@given(attempts_made, st.integers(1, 50), st.floats(0.01, 3600), jitters)
def test_a_refused_event_is_dead_from_the_last_attempt_on_and_due_later_before(
    attempts: int, most: int, longest: float, jitter: float
) -> None:
    parked = refused(7, TOO_LARGE, attempts=attempts, most=most, longest=longest, jitter=jitter)
    assert parked.dead == (attempts >= most)
    assert (parked.delay is None) == parked.dead
    assert (parked.id, parked.attempts, parked.held_by) == (7, attempts, "")
    assert (parked.error, parked.code) == ("too large", 10054)
    if parked.delay is not None:
        assert 0 <= parked.delay <= longest


@given(st.integers(1, 20), jitters.filter(bool))
def test_the_ceiling_of_the_pause_doubles_from_a_second_to_the_longest(
    attempts: int, jitter: float
) -> None:
    parked = refused(1, TOO_LARGE, attempts=attempts, most=99, longest=30.0, jitter=jitter)
    ceilings = [1, 2, 4, 8, 16] + [30] * 15
    assert parked.delay == jitter * ceilings[attempts - 1]


@given(jitters)
def test_a_longest_pause_below_the_first_one_counts_at_once(jitter: float) -> None:
    parked = refused(1, TOO_LARGE, attempts=1, most=2, longest=RETRY_FIRST / 10, jitter=jitter)
    assert parked.delay is not None
    assert parked.delay <= RETRY_FIRST / 10


@given(st.integers(0, 100), st.floats(0, 30))
def test_an_outage_costs_no_attempt_however_often_it_is_met(attempts: int, pause: float) -> None:
    parked = held(3, FULL, attempts=attempts, pause=pause)
    assert (parked.attempts, parked.dead, parked.delay) == (attempts, False, pause)
    assert (parked.held_by, parked.error, parked.code) == (FULL.by, FULL.reason, FULL.code)


def test_who_waits_behind_an_earlier_event_has_no_time_of_its_own() -> None:
    parked = behind(4)
    assert (parked.attempts, parked.delay, parked.dead, parked.held_by) == (0, None, False, "")
