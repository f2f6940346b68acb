"""The result, as a program reads it."""

import json
from datetime import UTC, datetime, timedelta

from relay.audit.oracle import Findings, StreamMessage
from relay.demo.view import latency_ms, summarize

START = datetime(2026, 1, 1, tzinfo=UTC)


def message(seq, latency_ms):
    created_at = START + timedelta(seconds=seq / 100)
    return StreamMessage(
        seq,
        f"e{seq}",
        None,
        "",
        created_at=created_at,
        stored_at=created_at + timedelta(milliseconds=latency_ms),
    )


def test_percentiles_are_nearest_ranks_in_milliseconds():
    latencies = [n / 1000 for n in range(1, 101)]
    assert latency_ms(latencies, 50) == 50
    assert latency_ms(latencies, 99) == 99
    assert latency_ms([0.002], 99) == 2
    assert latency_ms([], 99) == 0


def test_the_object_has_the_promised_names_and_only_numbers():
    stream = [message(seq, latency_ms=2) for seq in range(101)]
    result = summarize(101, stream, Findings())
    assert json.loads(result.as_json()) == {
        "committed": 101,
        "stored": 101,
        "lost": 0,
        "duplicates": 0,
        "phantoms": 0,
        "reordered": 0,
        "corrupt": 0,
        "latency_ms": {"p50": 2.0, "p99": 2.0},
        "events_per_second": 100.8,
    }
    assert result.is_good


def test_faults_are_counted_and_make_it_bad():
    result = summarize(3, [message(1, 1)], Findings(lost=("a", "b"), corrupt=("c",)))
    found = json.loads(result.as_json())
    assert (found["lost"], found["corrupt"], found["duplicates"]) == (2, 1, 0)
    assert not result.is_good


def test_a_demo_that_committed_nothing_is_bad():
    assert not summarize(0, [], Findings()).is_good


def test_messages_without_our_headers_do_not_break_the_figures():
    result = summarize(1, [StreamMessage(1, "message 1", None, "")], Findings())
    assert (result.p50_ms, result.p99_ms, result.events_per_second) == (0, 0, 0)
