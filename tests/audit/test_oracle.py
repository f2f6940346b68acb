"""The judge, against streams that are wrong on purpose."""

import dataclasses
from contextlib import closing
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.audit import oracle
from relay.audit.oracle import Committed, Findings, Judge, StreamMessage, compare, digest
from relay.audit.shelf import Shelf

COMMITTED = [
    Committed("a1", "a", 1, digest(b"a1")),
    Committed("a2", "a", 2, digest(b"a2")),
    Committed("a4", "a", 4, digest(b"a4")),
    Committed("b1", "b", 1, digest(b"b1")),
    Committed("free", None, 1),
]


def stream(*ids, **changed):
    """A stream of these events; ``changed`` replaces fields of all messages."""
    messages = []
    for seq, event_id in enumerate(ids, start=1):
        key = None if event_id == "free" else event_id[0]
        message = StreamMessage(seq, event_id, key, digest(event_id.encode()))
        messages.append(message._replace(**changed))
    return messages


def test_a_right_stream_is_clean_whatever_the_order_between_keys():
    assert compare(COMMITTED, stream("b1", "a1", "free", "a2", "a4")) == Findings()
    assert compare(reversed(COMMITTED), stream("a1", "a2", "free", "a4", "b1")).is_clean


def test_nothing_against_nothing_is_clean():
    assert compare([], []).is_clean


def test_what_is_missing_is_lost():
    assert compare(COMMITTED, stream("a1", "a4", "free")) == Findings(lost=("a2", "b1"))


def test_each_further_copy_is_a_duplicate_and_no_disorder():
    verdict = compare(COMMITTED, stream("a1", "a2", "a1", "a4", "b1", "b1", "b1", "free"))
    assert verdict == Findings(duplicates=("a1", "b1", "b1"))


def test_what_nobody_committed_is_a_phantom_each_time():
    verdict = compare(COMMITTED, stream("a1", "x1", "a2", "x1", "a4", "b1", "free"))
    assert verdict == Findings(phantoms=("x1", "x1"))


def test_a_later_event_of_the_key_that_came_first_makes_the_earlier_ones_reordered():
    verdict = compare(COMMITTED, stream("a4", "a1", "b1", "a2", "free"))
    assert verdict == Findings(reordered=("a1", "a2"))


def test_another_payload_or_another_key_is_corrupt():
    ids = ("a1", "a2", "a4", "b1")
    rest = stream("free")
    assert compare(COMMITTED, stream(*ids, digest="?") + rest) == Findings(corrupt=ids)
    assert compare(COMMITTED, stream(*ids, key="c") + rest) == Findings(corrupt=ids)
    assert compare(COMMITTED, stream(*ids) + stream("free", key="a")) == Findings(corrupt=("free",))


def test_a_payload_without_a_digest_is_not_compared():
    assert compare([Committed("a1", "a", 1)], stream("a1", digest="anything")).is_clean


def test_the_verdict_counts_and_names_what_is_wrong():
    text = str(compare([Committed(str(n), None, n) for n in range(5)], []))
    assert text.startswith("lost 5 (0, 1, 2, …), duplicates 0,")


KEYED = st.lists(st.sampled_from("abc"), min_size=1, max_size=30).map(
    lambda keys: [Committed(f"{key}{n}", key, n, digest(b"")) for n, key in enumerate(keys)]
)


@given(committed=KEYED, chance=st.randoms(use_true_random=False))
def test_one_fault_put_into_any_stream_is_found_as_itself(committed, chance):
    right = [StreamMessage(0, event.event_id, event.key, digest(b"")) for event in committed]
    at = chance.randrange(len(right))
    hurt = right[at]
    assert compare(committed, right).is_clean
    faults = {
        "lost": right[:at] + right[at + 1 :],
        "duplicates": [*right, hurt],
        "phantoms": [*right[:at], hurt._replace(event_id="nobody's"), *right[at:]],
        "corrupt": [*right[:at], hurt._replace(digest="?"), *right[at + 1 :]],
    }
    earlier = [n for n in range(at) if right[n].key == hurt.key]
    if earlier:
        faults["reordered"] = [hurt, *right[:at], *right[at + 1 :]]
    for name, wrong in faults.items():
        found = {key for key, ids in dataclasses.asdict(compare(committed, wrong)).items() if ids}
        assert found == {name}


@pytest.mark.parametrize("payload", [b"", b"{}", "ü".encode()])
def test_a_digest_tells_payloads_apart(payload):
    assert digest(payload) == digest(bytes(payload))
    assert digest(payload) != digest(payload + b" ")


@given(
    committed=KEYED,
    chance=st.randoms(use_true_random=False),
    most=st.integers(1, 6),
    ahead=st.integers(0, 9),
)
def test_a_judge_with_a_small_memory_says_the_same(committed, chance, most, ahead):
    messages = [
        StreamMessage(0, event.event_id, event.key, digest(b"" if chance.random() > 0.1 else b"?"))
        for event in chance.choices([*committed, *[Committed("x", "a", 0)]], k=40)
    ]
    stream = [message._replace(seq=seq) for seq, message in enumerate(messages, start=1)]
    findings = []
    with closing(Shelf()) as shelf:
        with pytest.MonkeyPatch.context() as patch:
            for name in ("_MOST_ROWS", "_MOST_KEYS", "_MOST_RECENT"):
                patch.setattr(oracle, name, most)
            judge = Judge(findings.append, shelf=shelf)
        rows = iter(committed)
        for first in range(0, len(stream), 7):
            chunk = stream[first : first + 7]
            judge.expect(islice(rows, ahead))
            while judge.lacks(chunk):
                row = next(rows, None)
                if row is None:
                    break
                judge.expect([row])
            judge.judge(chunk)
            for message in judge.conclude() if chance.random() < 0.5 else ():
                judge.phantom(message)
        judge.expect(rows)
        for message in judge.conclude():
            judge.phantom(message)
        for event in list(judge.waiting()):
            judge.lose(event)
        assert judge.waits_for == 0
    for kind, ids in dataclasses.asdict(Findings.of(findings)).items():
        expected = getattr(compare(committed, stream), kind)
        # of an old copy only its number is kept, not what it should have held
        near = set(ids) <= set(expected) if kind == "corrupt" else sorted(ids) == sorted(expected)
        assert near, kind


def test_an_inversion_without_turns_needs_a_proof():
    def found(first, second, *, serial=False):
        findings = []
        judge = Judge(findings.append, serial=serial)
        judge.expect([first, second])
        judge.judge(
            [StreamMessage(seq, e.event_id, "k", None) for seq, e in ((1, second), (2, first))]
        )
        return [(each.kind, each.event_id) for each in findings], judge.unordered

    early = Committed("early", "k", 1, transaction=7, written_at=1.0)
    late = Committed("late", "k", 2, transaction=8, written_at=2.0)
    assert found(early, late) == ([], 1)
    assert found(early, late, serial=True) == ([("reordered", "early")], 0)
    assert found(early, late._replace(transaction=7)) == ([("reordered", "early")], 0)
    assert found(early._replace(committed_at=1.9), late) == ([("reordered", "early")], 0)
    assert found(early._replace(committed_at=2.1), late) == ([], 1)
