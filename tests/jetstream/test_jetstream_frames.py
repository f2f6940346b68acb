"""Bytes and answers: what no server is needed for."""

import re
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.event import Event
from relay.core.outcome import Refused, Stored, Unknown
from relay.jetstream.answers import Kind, judge, read_puback
from relay.jetstream.frames import frame_of, instant, line_fault
from relay.jetstream.weaknesses import weaknesses

AT = datetime(2026, 3, 14, 15, 9, 26, 5, tzinfo=UTC)
NASTY = st.text(alphabet=st.sampled_from("ab: \r\n\0ä€\ud800-"), max_size=12)
NAMES = st.one_of(NASTY, st.sampled_from(["traceparent", "Nats-Rollup", "nATS-x", "x-y"]))


def pieces(frame):
    """Take a frame apart as the server does, by its own lengths."""
    line, _, rest = frame.partition(b"\r\n")
    verb, subject, reply, header_size, size = line.split(b" ")
    assert verb == b"HPUB"
    head, payload = rest[: int(header_size)], rest[int(header_size) : int(size)]
    assert rest[int(size) :] == b"\r\n"
    return subject, reply, head, payload


@given(NASTY, st.none() | NASTY, st.none() | st.dictionaries(NAMES, NASTY), st.binary(max_size=9))
def test_a_frame_holds_exactly_the_events_own_headers_or_is_refused(mid, key, headers, payload):
    event = Event(1, "e-1", mid, "a.b", key, AT, headers, payload)
    frame = frame_of(event, "_INBOX.r", 1000)
    if isinstance(frame, Refused):
        texts = [mid, key or "", *(headers or {}), *(headers or {}).values()]
        everything = "".join(texts)
        names = [name for name in headers or {} if not re.fullmatch(r"[ab-]+|\w+-?\w*", name)]
        reserved = [name for name in headers or {} if name.lower().startswith("nats-")]
        bad = any(each in everything for each in "\r\n\0\ud800")
        assert bad or names or reserved or not mid or any("ä" in n for n in headers or {})
        return
    subject, reply, head, out = pieces(frame)
    assert (subject, reply, out) == (b"a.b", b"_INBOX.r", payload)
    lines = head.decode().split("\r\n")
    wanted = ["NATS/1.0", f"Nats-Msg-Id: {mid}", "Relay-Event-Id: e-1"]
    wanted += ["Relay-Created-At: 2026-03-14T15:09:26.000005Z"]
    wanted += [f"Relay-Key: {key}"] if key is not None else []
    wanted += [f"{name}: {value}" for name, value in (headers or {}).items()]
    assert lines == [*wanted, "", ""]


@given(st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(2200, 1, 1)))  # noqa: DTZ001
def test_an_instant_is_written_as_iso_8601_in_utc(moment):
    here = moment.replace(tzinfo=UTC)
    wanted = here.isoformat(timespec="microseconds").replace("+00:00", "Z")
    assert instant(here) == wanted
    assert instant(here.astimezone(timezone(timedelta(hours=5, minutes=30)))) == wanted


def test_a_subject_that_the_control_line_can_not_hold_is_measured_in_bytes():
    assert line_fault("a" * 3900, "_INBOX.x") is None
    assert "too long" in line_fault("a" * 4010, "_INBOX.x")
    assert "too long" in line_fault("ä" * 2005, "_INBOX.x")


@pytest.mark.parametrize(
    ("payload", "headers", "answer"),
    [
        (b'{"stream":"S","seq":7}', None, Stored(7, duplicate=False)),
        (b'{"stream":"S", "seq":7}', None, Stored(7, duplicate=False)),
        (b'{"stream":"S","seq":7,"duplicate": true}', None, Stored(7, duplicate=True)),
        (b'{"stream":"S","domain":"hub","seq":7}', None, Stored(7, duplicate=False)),
        (b'{"stream":"S","seq":7,"future":[1]}', b"NATS/1.0\r\n\r\n", Stored(7, duplicate=False)),
    ],
)
def test_every_shape_of_puback_is_read(payload, headers, answer):
    assert read_puback(payload, headers) == answer


@pytest.mark.parametrize(
    ("payload", "headers"),
    [
        (b"", None),
        (b"[]", None),
        (b'"x"', None),
        (b"{}", None),
        (b"OK", None),
        (b"{", None),
        (b'{"seq":"x"}', None),
        (b'{"error":1}', None),
        (b"", b"NATS/1.0 408 Timeout\r\n\r\n"),
    ],
)
def test_what_is_no_puback_says_nothing(payload, headers):
    assert read_puback(payload, headers) is None


@pytest.mark.parametrize(
    ("code", "text", "outcome", "kind"),
    [
        (10054, "message size exceeds maximum allowed", Refused, Kind.THIS_EVENT),
        (10002, "resource limits exceeded for account", Unknown, Kind.STREAM),
        (10077, "maximum messages exceeded", Unknown, Kind.STREAM),
        (10077, "maximum messages per subject exceeded", Unknown, Kind.NOT_NOW),
        (10158, "duplicate message id is in process", Unknown, Kind.NOT_NOW),
        (10205, "batch publish is disabled", Unknown, Kind.STREAM_CHANGED),
        (19999, "something of the year 2030", Unknown, Kind.NOT_NOW),
        (0, "", Unknown, Kind.NOT_NOW),
    ],
)
def test_errors_are_judged_by_their_code_and_doubt_is_not_a_refusal(code, text, outcome, kind):
    verdict = judge(code, text)
    assert isinstance(verdict.outcome, outcome)
    assert verdict.outcome.code == code
    assert verdict.kind is kind


GOOD = {"storage": "file", "num_replicas": 3, "duplicate_window": 120_000_000_000}


@pytest.mark.parametrize(
    ("config", "weak"),
    [
        ({}, []),
        ({"storage": "memory"}, ["memory storage"]),
        ({"num_replicas": 1}, ["one replica"]),
        ({"persist_mode": "async"}, ["persist_mode async"]),
        ({"max_msgs": 5, "discard": "old"}, ["limits that delete"]),
        ({"max_msgs": 5, "discard": "new"}, []),
        ({"max_age": 5, "discard": "new"}, ["limits that delete"]),
        ({"max_msgs_per_subject": 1}, ["limits that delete"]),
        ({"duplicate_window": 60_000_000_000}, ["a duplicate window of 60 s"]),
        ({"retention": "interest"}, ["interest retention without"]),
        ({"retention": "workqueue"}, ["workqueue retention without"]),
        ({"sealed": True}, ["it is sealed"]),
        ({"max_msgs": -1, "max_bytes": -1, "max_age": 0}, []),
    ],
)
def test_each_weakness_of_a_stream_is_found_with_a_remedy(config, weak):
    found = weaknesses({**GOOD, **config}, consumers=0, can_batch=False)
    assert [what.startswith(wanted) for (what, _), wanted in zip(found, weak, strict=True)] == [
        True
    ] * len(weak)
    assert all(remedy for _, remedy in found)


def test_interest_with_consumers_is_no_weakness_and_batches_are_a_hint():
    config = {**GOOD, "retention": "interest"}
    assert weaknesses(config, consumers=1, can_batch=False) == []
    (hint,) = weaknesses(config, consumers=1, can_batch=True)
    assert hint[0] == "allow_batched is off"
