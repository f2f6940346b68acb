from hypothesis import given
from hypothesis import strategies as st

from relay.core.ordering import KeyOrder

KEYS = st.lists(st.one_of(st.none(), st.sampled_from("abc")), max_size=30)
ANSWERS = st.sampled_from(["stored", "refused", "unknown"])


@given(KEYS, st.data())
def test_every_event_is_sent_after_its_keys_predecessor_or_never(keys, data):
    order = KeyOrder(keys)
    sent, done, never, in_flight = [], {}, set(), []
    while order.ready or in_flight:
        if order.ready and (not in_flight or data.draw(st.booleans())):
            place = order.ready.popleft()
            sent.append(place)
            in_flight.append(place)
            continue
        place = in_flight.pop(data.draw(st.integers(0, len(in_flight) - 1)))
        done[place] = data.draw(ANSWERS)
        if done[place] == "unknown":
            never.update(order.block(place))
        else:
            order.release(place)
        keys_in_flight = [keys[p] for p in in_flight if keys[p] is not None]
        assert len(keys_in_flight) == len(set(keys_in_flight))
    assert len(sent) == len(set(sent))
    assert set(sent) | never == set(range(len(keys)))
    assert not set(sent) & never
    for key in {k for k in keys if k is not None}:
        chain = [place for place, k in enumerate(keys) if k == key]
        assert [p for p in sent if keys[p] == key] == [p for p in chain if p not in never]
        for place in never & set(chain):
            assert any(done.get(before) == "unknown" for before in chain if before < place)


def test_events_without_a_key_are_all_ready_at_once():
    assert list(KeyOrder([None, "a", None, "a"]).ready) == [0, 1, 2]


def test_a_released_event_makes_only_its_keys_next_one_ready():
    order = KeyOrder(["a", "b", "a", "a"])
    order.ready.clear()
    order.release(0)
    assert list(order.ready) == [2]


def test_a_blocked_key_gives_back_all_that_it_holds_up():
    assert KeyOrder(["a", "b", "a", "a"]).block(0) == [2, 3]
