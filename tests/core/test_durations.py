"""Durations: what people write, and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core import durations


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("100ms", 0.1),
        ("5s", 5.0),
        ("15min", 900.0),
        ("2h", 7200.0),
        ("1d", 86400.0),
        ("1.5s", 1.5),
        ("250us", 0.00025),
        ("250µs", 0.00025),
        (" 5 s ", 5.0),
        ("0", 0.0),
        ("0s", 0.0),
        ("10000d", durations.LONGEST),
    ],
)
def test_a_number_with_a_unit_is_read_as_seconds(text, seconds):
    assert durations.parse(text) == seconds


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("15", "write 15ms, 15s or 15min"),
        ("0.1", "0.1s or 0.1min"),
        ("15m", "write 15min or 15ms"),
        ("5sec", "us, ms, s, min, h, d"),
        ("5S", "unknown unit S"),
        ("", "such as 100ms, 5s or 15min"),
        ("-5s", "such as 100ms"),
        ("1e3s", "such as 100ms"),
        ("nan", "such as 100ms"),
        ("5s 3ms", "such as 100ms"),
        ("\N{ARABIC-INDIC DIGIT ONE}s", "such as 100ms"),
        ("10001d", "at most 10000d"),
    ],
)
def test_anything_else_is_refused_with_the_remedy(text, remedy):
    with pytest.raises(ValueError) as caught:
        durations.parse(text)
    assert remedy in str(caught.value)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0s"),
        (0.1, "100ms"),
        (0.00025, "250us"),
        (1.5, "1500ms"),
        (5, "5s"),
        (90.0, "90s"),
        (900.0, "15min"),
        (172800.0, "2d"),
        (1.5e-7, "0.00000015s"),
    ],
)
def test_the_largest_whole_unit_is_written(seconds, text):
    assert durations.format(seconds) == text


@given(st.floats(min_value=0, max_value=durations.LONGEST))
def test_what_is_written_reads_back_to_the_last_bit(seconds):
    assert durations.parse(durations.format(seconds)) == seconds


@given(st.integers(0, 10_000), st.sampled_from(["us", "ms", "s", "min", "h", "d"]))
def test_what_is_read_and_written_reads_the_same(number, unit):
    seconds = durations.parse(f"{number}{unit}")
    assert durations.parse(durations.format(seconds)) == seconds


@given(st.text(max_size=12))
def test_any_text_is_read_or_refused_by_value_error(text):
    try:
        seconds = durations.parse(text)
    except ValueError:
        return
    assert 0 <= seconds <= durations.LONGEST


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf"), durations.LONGEST * 2])
def test_what_is_no_duration_is_not_written(seconds):
    with pytest.raises(ValueError, match="is no duration between 0"):
        durations.format(seconds)
