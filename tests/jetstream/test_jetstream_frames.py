"""Bytes and answers: what no server is needed for."""

import re
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.event import Event
from relay.core.outcome import Held, Refused, Unknown
from relay.jetstream.answers import judge
from relay.jetstream.codes import CODES, Kind
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


REFUSED = "refused"
UNKNOWN = "unknown"
OUT = "stream S"
FULL_SUBJECT = "full subjects of S"
SILENT = "silent subjects of S"

ANSWERS = {
    # The event.
    (10054, "message size exceeds maximum allowed"): REFUSED,
    (10097, "header size exceeds maximum allowed of 64k"): REFUSED,
    (10166, "per-message TTL is disabled"): REFUSED,
    (10165, "invalid per-message TTL"): REFUSED,
    (10111, "rollup not permitted"): REFUSED,
    (10188, "message schedules is disabled"): REFUSED,
    (10227, "forbidden header"): REFUSED,
    (10071, "wrong last sequence: 7"): REFUSED,
    (10164, "wrong last sequence"): REFUSED,
    (10070, "wrong last msg ID: x"): REFUSED,
    (10060, "expected stream does not match"): REFUSED,
    # The stream, its account or its server.
    (503, "no responders"): SILENT,
    (10168, "message counters is disabled"): OUT,
    (10169, "message counter increment is missing"): OUT,
    (10170, "message counter increment is invalid"): OUT,
    (10171, "message counter is not allowed to contain payload"): OUT,
    (10109, "invalid operation on sealed stream"): OUT,
    (10035, "account not found"): OUT,
    (10039, "JetStream not enabled for account"): OUT,
    (10076, "JetStream not enabled"): OUT,
    (10077, "maximum messages exceeded"): OUT,
    (10077, "maximum bytes exceeded"): OUT,
    (10077, "no space left on device"): OUT,
    (10077, "maximum messages per subject exceeded"): FULL_SUBJECT,
    (10002, "resource limits exceeded for account"): OUT,
    (10120, "no JetStream default or applicable tiered limit present"): OUT,
    (10023, "insufficient resources"): OUT,
    (10028, "insufficient memory resources available"): OUT,
    (10047, "insufficient storage resources available"): OUT,
    (10118, "stream is offline"): OUT,
    (10194, "stream is offline: unsupported"): OUT,
    (10008, "JetStream system temporarily unavailable"): OUT,
    (10009, "JetStream cluster can not handle request"): OUT,
    (10063, "expected stream sequence does not match"): OUT,
    (10059, "stream not found"): SILENT,
    (10167, "too many requests"): OUT,
    (10210, "atomic publish too many inflight"): OUT,
    (10211, "batch publish too many inflight"): OUT,
    # Nobody can tell.
    (10158, "duplicate message id is in process"): UNKNOWN,
    (10205, "batch publish is disabled"): UNKNOWN,
    (10208, "batch publish ID unknown"): UNKNOWN,
    (10172, "message counter is broken"): UNKNOWN,
    (19999, "something of the year 2030"): UNKNOWN,
    (0, ""): UNKNOWN,
}


@pytest.mark.parametrize(("answer", "meaning"), ANSWERS.items(), ids=str)
def test_every_error_is_judged_by_its_code_and_doubt_is_not_a_refusal(answer, meaning):
    code, text = answer
    outcome = judge(code, text, "S", "S").outcome
    assert outcome.code == code
    assert text in outcome.reason
    if isinstance(outcome, Held):
        assert outcome.by == meaning
        assert outcome.reason.startswith(meaning)
    else:
        assert isinstance(outcome, {REFUSED: Refused, UNKNOWN: Unknown}[meaning])


def test_where_the_streams_are_hidden_an_outage_is_believed_of_one_subject_only():
    for code, (kind, _, _) in CODES.items():
        verdict = judge(code, "text", "S", "")
        if isinstance(verdict.outcome, Held):
            assert verdict.kind in {Kind.SUBJECT, Kind.NOBODY}
            assert verdict.outcome.by in {"stream S", "silent subjects of S"}
        else:
            assert verdict.kind in {kind, Kind.SUBJECT}
    assert judge(503, "text", "", "").outcome.by == "silent subjects"


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
        (
            {"max_age": 3_600_000_000_000, "max_msgs": 5},
            ["limits that delete old messages (max_msgs 5, max_age 1h)"],
        ),
        ({"max_age": 2**62}, ["limits that delete old messages (max_age 10000d)"]),
        (
            {"max_msgs_per_subject": 1},
            ["limits that delete", "max_msgs_per_subject: after a server's restart"],
        ),
        ({"duplicate_window": 60_000_000_000}, ["a duplicate window of 60 s"]),
        ({"retention": "interest"}, ["interest retention without", "interest retention: after"]),
        ({"retention": "workqueue"}, ["workqueue retention without", "workqueue retention: after"]),
        ({"sealed": True}, ["it is sealed"]),
        ({"allow_msg_counter": True}, ["it counts"]),
        ({"max_msgs": -1, "max_bytes": -1, "max_age": 0}, []),
    ],
)
def test_each_weakness_of_a_stream_is_found_with_a_remedy(config, weak):
    found = weaknesses({**GOOD, **config}, consumers=0, can_batch=False)
    assert [what.startswith(wanted) for (_, what, _), wanted in zip(found, weak, strict=True)] == [
        True
    ] * len(weak)
    assert all(topic and remedy for topic, _, remedy in found)


def test_interest_with_consumers_is_no_weakness_and_batches_are_a_hint():
    config = {**GOOD, "retention": "interest"}
    ((_, forgets, _),) = weaknesses(config, consumers=1, can_batch=False)
    assert forgets.startswith("interest retention: after a server's restart")
    (hint,) = weaknesses(GOOD, consumers=1, can_batch=True)
    assert hint.weak == "allow_batched is off"
