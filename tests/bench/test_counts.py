"""What an event costs in statements, WAL, dead rows and messages may not get worse unnoticed."""

import json

import pytest

from bench.counts import BASELINE, COUNTS, measure, worse


def baseline() -> dict[str, float]:
    found: dict[str, float] = json.loads(BASELINE.read_text())
    return found


@pytest.mark.slow
def test_no_count_is_worse_than_the_baseline() -> None:
    found = measure()
    assert not worse(found, baseline()), "if that is meant: python -m bench.counts --update"


def test_the_baseline_holds_every_count() -> None:
    assert list(baseline()) == [count.name for count in COUNTS]


def test_a_count_that_exceeds_its_tolerance_is_named() -> None:
    for count in COUNTS:
        before = baseline()[count.name]
        found = baseline() | {count.name: count.at_most(before)}
        assert not worse(found, baseline())
        found[count.name] += 0.001
        (fault,) = worse(found, baseline())
        assert fault.startswith(count.name)


def test_one_more_read_or_copy_an_event_would_fail() -> None:
    for name in (
        "draining: reads per 1,000 events",
        "draining: messages to NATS per event",
        "draining: dead rows of the outbox per event",
        "one by one: messages to NATS per event",
        "one by one: dead rows of the outbox per event",
        "notifications per 1,000 commits while awake",
    ):
        more = 1000 if "1,000" in name else 1
        assert worse(baseline() | {name: baseline()[name] + more}, baseline())
