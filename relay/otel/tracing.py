"""Spans: one ``publish`` a batch, and the time of each traced event in the outbox.

    the producer's trace    request ─┬─ ...
                                     └─ outbox wait      created_at ──► PubAck
                                          │  ▲
                                     link ▼  │ link
    a trace of the relay's own      publish ORDERS       one batch, kind CLIENT

The consumer gets the producer's ``traceparent``, ``tracestate`` and ``baggage`` as they were
written, so that its spans hang below the producer's, not below the relay's.

    no sampled producer in a batch    one span a batch; an event costs a look at its headers
    sampled producers                 a link and a span each, 50 us with their export: of all
                                      unless the relay is busy with a backlog; the batch's span
                                      says where it was cut short
    more links than a span takes      further spans of the same name below the batch's span

Everything but the batch's own span is made behind the PubAck. An idle relay makes no span.
"""

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from operator import attrgetter
from typing import Final

from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    TraceState,
    set_span_in_context,
    use_span,
)

from relay.core.event import Event, maybe_sampled, parent_of
from relay.core.outcome import Outcome, Stored

KEEPING_UP: Final = 2_000.0
BEHIND: Final = 100.0
AT_ONCE: Final = 1_000.0
"""Events/s that are traced, without and with a backlog, and how many of them may be saved up. To
trace every event of a backlog would drain it at a tenth of 100,000 events/s."""

BACKLOG: Final = 500
"""Events in a batch that show a backlog: pages grow only while they come back full."""

MOST_LINKS: Final = 128
"""Links that the SDK keeps of a span, unless a variable says otherwise; it drops the others."""

_HEADERS: Final = attrgetter("headers")
_SYSTEM: Final = {"messaging.system": "nats"}
_PUBLISH: Final = _SYSTEM | {
    "messaging.operation.name": "publish",
    "messaging.operation.type": "send",
}

_MOST_STATES: Final = 32
_MEMBER: Final = re.compile(
    r"(?P<key>[a-z][_0-9a-z*/-]{0,255}|[a-z0-9][_0-9a-z*/-]{0,240}@[a-z][_0-9a-z*/-]{0,13})="
    r"(?P<value>[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e])"
)


class Traces:
    """Makes the spans of batches. One batch at a time."""

    def __init__(self, tracer: Tracer, now: Callable[[], float] = time.monotonic) -> None:
        """Hand spans to ``tracer``; ``now`` gives seconds."""
        self._tracer = tracer
        self._now = now
        self._saved, self._saved_at = AT_ONCE, now()
        given = os.environ.get("OTEL_SPAN_LINK_COUNT_LIMIT", "")
        self._most_links = max(1, min(MOST_LINKS, int(given))) if given.isdecimal() else MOST_LINKS

    @contextmanager
    def publishing(self, events: Sequence[Event]) -> Iterator["Publishing"]:
        """Make the block one ``publish`` span, current within it; call ``came_to`` in it."""
        attributes: dict[str, str | int] = dict(_PUBLISH)
        if len(events) == 1:
            attributes["messaging.message.id"] = events[0].message_id
        else:
            attributes["messaging.batch.message_count"] = len(events)
        span = self._tracer.start_span(
            "publish", Context(), kind=SpanKind.CLIENT, attributes=attributes
        )
        publishing = Publishing(self._tracer, span, events)
        try:
            with use_span(span, record_exception=False, set_status_on_exception=False):
                yield publishing
        except BaseException as error:  # an outage is one; so is being cancelled
            span.set_attribute("error.type", type(error).__name__)
            span.set_status(Status(StatusCode.ERROR, str(error)))
            raise
        finally:
            traced, cut_short = self._choose(events)
            publishing.end(traced, self._most_links, cut_short=cut_short)

    def _choose(self, events: Sequence[Event]) -> tuple[list[int], bool]:
        """Return the places of the events to trace, and whether there are more that are sampled."""
        now = self._now()
        rate = BEHIND if len(events) >= BACKLOG else KEEPING_UP
        saved = min(AT_ONCE, self._saved + (now - self._saved_at) * rate)
        most = int(saved)
        sampled = list(islice(maybe_sampled(map(_HEADERS, events)), most + 1))
        traced = sampled[:most]
        self._saved, self._saved_at = saved - len(traced), now
        return traced, len(sampled) > most


