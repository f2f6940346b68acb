"""What a terminal is shown of texts that others wrote."""

from typing import Any

import pytest

from relay.cli.text import hexdump, laid_out, lasting, plain


def test_laying_out_keeps_every_value_as_it_was_written() -> None:
    written = '{"a":{},"b":[1,2.50,{"c\\"":[]}],"d":"x, y: {z}","d":1e400,"e":[[],[1]]}'
    told = laid_out(written)
    assert "".join(part.strip() for part in told.splitlines()).replace('": ', '":') == written
    assert '\n  "b": [\n    1,\n    2.50,\n' in told
    assert len(laid_out("[" * 100_000 + "]" * 100_000)) < 200_000 * 70


def test_a_dump_shows_every_byte() -> None:
    every = bytes(range(256))
    lines = list(hexdump(every))
    assert bytes.fromhex("".join(line[10:58] for line in lines)) == every
    assert lines[4].endswith(" @ABCDEFGHIJKLMNO")
    assert lines[8].endswith(" " + "." * 16)


@pytest.mark.parametrize("mark", ["\x00", "\x1b", "\x7f", "\x85", "\u200f", "\u2028", "\ud800"])
def test_no_mark_that_prints_nothing_is_left_in_a_plain_text(mark: str) -> None:
    told: Any = plain(f"a{mark}b")
    assert told.isprintable()
    assert told.startswith("a\\")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0s"),
        (0.012, "12ms"),
        (0.0004, "0s"),
        (0.9999, "1s"),
        (1.0190000000002328, "1s"),
        (1.25, "1.2s"),
        (59.94, "59.9s"),
        (59.96, "1min"),
        (60.0, "1min"),
        (233.498, "3min 53s"),
        (3_600.0, "1h"),
        (3_601.0, "1h"),
        (7_505.0, "2h 5min"),
        (187_300.0, "2d 4h"),
        (86_400.0, "1d"),
    ],
)
def test_a_time_is_written_as_people_write_it(seconds: float, text: str) -> None:
    assert lasting(seconds) == text
