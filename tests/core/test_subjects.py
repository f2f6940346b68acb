import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.subjects import fault_of, matches

TOKEN = st.sampled_from(["a", "b", "order", "ab"])
LITERAL = st.lists(TOKEN, min_size=1, max_size=5).map(".".join)
PATTERN = st.tuples(
    st.lists(st.one_of(TOKEN, st.just("*")), max_size=4), st.sampled_from(["", ">", "a", "*"])
).map(lambda parts: ".".join([*parts[0], parts[1] or "b"]))


def naive(pattern, subject):
    """The same question asked backwards: every literal the pattern can produce at that length."""
    tokens = subject.split(".")
    wanted = pattern.split(".")
    if wanted[-1] == ">":
        missing = len(tokens) - (len(wanted) - 1)
        if missing < 1:
            return False
        wanted = wanted[:-1] + ["*"] * missing
    alphabet = sorted({*tokens, *wanted} - {"*"})
    choices = [alphabet if want == "*" else [want] for want in wanted]
    return tokens in [list(made) for made in itertools.product(*choices)]


@given(PATTERN, LITERAL)
def test_a_pattern_takes_exactly_the_subjects_that_it_can_produce(pattern, subject):
    assert matches(pattern, subject) == naive(pattern, subject)


@given(PATTERN, PATTERN, LITERAL)
def test_a_pattern_that_takes_another_pattern_takes_all_of_its_subjects(wide, narrow, subject):
    if matches(wide, narrow) and matches(narrow, subject):
        assert matches(wide, subject)


@given(LITERAL)
def test_a_literal_subject_has_no_fault_and_takes_only_itself(subject):
    assert fault_of(subject) is None
    assert matches(subject, subject)
    assert not matches(subject, subject + ".more")


@pytest.mark.parametrize(
    ("pattern", "subject", "taken"),
    [
        ("orders.>", "orders", False),
        ("orders.>", "orders.a", True),
        ("orders.>", "orders.a.b", True),
        ("orders.*", "orders.a.b", False),
        (">", "anything.at.all", True),
        ("orders.*", "orders.>", False),
        ("orders.>", "orders.*", True),
        ("*.a", "orders.a", True),
    ],
)
def test_wildcards_stand_for_one_token_or_for_all_the_rest(pattern, subject, taken):
    assert matches(pattern, subject) is taken


@pytest.mark.parametrize(
    "subject",
    ["", "a..b", ".a", "a.", "a.*", "a.>", "a b", "a\r\nPUB x 0", "a\0b", "$JS.API.X", "_INBOX.x"],
)
def test_a_subject_nobody_may_publish_to_is_named_with_its_fault(subject):
    assert "subject" in fault_of(subject)
