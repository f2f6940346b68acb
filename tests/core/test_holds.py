"""The book of outages of single streams, against a plain model of it."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from relay.core.holds import PATIENCE, RETRY_MOST, Holds

names = st.sampled_from(["stream A", "stream B", "permissions"])
steps = st.lists(
    st.tuples(
        st.sampled_from(["began", "still", "set_aside", "ended"]),
        names,
        st.floats(0, 2),  # seconds that pass before it
        st.floats(0, 1, exclude_max=True),
    ),
    max_size=40,
)


@dataclass
class Model:
    began: float
    closed_until: float
    aside: bool = False


@given(steps)
def test_the_book_says_what_lasts_what_may_be_tried_and_what_ended(
    steps: list[tuple[str, str, float, float]],
) -> None:
    holds, model, now = Holds(), dict[str, Model](), 0.0
    for what, by, passed, jitter in steps:
        now += passed
        if what == "began":
            assert holds.began(by, now) == (by not in model)
            model.setdefault(by, Model(now, now))
        elif what == "ended":
            known = model.pop(by, None)
            assert holds.ended(by, now) == (None if known is None else now - known.began)
        elif by in model and what == "still":
            pause = holds.still(by, now, jitter)
            assert 0 <= pause <= RETRY_MOST
            model[by].closed_until = now + pause
        elif by in model:
            holds.set_aside(by)
            model[by].aside = True
        assert holds.lasting(now) == {b for b, m in model.items() if now - m.began >= PATIENCE}
        closed = {b for b, m in model.items() if m.closed_until > now}
        assert set(holds.closed(now)) == closed
        assert set(holds.open(now)) == {b for b, m in model.items() if m.aside} - closed
        assert set(holds.in_hand()) == {b for b, m in model.items() if not m.aside}


def test_the_pauses_of_one_outage_grow_and_do_not_pass_the_longest() -> None:
    holds = Holds()
    holds.began("stream A", 0.0)
    pauses = [holds.still("stream A", 0.0, 0.999) for _ in range(12)]
    assert pauses == sorted(pauses)
    assert pauses[0] < pauses[-1] <= RETRY_MOST


def test_an_outage_that_begins_again_is_new() -> None:
    holds = Holds()
    holds.began("stream A", 0.0)
    for _ in range(12):
        holds.still("stream A", 0.0, 0.999)
    holds.set_aside("stream A")
    holds.ended("stream A", 50.0)
    assert holds.began("stream A", 60.0)
    assert holds.lasting(60.0) == set()
    assert holds.in_hand() == ["stream A"]
    assert holds.still("stream A", 60.0, 0.999) <= 0.1
