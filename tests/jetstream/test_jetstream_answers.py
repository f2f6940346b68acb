"""How answers are read: which are proof, and that no answer makes the reading raise (R-LOSS)."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relay.core.outcome import Stored
from relay.jetstream import answers
from relay.jetstream.answers import (
    BatchAck,
    Elsewhere,
    Expected,
    decode,
    read_batch,
    read_puback,
)
from relay.jetstream.api import read_stream_info
from relay.jetstream.duplicates import read_message
from relay.jetstream.parser import unquoted

ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 70), 1 << 70)
    | st.floats()
    | st.sampled_from(["S", "hub", "B", "", "ack", "err", "gap", "Ü"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["stream", "domain", "seq", "batch", "count", "duplicate", "error", "type", "hdrs"],
            )
            | st.sampled_from(
                ["err_code", "description", "config", "state", "name", "subjects", "message"],
            ),
            inner,
            max_size=6,
        )
    ),
    max_leaves=12,
)
HEADERS = st.none() | st.sampled_from([b"", b"NATS/1.0 503\r\n\r\n", b"x"]) | st.binary(max_size=20)


@given(ANYTHING.map(lambda each: json.dumps(each).encode()) | st.binary(max_size=40), HEADERS)
@example(b"[" * 100_000, None)
@example(b"9" * 5000, None)
@example(b'{"stream":"S","seq":' + b"9" * 5000 + b"}", None)
@example(b'{"stream":"S","seq":true}', None)
@example(b'{"error":[]}', None)
@example("{}".encode("utf-16"), b"\xff")
def test_no_answer_makes_the_reading_raise(payload, headers):
    # R-LOSS
    for asked in (Expected("S", "hub"), Expected("S", ""), Expected("S", None), Expected("", None)):
        asked.quick(payload)
        single = read_puback(payload, headers, asked)
        if isinstance(single, Stored):
            answer = json.loads(payload)
            assert type(answer["seq"]) is int
            assert answer["seq"] > 0
            assert asked.stream in {"", answer["stream"]}
        several = read_batch(payload, headers, asked, "B", 3)
        if isinstance(several, BatchAck):
            answer = json.loads(payload)
            assert (answer["batch"], 1 <= answer["count"] <= 3) == ("B", True)
    read_message(payload, headers)
    read_stream_info(decode(payload))


@pytest.mark.parametrize("name", ["", "a b", "a.b", "a\0b", "a\ud800", "\n", "a/b", "x" * 256])
def test_a_stream_has_a_name_that_a_stream_can_have(name):
    # R-FATE: where the streams are hidden, anybody's answer names the hold, which is written down
    error = {"err_code": 10077, "description": "full"}
    for answer in ({"stream": name, "seq": 1}, {"stream": name, "error": error}):
        read = read_puback(json.dumps(answer).encode(), None, Expected("", None))
        assert read is None or read.outcome.by == "streams"
    assert read_stream_info({"config": {"name": name}}) is None


@pytest.mark.parametrize(
    ("payload", "headers", "answer"),
    [
        (b'{"stream":"S","seq":7}', None, Stored("S", 7, duplicate=False)),
        (b'{"stream":"S", "seq":7}', None, Stored("S", 7, duplicate=False)),
        (b'{"stream":"S","seq":7,"duplicate": true}', None, Stored("S", 7, duplicate=True)),
        (b'{"stream":"S","seq":7,"future":[1]}', b"NATS/1.0\r\n\r\n", Stored("S", 7, False)),
    ],
)
def test_every_shape_of_puback_is_read(payload, headers, answer):
    # R-LOSS
    for asked in (Expected("S", ""), Expected("S", None), Expected("", "")):
        assert read_puback(payload, headers, asked) == answer


@pytest.mark.parametrize(
    ("payload", "headers"),
    [
        (b"", None),
        (b"[]", None),
        (b'"x"', None),
        (b"{}", None),
        (b"OK", None),
        (b"{", None),
        (b'{"seq":1}', None),
        (b'{"seq":1,"count":1}', None),
        (b'{"stream":"S","seq":"x"}', None),
        (b'{"stream":"S","seq":0}', None),
        (b'{"stream":"S","seq":-1}', None),
        (b'{"stream":"S","seq":true}', None),
        (b'{"stream":"S","seq":1.0}', None),
        (b'{"stream":["S"],"seq":1}', None),
        (b'{"stream":"S","domain":1,"seq":1}', None),
        (b'{"stream":"S","error":1}', None),
        (b'{"stream":"S","error":{"err_code":true}}', None),
        (b"", b"NATS/1.0 408 Timeout\r\n\r\n"),
    ],
)
def test_what_is_no_puback_says_nothing(payload, headers):
    # R-LOSS
    asked = Expected("S", "")
    assert asked.quick(payload) is None
    assert read_puback(payload, headers, asked) is None


@pytest.mark.parametrize("domain", [None, "hub", "leaf"])
def test_only_the_stream_and_the_domain_that_were_asked_prove_anything(domain):
    # R-LOSS
    asked = Expected("S", "hub")
    payload = {"stream": "S", "seq": 7, **({"domain": domain} if domain else {})}
    several = {**payload, "batch": "B", "count": 3}
    for shape in (
        json.dumps(payload).encode(),
        json.dumps(payload, separators=(",", ":")).encode(),
    ):
        proven = isinstance(read_puback(shape, None, asked), Stored)
        assert proven == (domain == "hub")
        assert domain == "hub" or asked.quick(shape) is None
    read = read_batch(json.dumps(several).encode(), None, asked, "B", 3)
    assert read == (BatchAck(3, 7, duplicate=False) if domain == "hub" else Elsewhere("S", False))
    other = {**payload, "stream": "T"}
    assert read_puback(json.dumps(other).encode(), None, asked) == Elsewhere("T", domain == "hub")


def test_a_domain_is_learnt_from_the_first_answer_that_names_one():
    # R-LOSS
    asked = Expected("S", None)
    assert isinstance(read_puback(b'{"stream":"S","domain":"hub","seq":1}', None, asked), Stored)
    assert read_puback(b'{"stream":"S","domain":"leaf","seq":2}', None, asked) == Elsewhere(
        "S", home=False
    )


@pytest.mark.parametrize(
    ("change", "proof"),
    [
        ({}, BatchAck(3, 9, duplicate=False)),
        ({"seq": 0}, BatchAck(3, 0, duplicate=False)),
        ({"count": 2}, BatchAck(2, 9, duplicate=False)),
        ({"count": 4}, None),
        ({"count": 0}, None),
        ({"count": True}, None),
        ({"count": None}, None),
        ({"batch": "other"}, None),
        ({"batch": None}, None),
        ({"seq": None}, None),
        ({"seq": -1}, None),
        ({"type": "ack"}, answers.FLOW),
    ],
)
def test_a_batch_is_proven_by_its_own_final_answer_only(change, proof):
    # R-LOSS
    answer = {"stream": "S", "seq": 9, "batch": "B", "count": 3, **change}
    assert read_batch(json.dumps(answer).encode(), None, Expected("S", ""), "B", 3) == proof


@pytest.mark.parametrize(
    ("quoted", "subject"),
    [
        ("a.b", "a.b"),
        (r"s.\"q\"", 's."q"'),
        (r"s.\\n", r"s.\n"),
        (r"s.ä\u00ad\u2028", "s.ä\xad\u2028"),
        (r"s.\x7f\t", "s.\x7f\t"),
        (r"s.\U0001f600", "s.\U0001f600"),
        (r"s.\Uffffffff", "s.�"),
        ('s."raw"', 's."raw"'),
    ],
)
def test_a_subject_in_an_error_is_read_as_the_server_quotes_it(quoted, subject):
    assert unquoted(quoted) == subject
