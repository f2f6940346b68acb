"""Order per key: what may be sent, and what waits."""
# R-ORDER

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from relay.core.event import Event
from relay.core.order import WAITS, KeyChains, KeyFence, put_behind
from relay.core.outcome import Held, Refused, Stored, Unknown

AT = datetime(2026, 3, 14, tzinfo=UTC)
KEYS = st.lists(st.one_of(st.none(), st.sampled_from("abc")), max_size=30)
ANSWERS = st.sampled_from(["stored", "refused", "held", "unknown"])
STORED = Stored("S")
NOT_STORED = (Refused("no"), Held("stream S", "full"), Unknown("no answer"))


@given(KEYS, st.data())
def test_every_event_is_sent_after_its_keys_predecessor_or_never(keys, data):
    order = KeyChains(keys)
    sent, done, never, in_flight = [], {}, set(), []
    while order.ready or in_flight:
        if order.ready and (not in_flight or data.draw(st.booleans())):
            place = order.ready.popleft()
            sent.append(place)
            in_flight.append(place)
            continue
        place = in_flight.pop(data.draw(st.integers(0, len(in_flight) - 1)))
        done[place] = data.draw(ANSWERS)
        if done[place] == "stored":
            order.release(place)
        else:
            never.update(order.block(place))
        keys_in_flight = [keys[p] for p in in_flight if keys[p] is not None]
        assert len(keys_in_flight) == len(set(keys_in_flight))
    assert len(sent) == len(set(sent))
    assert set(sent) | never == set(range(len(keys)))
    assert not set(sent) & never
    for key in {k for k in keys if k is not None}:
        chain = [place for place, k in enumerate(keys) if k == key]
        assert [p for p in sent if keys[p] == key] == [p for p in chain if p not in never]
        for place in never & set(chain):
            assert any(done.get(before, "stored") != "stored" for before in chain if before < place)


def test_events_without_a_key_are_all_ready_at_once():
    assert list(KeyChains([None, "a", None, "a"]).ready) == [0, 1, 2]


def test_a_released_event_makes_only_its_keys_next_one_ready():
    order = KeyChains(["a", "b", "a", "a"])
    order.ready.clear()
    order.release(0)
    assert list(order.ready) == [2]


def test_a_blocked_key_gives_back_all_that_it_holds_up():
    assert KeyChains(["a", "b", "a", "a"]).block(0) == [2, 3]


@given(st.lists(st.tuples(st.one_of(st.none(), st.sampled_from("abc")), st.integers(0, 3))))
def test_what_stands_behind_an_event_that_was_not_stored_waits_for_it(drawn):
    keys = [key for key, _ in drawn]
    events = [Event(n, "e", "m", "s", key, AT, None, b"") for n, key in enumerate(keys)]
    before = [(STORED, *NOT_STORED)[which] for _, which in drawn]
    after = list(before)
    put_behind(events, after)
    stuck = set()
    for key, was, now in zip(keys, before, after, strict=True):
        if was is STORED or key is None:
            assert now is was
        else:
            assert now is (WAITS if key in stuck else was)
            stuck.add(key)


@given(KEYS, st.sets(st.sampled_from("abc")))
def test_a_fence_lets_pass_what_has_no_closed_key_and_keeps_the_order(keys, closed):
    events = [Event(n, "e", "m", "s", key, AT, None, b"") for n, key in enumerate(keys)]
    fence = KeyFence(closed)
    fence.close(None)
    assert bool(fence) == bool(closed)
    passing, waiting = fence.split(events)
    assert passing == [event for event in events if event.key not in closed]
    assert waiting == [event for event in events if event.key in closed]


@given(st.lists(st.tuples(st.one_of(st.none(), st.sampled_from("abc")), st.integers(0, 3))))
def test_a_fence_closes_the_keys_of_all_that_was_not_stored(drawn):
    events = [Event(n, "e", "m", "s", key, AT, None, b"") for n, (key, _) in enumerate(drawn)]
    outcomes = [(STORED, *NOT_STORED)[which] for _, which in drawn]
    fence = KeyFence()
    fence.note(events, outcomes)
    for key in "abc":
        assert fence.passes(key) == all(which == 0 for k, which in drawn if k == key)
    assert fence.passes(None)
