"""What outcomes mean for their events: every mixture that a bus may answer, pauses, death."""
# R-FATE, R-ORDER

from collections import Counter
from collections.abc import Collection, Sequence
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from relay.core.disposition import (
    PUZZLED_AFTER,
    REASON_LONGEST,
    RETRY_FIRST,
    UNCAPTURED_LEAST,
    Fates,
    Limits,
    all_stored,
    behind,
    cleaned,
    held,
    refused,
)
from relay.core.disposition import sort as sort_page
from relay.core.event import Event
from relay.core.order import WAITS, KeyFence
from relay.core.outcome import Fault, Held, Outcome, Refused, Stored, Unknown

WRITTEN_AT = datetime(2026, 1, 1, tzinfo=UTC)
LIMITS = Limits(max_attempts=3, max_retry_delay=30.0)
TOO_LARGE = Refused("too large", 10054)
FULL = Held("stream ORDERS", "the stream is full", 10077)

holds = st.builds(Held, st.sampled_from(["stream A", "stream B"]), st.just("full"))
outcomes = st.one_of(
    st.builds(Stored, duplicate=st.sampled_from([True, False, None])),
    st.just(Refused("too large", 10054)),
    st.builds(Unknown, st.just("no answer"), st.sampled_from([0, 10158])),
    holds,
)


def event(id_: int, key: str | None) -> Event:
    return Event(id_, f"e{id_}", f"e{id_}", "a.b", key, WRITTEN_AT, None, b"")


def sort(
    events: Sequence[Event],
    outcomes: Sequence[Outcome],
    limits: Limits = LIMITS,
    *,
    tries: int = 1,
    aside: Collection[str] = (),
    jitter: float = 0.5,
) -> Fates:
    fence = KeyFence()
    return sort_page(events, outcomes, limits, fence=fence, tries=tries, aside=aside, jitter=jitter)


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


aside = st.sets(st.sampled_from(["stream A", "stream B"]))
PUZZLED = {"error 10158", "error unanswered"}
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
            assert each.held_by in (aside | PUZZLED if tries >= PUZZLED_AFTER else aside)
            assert each.delay == 0
    assert [its.id for its, *_ in fates.refused] == [p.id for p in fates.parkings if p.attempts]


@given(answers(), tries, jitters)
def test_nothing_but_a_refusal_or_a_riddle_parks_while_no_outage_lasts(
    answer: tuple[list[Event], list[Outcome]], tries: int, jitter: float
) -> None:
    events, answered = answer
    fates = sort(events, answered, LIMITS, tries=tries, aside=(), jitter=jitter)
    refused = sum(isinstance(outcome, Refused) for outcome in answered)
    assert sum(each.attempts for each in fates.parkings) == refused == len(fates.refused)
    assert {each.held_by for each in fates.parkings} - {""} <= (
        PUZZLED if tries >= PUZZLED_AFTER else set()
    )
    met = [outcome.by for outcome in answered if isinstance(outcome, Held)]
    if tries < PUZZLED_AFTER:
        assert list(fates.held) == list(dict.fromkeys(met))


def one(outcome: Outcome, *, tries: int = 1, aside: Sequence[str] = ()) -> tuple[int, int, str]:
    """How many are parked and left of one event, and why."""
    fates = sort([event(1, "a")], [outcome], LIMITS, tries=tries, aside=aside, jitter=0.5)
    return len(fates.parkings), len(fates.left), fates.why


def test_an_outage_keeps_its_events_in_hand_until_they_are_set_aside() -> None:
    assert one(Held("stream A", "full"), aside=["stream A"]) == (1, 0, "")
    assert one(Held("stream A", "full"), aside=["stream B"]) == (0, 1, "")


@given(st.sampled_from([0, 12345]))
def test_what_gets_no_clear_answer_is_set_aside_after_a_few_tries(code: int) -> None:
    odd = Unknown("something new", code)
    assert one(odd, tries=PUZZLED_AFTER - 1) == (0, 1, "something new")
    assert one(odd, tries=PUZZLED_AFTER) == (1, 0, "")


def test_an_event_that_waits_for_its_key_is_never_a_riddle() -> None:
    assert one(WAITS, tries=1000) == (0, 1, WAITS.reason)


