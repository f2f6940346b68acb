"""Page sizes: growth while full, and the bounds."""

from hypothesis import given
from hypothesis import strategies as st

from relay.core.pace import next_size

sizes = st.integers(1, 10_000)
counts = st.integers(0, 10_000)


def test_pages_double_while_they_come_back_full():
    size, seen = 100, []
    for _ in range(6):
        seen.append(size)
        size = next_size(size, found=size, full=True, first=100, most=2000)
    assert seen == [100, 200, 400, 800, 1600, 2000]


def test_a_page_that_is_not_full_keeps_the_size():
    assert next_size(1600, found=1, full=False, first=100, most=2000) == 1600


def test_an_empty_page_starts_again():
    assert next_size(1600, found=0, full=False, first=100, most=2000) == 100


@given(st.integers(0, 10**9), counts, st.booleans(), sizes, sizes)
def test_every_size_is_positive_and_within_the_most(size, found, full, first, most):
    assert 1 <= next_size(size, found=found, full=full, first=first, most=most) <= most


@given(sizes, sizes)
def test_a_lasting_backlog_reaches_the_most_within_fourteen_pages(first, most):
    size = min(first, most)
    for _ in range(14):
        size = next_size(size, found=size, full=True, first=first, most=most)
    assert size == most
