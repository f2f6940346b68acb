"""The producer's trace, read from its header by W3C Trace Context."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.trace import get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from relay.core.event import Parent, maybe_sampled, parent_of

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(("flags", "sampled"), [("01", True), ("00", False), ("03", True)])
def test_a_context_is_its_two_ids_and_whether_it_is_sampled(flags, sampled):
    headers = {"traceparent": f"00-{TRACE}-{SPAN}-{flags}"}
    assert parent_of(headers) == Parent(TRACE, SPAN, sampled)
    assert list(maybe_sampled([{}, headers, None])) == [1] * sampled


@pytest.mark.parametrize(
    "header",
    [
        "",
        "nonsense",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-01-more",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-01\n",
        f"00-{TRACE[:-1]}_-{SPAN}-01",
    ],
)
def test_what_is_no_context_is_none(header):
    assert parent_of({"traceparent": header}) is None


def test_a_later_version_may_say_more():
    assert parent_of({"traceparent": f"01-{TRACE}-{SPAN}-01-more"}) == Parent(TRACE, SPAN, True)


@pytest.mark.parametrize("headers", [None, {}, {"tracestate": "a=1"}, {"traceparent": ""}])
def test_without_the_header_there_is_no_parent(headers):
    assert parent_of(headers) is None
    assert not list(maybe_sampled([headers]))


likely = st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", fullmatch=True)


@given(likely | st.text(string.hexdigits + "-", max_size=60))
def test_it_reads_what_opentelemetry_reads(header):
    headers = {"traceparent": header}
    theirs = get_current_span(TraceContextTextMapPropagator().extract(headers)).get_span_context()
    ours = parent_of(headers)
    assert (ours is not None) is theirs.is_valid
    if ours is not None:
        assert (int(ours.trace_id, 16), int(ours.span_id, 16)) == (theirs.trace_id, theirs.span_id)
        assert ours.sampled is theirs.trace_flags.sampled
        assert list(maybe_sampled([headers])) or not ours.sampled
