"""What one call's outcomes mean for its events: every mixture that a bus may answer."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from relay.core.event import Event
from relay.core.fates import PUZZLED_AFTER, Limits, all_stored, sort
from relay.core.outcome import Held, Outcome, Refused, Stored, Unknown

WRITTEN_AT = datetime(2026, 1, 1, tzinfo=UTC)
LIMITS = Limits(max_attempts=3, max_retry_delay=30.0)
WAITS = Unknown("waits for an earlier event of its key")

holds = st.builds(
    Held, st.sampled_from(["stream A", "stream B"]), st.just("full"), alone=st.booleans()
)
outcomes = st.one_of(
    st.builds(Stored, duplicate=st.sampled_from([True, False, None])),
    st.just(Refused("too large", 10054)),
    st.builds(Unknown, st.just("no answer"), st.sampled_from([0, 10158])),
    holds,
)


def event(id_: int, key: str | None) -> Event:
    return Event(id_, f"e{id_}", f"e{id_}", "a.b", key, WRITTEN_AT, None, b"")


@st.composite
def answers(draw: st.DrawFn) -> tuple[list[Event], list[Outcome]]:
    """A page and a bus's answer to it: behind the first of a key that is not stored, none is."""
    keys = draw(st.lists(st.sampled_from(["a", "b", None]), max_size=12))
    events = [event(id_, key) for id_, key in enumerate(keys, 1)]
    answer: list[Outcome] = []
    stopped: set[str] = set()
    for each in events:
        behind = each.key in stopped
        outcome = draw(st.one_of(st.just(WAITS), holds)) if behind else draw(outcomes)
        answer.append(outcome)
        if each.key is not None and not isinstance(outcome, Stored):
            stopped.add(each.key)
    return events, answer


aside = st.sets(st.sampled_from(["stream A", "stream B", "error 10158"]))
tries = st.integers(1, 2 * PUZZLED_AFTER)
jitters = st.floats(0, 1, exclude_max=True)


@given(answers(), aside, tries, jitters)
def test_every_event_is_stored_or_parked_or_left_and_no_key_is_torn(
    answer: tuple[list[Event], list[Outcome]], aside: set[str], tries: int, jitter: float
) -> None:
    events, answered = answer
    fates = sort(events, answered, LIMITS, tries=tries, aside=aside, jitter=jitter)
    parked = [each.id for each in fates.parkings]
    left = [each.id for each in fates.left]
    stored = [e.id for e, outcome in zip(events, answered, strict=True) if type(outcome) is Stored]
    assert Counter(stored + parked + left) == Counter(each.id for each in events)
    assert fates.stored == len(stored)
    assert fates.duplicates == sum(o.duplicate is True for o in answered if type(o) is Stored)
    assert parked == sorted(parked)
    assert left == sorted(left)
    keys = {each.id: each.key for each in events}
    assert {keys[id_] for id_ in parked} & {keys[id_] for id_ in left} <= {None}


@given(answers(), aside, tries, jitters)
def test_only_the_first_of_a_key_is_judged_and_the_others_queue_behind_it(
    answer: tuple[list[Event], list[Outcome]], aside: set[str], tries: int, jitter: float
) -> None:
    events, answered = answer
    fates = sort(events, answered, LIMITS, tries=tries, aside=aside, jitter=jitter)
    by_id = dict(zip((each.id for each in events), zip(events, answered, strict=True), strict=True))
    seen: set[str] = set()
    for each in fates.parkings:
        its, outcome = by_id[each.id]
        if its.key in seen:
            assert (each.delay, each.attempts, each.held_by) == (None, 0, "")
            continue
        if its.key is not None:
            seen.add(its.key)
        assert each.delay is not None
        assert each.attempts == (1 if isinstance(outcome, Refused) else 0)
        assert not each.dead
        if each.attempts == 0:
            assert each.held_by in aside
            assert each.delay == 0
    assert [its.id for its, _ in fates.refused] == [p.id for p in fates.parkings if p.attempts]


@given(answers(), tries, jitters)
def test_nothing_but_a_refusal_parks_while_no_outage_lasts(
    answer: tuple[list[Event], list[Outcome]], tries: int, jitter: float
) -> None:
    events, answered = answer
    fates = sort(events, answered, LIMITS, tries=tries, aside=(), jitter=jitter)
    refused = sum(isinstance(outcome, Refused) for outcome in answered)
    assert sum(each.attempts for each in fates.parkings) == refused == len(fates.refused)
    assert not any(each.held_by for each in fates.parkings)
    met = [outcome.by for outcome in answered if isinstance(outcome, Held)]
    if tries < PUZZLED_AFTER:
        assert list(fates.held) == list(dict.fromkeys(met))


def one(outcome: Outcome, *, tries: int = 1, aside: Sequence[str] = ()) -> tuple[int, int, str]:
    """How many are parked and left of one event, and why."""
    fates = sort([event(1, "a")], [outcome], LIMITS, tries=tries, aside=aside, jitter=0.5)
    return len(fates.parkings), len(fates.left), fates.why


def test_an_outage_that_holds_up_all_there_is_keeps_its_events_in_hand() -> None:
    assert one(Held("stream A", "full"), aside=["stream A"]) == (1, 0, "")
    assert one(Held("stream A", "full", alone=True), aside=["stream A"]) == (0, 1, "")
    assert one(Held("stream A", "full"), aside=["stream B"]) == (0, 1, "")


def test_an_answer_that_we_do_not_know_counts_as_an_outage_after_a_few_tries() -> None:
    odd = Unknown("something new", 12345)
    assert one(odd, tries=PUZZLED_AFTER - 1, aside=["error 12345"]) == (0, 1, "something new")
    assert one(odd, tries=PUZZLED_AFTER) == (0, 1, "")
    assert one(odd, tries=PUZZLED_AFTER, aside=["error 12345"]) == (1, 0, "")


def test_no_answer_at_all_is_never_more_than_that() -> None:
    assert one(Unknown("no answer"), tries=1000, aside=["error 0"]) == (0, 1, "no answer")


def test_the_last_attempt_allowed_makes_an_event_dead_at_once() -> None:
    fates = sort(
        [event(1, "a"), event(2, "a")],
        [Refused("too large"), WAITS],
        Limits(max_attempts=1, max_retry_delay=30.0),
        tries=1,
        aside=(),
        jitter=0.5,
    )
    assert [(each.id, each.dead, each.delay) for each in fates.parkings] == [
        (1, True, None),
        (2, False, None),
    ]


@given(st.lists(st.builds(Stored, duplicate=st.sampled_from([True, False, None])), min_size=1))
def test_the_quick_way_agrees_with_the_slow_one(answered: list[Stored]) -> None:
    events = [event(id_, None) for id_ in range(len(answered))]
    assert all_stored(answered) == sort(events, answered, LIMITS, tries=1, aside=(), jitter=0.5)


@given(answers())
def test_the_quick_way_is_for_the_common_answer_only(
    answer: tuple[list[Event], list[Outcome]],
) -> None:
    events, answered = answer
    common = bool(events) and all(isinstance(outcome, Stored) for outcome in answered)
    assert (all_stored(answered) is not None) == common
