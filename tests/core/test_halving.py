"""One event that cuts the connection is found, whatever its place, and nobody else is."""
# R-FATE

from hypothesis import given
from hypothesis import strategies as st

from relay.core.pace import CUTS_ALONE, Halving


def deliver(events: int, bad: set[int], chance_cuts: list[bool]) -> tuple[list[int], int]:
    """Send all, in order; return whom it parks, and how many calls it took."""
    halving, parked, calls = Halving(), list[int](), 0
    left = list(range(events))
    while left:
        sent = left[: halving.size(len(left))]
        calls += 1
        cut = bool(bad & set(sent)) or (chance_cuts.pop() if chance_cuts else False)
        if not cut:
            halving.answered()
            left = left[len(sent) :]
        elif halving.cut(len(sent)):
            halving.answered()
            parked.append(left.pop(0))
    return parked, calls


@given(st.integers(1, 2000), st.data())
def test_those_at_fault_are_found_and_only_they(events: int, data: st.DataObject) -> None:
    bad = data.draw(st.sets(st.integers(0, events - 1), max_size=3))
    parked, calls = deliver(events, bad, [])
    assert parked == sorted(bad)
    assert calls <= 1 + (1 + len(bad)) * 100


@given(st.integers(1, 2000), st.lists(st.booleans(), max_size=2))
def test_two_cuts_by_chance_park_nobody(events: int, cuts: list[bool]) -> None:
    assert deliver(events, set(), cuts)[0] == []


def test_one_that_cuts_alone_is_tried_thrice() -> None:
    halving = Halving()
    assert [halving.cut(1) for _ in range(CUTS_ALONE)] == [False, False, True]
