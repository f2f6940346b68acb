"""Whatever the other side sends is read the same however it is cut, or ends the connection."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from nats.errors import ProtocolError

from relay.jetstream.parser import Parser, clean_info, denial_of
from tests.jetstream.test_jetstream_answers import ANYTHING

BYTES = st.binary(max_size=12) | st.sampled_from([b"\r\n", b"MSG a 1 3\r\n", b"PING\r\n", b""])
TOKEN = st.sampled_from([b"a", b"_INBOX.x.1", "ü".encode(), b"$JS.ACK.S.c.1.2.3.4.5"])


@st.composite
def frames(draw):
    """One thing that a server says, and what is to be made of it."""
    subject, reply, payload = draw(TOKEN), draw(st.just(b"") | TOKEN), draw(BYTES)
    to = b"%b 7 %b" % (subject, reply + b" " if reply else b"")
    kind = draw(st.sampled_from(["MSG", "HMSG", "PING", "+OK", "-ERR"]))
    if kind == "MSG":
        frame = b"MSG %b%d\r\n%b\r\n" % (to, len(payload), payload)
        return frame, (subject, payload, None)
    if kind == "HMSG":
        head = draw(BYTES)
        sizes = b"%d %d" % (len(head), len(head) + len(payload))
        return b"HMSG %b%b\r\n%b%b\r\n" % (to, sizes, head, payload), (subject, payload, head)
    rest = draw(st.sampled_from([b"", b"'Authorization Violation'"]))
    return kind.encode() + (b" " + rest if rest else b"") + b"\r\n", (kind.encode(), rest)


def read(*parts):
    """What a parser hands on of the parts of a stream, or the end of the connection."""
    came = []

    async def control(operation, rest):
        came.append((operation, rest))

    parser = Parser(lambda *answer: came.append(answer), control)
    parser.deliver_to(lambda *_: None, "c")
    for part in parts:
        try:
            parser.parse(part).send(None)
        except StopIteration:  # how a coroutine returns
            continue
        except ProtocolError:
            return came, "ended"
    return came, "open"


def cut(sent, sizes):
    while sent:
        size = sizes.pop() if sizes else len(sent)
        yield sent[:size]
        sent = sent[size:]


@given(st.lists(frames(), max_size=8), st.lists(st.integers(1, 9), max_size=60))
def test_a_stream_is_read_the_same_however_it_is_cut(said, sizes):
    own = b"$JS.ACK.S.c."  # a delivery of the consumer's own goes elsewhere
    said = [each for each in said if own not in each[0].partition(b"\r\n")[0]]
    sent = b"".join(frame for frame, _ in said)
    assert read(*cut(sent, sizes)) == ([wanted for _, wanted in said], "open")


@given(st.lists(BYTES | frames().map(lambda each: each[0]), max_size=6), st.integers(1, 7))
@example([b"MSG a 1 " + b"9" * 5000 + b"\r\n"], 7000)
@example([b"MSG a 1 $JS.ACK.S.c.1.%b.3.4.5 1\r\nx\r\n" % (b"9" * 5000)], 7000)
@example([b"MSG a 1 $JS.ACK.S.c.1.2.3.4.5 %b\r\nx\r\n" % (b"9" * 5000)], 7000)
def test_no_bytes_make_the_reading_raise_anything_but_the_end(garbage, size):
    sent = b"".join(garbage)
    read(*(sent[place : place + size] for place in range(0, len(sent), size)))


@given(st.dictionaries(st.sampled_from(["connect_urls", "max_payload", "client_id"]), ANYTHING))
def test_an_info_is_left_with_what_can_be_used(info):
    clean_info(info)
    assert all(isinstance(url, str) for url in info["connect_urls"])
    assert all(
        type(info[name]) is int and info[name] > 0
        for name in info
        if name[0] != "c" or name == "client_id"
    )


@pytest.mark.parametrize("verb", ["Publish", "Subscription"])
@given(subject=st.text(max_size=20))
def test_a_denial_names_the_subject_whatever_stands_in_it(verb, subject):
    quoted = json.dumps(subject, ensure_ascii=False)
    assert denial_of(f"Permissions Violation for {verb} to {quoted}") == (
        verb == "Subscription",
        subject,
    )
    denial_of(subject)