@given(answers(), st.sets(st.sampled_from(["a", "b"])))
def test_nothing_passes_a_key_that_was_closed_before(
    answer: tuple[list[Event], list[Outcome]], closed: set[str]
) -> None:
    events, answered = answer
    pairs = [(e, o) for e, o in zip(events, answered, strict=True) if not isinstance(o, Stored)]
    fence = KeyFence(closed)
    fates = sort_page(
        [e for e, _ in pairs],
        [o for _, o in pairs],
        LIMITS,
        fence=fence,
        tries=1,
        aside=(),
        jitter=0.5,
    )
    behind_them = {e.id for e, _ in pairs if e.key in closed}
    assert behind_them <= {each.id for each in fates.parkings if each.delay is None}
    assert not {each.id for each in fates.left} & behind_them
    keys = {e.id: e.key for e, _ in pairs}
    assert all(not fence.passes(keys[each.id]) for each in fates.parkings if keys[each.id])


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


@given(
    st.lists(
        st.builds(Stored, duplicate=st.sampled_from([True, False, None]), unverified=st.booleans()),
        min_size=1,
    )
)
def test_the_quick_way_agrees_with_the_slow_one(answered: list[Stored]) -> None:
    events = [event(id_, None) for id_ in range(len(answered))]
    assert all_stored(answered) == sort(events, answered)


@given(answers())
def test_the_quick_way_is_for_the_common_answer_only(
    answer: tuple[list[Event], list[Outcome]],
) -> None:
    events, answered = answer
    common = bool(events) and all(isinstance(outcome, Stored) for outcome in answered)
    assert (all_stored(answered) is not None) == common


attempts_made = st.integers(1, 2000)


@given(attempts_made, st.integers(1, 50), st.floats(0.01, 3600), jitters)
def test_a_refused_event_is_dead_from_the_last_attempt_on_and_due_later_before(
    attempts: int, most: int, longest: float, jitter: float
) -> None:
    limits = Limits(most, longest)
    parked = refused(
        event(7, "k"), TOO_LARGE, attempts=attempts, age=0.0, limits=limits, jitter=jitter
    )
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
    parked = refused(
        event(1, "k"), TOO_LARGE, attempts=attempts, age=0.0, limits=Limits(99, 30.0), jitter=jitter
    )
    ceilings = [1, 2, 4, 8, 16] + [30] * 15
    assert parked.delay == jitter * ceilings[attempts - 1]


@given(jitters)
def test_a_longest_pause_below_the_first_one_counts_at_once(jitter: float) -> None:
    parked = refused(
        event(1, "k"),
        TOO_LARGE,
        attempts=1,
        age=0.0,
        limits=Limits(2, RETRY_FIRST / 10),
        jitter=jitter,
    )
    assert parked.delay is not None
    assert parked.delay <= RETRY_FIRST / 10


@given(st.integers(0, 100), st.floats(0, 30))
def test_an_outage_costs_no_attempt_however_often_it_is_met(attempts: int, pause: float) -> None:
    parked = held(event(3, "k"), FULL, attempts=attempts, pause=pause)
    assert (parked.attempts, parked.dead, parked.delay) == (attempts, False, pause)
    assert (parked.held_by, parked.error, parked.code) == (FULL.by, FULL.reason, FULL.code)


def test_who_waits_behind_an_earlier_event_has_no_time_of_its_own() -> None:
    parked = behind(event(4, "k"))
    assert (parked.attempts, parked.delay, parked.dead, parked.held_by) == (0, None, False, "")


@given(attempts_made, st.floats(0, 10 * UNCAPTURED_LEAST), jitters)
def test_no_event_dies_for_want_of_a_stream_before_ten_minutes(
    attempts: int, age: float, jitter: float
) -> None:
    uncaptured = Refused("no stream captures a.b", fault=Fault.UNCAPTURED)
    limits = Limits(5, 30.0)
    parked = refused(
        event(1, "k"), uncaptured, attempts=attempts, age=age, limits=limits, jitter=jitter
    )
    assert parked.dead == (attempts >= 5 and age >= 600)
    assert (parked.delay is None) == parked.dead


@given(attempts_made, jitters)
def test_a_collision_is_dead_at_once(attempts: int, jitter: float) -> None:
    collision = Refused("stored as ORDERS#7", fault=Fault.COLLISION)
    limits = Limits(1000, 30.0)
    parked = refused(
        event(1, "k"), collision, attempts=attempts, age=0.0, limits=limits, jitter=jitter
    )
    assert parked.dead


@given(st.text(st.characters(codec=None, exclude_categories=()), max_size=3000))
def test_a_text_from_outside_is_one_that_the_database_keeps(text: str) -> None:
    kept = cleaned(text)
    kept.encode()
    assert "\0" not in kept
    assert len(kept) <= REASON_LONGEST
    if "\0" not in text and not any("\ud800" <= c <= "\udfff" for c in text):
        assert text.startswith(kept.removesuffix("…")) or kept == text