@dataclass(slots=True)
class Publishing:
    """One batch on its way to the bus; made by ``Traces.publishing``."""

    tracer: Tracer
    span: Span
    events: Sequence[Event]
    streams: Mapping[str, str] = field(default_factory=dict)
    outcomes: Sequence[Outcome] | None = None
    name: str = "publish"
    began_ns: int = field(default_factory=time.time_ns)
    ended_ns: int = 0

    def came_to(self, outcomes: Sequence[Outcome]) -> None:
        """Take the outcomes: this is the moment of the PubAck."""
        self.ended_ns = time.time_ns()
        self.outcomes = outcomes

    def went_to(self, streams: Mapping[str, str], server: tuple[str, int] | None = None) -> None:
        """Take the stream of each subject, "" where it is not known, and the server."""
        self.streams = streams
        if server is not None:
            self.span.set_attributes({"server.address": server[0], "server.port": server[1]})

    def end(self, traced: Sequence[int], most_links: int, *, cut_short: bool) -> None:
        """End the batch's span, with links to the producers of ``traced``, and make their spans."""
        ended_ns = self.ended_ns or time.time_ns()
        recording = self.span.is_recording()
        if recording:
            self._describe(cut_short=cut_short)
        links = self._wait_spans(traced, ended_ns)
        if recording:
            for link in links[:most_links]:
                self.span.add_link(link.context, link.attributes)
            self._further_spans(links[most_links:], most_links, ended_ns)
        self.span.end(ended_ns)

    def _describe(self, *, cut_short: bool) -> None:
        names = set(self.streams.values())
        stream = names.pop() if len(names) == 1 else ""
        if stream:
            self.name = f"publish {stream}"
            self.span.update_name(self.name)
            self.span.set_attribute("messaging.destination.name", stream)
        if cut_short:
            self.span.set_attribute("relay.traces_cut_short", True)
        not_stored = sum(not isinstance(outcome, Stored) for outcome in self.outcomes or ())
        if not_stored:
            self.span.set_attribute("relay.not_stored", not_stored)

    def _wait_spans(self, traced: Sequence[int], ended_ns: int) -> list[Link]:
        """Make the ``outbox wait`` of those stored; return a link to each producer."""
        own = (Link(self.span.get_span_context()),) if self.span.is_recording() else ()
        links = []
        for place in traced:
            event = self.events[place]
            context = _context_of(event)
            if context is None:
                continue
            about = {"messaging.message.id": event.message_id}
            if stream := self.streams.get(event.subject):
                about["messaging.destination.name"] = stream
            links.append(Link(context, about))
            if self.outcomes is None or not isinstance(self.outcomes[place], Stored):
                continue
            began_ns = int(event.created_at.timestamp() * 1e9)
            self.tracer.start_span(
                "outbox wait",
                set_span_in_context(NonRecordingSpan(context), Context()),
                attributes=_SYSTEM | about,
                links=own,
                start_time=began_ns,
            ).end(max(began_ns, ended_ns))  # two clocks
        return links

    def _further_spans(self, links: Sequence[Link], most_links: int, ended_ns: int) -> None:
        """Keep the links that the batch's own span does not take."""
        below = set_span_in_context(self.span, Context())
        for begin in range(0, len(links), most_links):
            self.tracer.start_span(
                self.name,
                below,
                attributes=_PUBLISH,
                links=links[begin : begin + most_links],
                start_time=self.began_ns,
            ).end(ended_ns)


def _context_of(event: Event) -> SpanContext | None:
    """Return the producer's span as the SDK wants it."""
    parent = parent_of(event.headers)
    if parent is None or not parent.sampled:
        return None
    assert event.headers is not None
    return SpanContext(
        int(parent.trace_id, 16),
        int(parent.span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
        trace_state=_state_of(event.headers.get("tracestate", "")),
    )


def _state_of(header: str) -> TraceState | None:
    """Read a producer's tracestate; None if it is not as W3C wants it.

    OpenTelemetry's own reader logs what it can't read, and that is a part of an event.
    """
    members = [member.strip(" \t") for member in header.split(",")]
    found = [_MEMBER.fullmatch(member) for member in members if member]
    pairs = {match["key"]: match["value"] for match in found if match is not None}
    if not pairs or len(pairs) < len(found) or len(pairs) > _MOST_STATES:
        return None
    return TraceState(list(pairs.items()))
