"""The ledger of holds, against a plain model of it."""
# R-FATE

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from relay.core.holds import PATIENCE, PAUSE_AFTER_SLOW_MOST, PAUSE_MOST, PAUSE_PUZZLED_MOST, Holds

names = st.sampled_from(["stream A", "stream B", "forbidden subjects"])
steps = st.lists(
    st.tuples(
        st.sampled_from(["held", "progress", "set_aside", "ended"]),
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
def test_the_ledger_says_what_lasts_what_may_be_asked_and_what_ended(
    steps: list[tuple[str, str, float, float]],
) -> None:
    holds, model, now = Holds(), dict[str, Model](), 0.0
    for what, by, passed, jitter in steps:
        now += passed
        if what == "held":
            assert holds.held(by, now, jitter) == (by not in model)
            model.setdefault(by, Model(now, now))
            assert 0 <= holds.pause(by, now) <= PAUSE_MOST
            model[by].closed_until = now + holds.pause(by, now)
        elif what == "ended":
            known = model.pop(by, None)
            assert holds.ended(by, now) == (None if known is None else now - known.began)
        elif what == "progress":
            holds.progress(by, now)
            if by in model:
                model[by].closed_until = now
        elif by in model:
            holds.set_aside(by)
            model[by].aside = True
        assert (by in holds) == (by in model)
        lasting = {b for b, m in model.items() if m.aside or now - m.began >= PATIENCE}
        assert holds.lasting(now) == lasting
        closed = {b for b, m in model.items() if m.closed_until > now}
        aside = {b for b, m in model.items() if m.aside}
        assert holds.closed(now) - closed <= {b for b in model if holds.pause(b, now) < 1e-9}
        assert closed - holds.closed(now) <= {
            b for b in model if model[b].closed_until - now < 1e-9
        }
        assert holds.aside() == aside
        assert holds.askable(now) == bool(aside - holds.closed(now))
        assert set(holds.in_hand()) == model.keys() - aside


def test_the_pauses_of_one_hold_grow_and_do_not_pass_the_longest() -> None:
    holds = Holds()
    pauses = []
    for _ in range(12):
        holds.held("stream A", 0.0, 0.999)
        pauses.append(holds.pause("stream A", 0.0))
    assert pauses == sorted(pauses)
    assert pauses[0] < pauses[-1] <= PAUSE_MOST


def test_an_error_that_nobody_knows_is_asked_about_ever_more_seldom() -> None:
    holds = Holds()
    for _ in range(12):
        holds.held("error 12345", 0.0, 0.999)
    assert PAUSE_MOST < holds.pause("error 12345", 0.0) <= PAUSE_PUZZLED_MOST


@given(st.floats(0, 100))
def test_a_question_that_took_long_is_followed_by_a_pause_as_long(took: float) -> None:
    holds = Holds()
    holds.held("stream A", 10.0, 0.0, took=took)
    assert abs(holds.pause("stream A", 10.0) - min(took, PAUSE_AFTER_SLOW_MOST)) < 1e-9


def test_a_hold_that_begins_again_is_new() -> None:
    holds = Holds()
    for _ in range(12):
        holds.held("stream A", 0.0, 0.999)
    holds.set_aside("stream A")
    holds.ended("stream A", 50.0)
    assert holds.held("stream A", 60.0, 0.999)
    assert holds.lasting(60.0) == set()
    assert holds.in_hand() == ["stream A"]
    assert holds.pause("stream A", 60.0) <= 0.1
