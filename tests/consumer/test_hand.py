"""The floor: what it knows, and what may be forgotten."""

import gc
import random
import weakref
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.consumer.message import Delivery, Hand, Message, read, read_headers
from relay.jetstream.parser import Message as StoredMessage
from relay.jetstream.parser import Parser

# R-ONCE R-LOSS
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def delivery(sequence: int, *, later: float = 0.0) -> Delivery:
    stored_at = BEGAN + timedelta(seconds=sequence + later)
    message = Message(f"m{sequence}", "a.b", None, {}, b"", "S", sequence, stored_at)
    return Delivery(message)


@given(st.permutations(range(1, 12)))
def test_the_floor_is_below_all_that_is_not_done(order: list[int]) -> None:
    hand = Hand(0, BEGAN)
    held = {number: hand.add(delivery(number)) for number in range(1, 12)}
    for number in order:
        hand.done(held[number])
        left = [each.message.sequence for each in hand.held.values()]
        assert hand.position == min(left, default=12) - 1
        assert all(not hand.knows(delivery(each).message) for each in left)


def test_the_same_sequence_of_a_stream_that_was_made_anew_is_not_known() -> None:
    hand = Hand(100, BEGAN + timedelta(seconds=100))
    assert hand.knows(delivery(100).message)
    assert not hand.knows(delivery(101).message)
    again = delivery(1, later=1000)
    assert not hand.knows(again.message)
    hand.done(hand.add(again))
    assert (hand.position, hand.position_at) == (1, again.message.stored_at)


def test_a_repeated_delivery_moves_no_floor() -> None:
    hand = Hand(0, BEGAN)
    first, second = hand.add(delivery(1)), hand.add(delivery(2))
    repeated = hand.add(delivery(1))
    hand.done(second)
    hand.done(repeated)
    assert hand.position == 0
    hand.done(first)
    assert hand.position == 2


@given(st.randoms(use_true_random=False))
@settings(max_examples=30)
def test_the_floor_is_exact_and_few_places_are_kept_while_old_ones_are_not_done(
    chance: random.Random,
) -> None:
    now = [0.0]
    hand = Hand(0, BEGAN, now=lambda: now[0])
    hand.caught_up, held = True, dict[int, Delivery]()
    for number in range(1, 1500):
        held[number] = hand.add(delivery(number))
        while len(held) > 20:
            # Some stay for long: those that can be divided by 97.
            quick = [each for each in held if each % 97] or list(held)
            chosen = chance.choice(quick)
            hand.done(held.pop(chosen))
            assert hand.position == min(held) - 1
        assert len(hand._in_order) <= 4 * len(held) + 101
    assert hand.settled_for() is None  # marked now
    now[0] = 5.0
    for number in sorted(held):
        hand.done(held[number])
    assert (hand.position, hand.settled_for()) == (1499, 5.0)


class Headers(dict[str, str]):
    """Headers that can be watched."""


def test_a_message_leaves_the_memory_when_it_is_done() -> None:
    hand = Hand(0, BEGAN)
    hand.add(delivery(1))
    headers = Headers()
    message = Message("m2", "a.b", None, headers, b"", "S", 2, BEGAN + timedelta(seconds=2))
    there = weakref.ref(headers)
    hand.done(hand.add(Delivery(message)))
    del headers, message
    gc.collect()
    assert there() is None
    assert hand.position == 0


def test_nothing_may_be_forgotten_before_all_that_was_there_then_is_done() -> None:
    now = [0.0]
    hand = Hand(0, BEGAN, now=lambda: now[0])
    assert hand.settled_for() is None
    hand.caught_up = True
    first = hand.add(delivery(1))
    assert hand.settled_for() is None  # marked at 0
    now[0] = 50.0
    second = hand.add(delivery(2))
    hand.done(first)
    now[0] = 60.0
    assert hand.settled_for() == 60.0
    assert hand.settled_for() == 60.0  # the next mark waits for the second one
    now[0] = 100.0
    hand.done(second)
    assert hand.settled_for() == 40.0


@given(st.binary(), st.binary(), st.binary(), st.integers(0, 10**40))
def test_reading_what_anybody_sent_never_raises(
    subject: bytes, payload: bytes, headers: bytes, at_ns: int
) -> None:
    read(StoredMessage(1, at_ns, subject, headers, payload), "S")
    read_headers(headers)


async def read_delivery(ack: bytes) -> tuple[Message, bytes, int]:
    taken = []
    parser = Parser(lambda *_: None, None)
    parser.deliver_to(lambda *delivery: taken.append(delivery), "c")
    await parser.parse(b"MSG a.b 1 %b 1\r\nx\r\n" % ack)
    (((message,), number, _, _),) = taken
    return read(message, "S"), message.ack, number


@pytest.mark.anyio
async def test_an_acknowledgement_s_subject_is_read_in_both_forms() -> None:
    short = b"$JS.ACK.S.c.1.7.3.1700000000123456789.5"
    long_ = b"$JS.ACK.hub.HASH.S.c.1.7.3.1700000000123456789.5"
    message, ack, number = await read_delivery(short)
    assert (message, long_, number) == await read_delivery(long_)
    assert (message.stream, message.sequence, number, ack) == ("S", 7, 3, short)
    assert message.stored_at == datetime(2023, 11, 14, 22, 13, 20, 123456, tzinfo=UTC)
