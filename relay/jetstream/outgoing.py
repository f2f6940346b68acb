"""The events of one stream on their way: held back, probed with, or sent whole.

    no outage ─────────────────────────────► send all of them, by the stream's path
    outage, closed ────────────────────────► Held, nothing sent
    outage, its pause over ──► send a few ──► stored: send the rest
                                          └─► a verdict on the stream: the rest is Held

A probe goes by the windowed path, whatever the stream's own is: there each message has an answer of
its own. A full account answers a batch with errors only, and so hides what it had stored of it.

Authoritative: what the paths heard from the server, as a verdict on the whole stream. Two verdicts
are looked into before they are believed. Nobody answered: the stream may be gone, without a leader,
or have given the subject to another one. No answer in time: if JetStream answers another question
meanwhile, it is the stream that is stuck, and the connection stays, with the other streams' events
on it; if it does not, the connection is dropped, for another server may do better.
"""

from collections.abc import Sequence

import anyio

from relay.core.event import Event
from relay.core.ordering import WAITS
from relay.core.outcome import Held, Outcome, Refused, Stored, Unknown
from relay.jetstream.answers import Kind, Sent, Verdict, out
from relay.jetstream.api import DeniedError, NoAnswerError, RejectedError, api_level
from relay.jetstream.connection import Connection
from relay.jetstream.fast_ingest import publish_batches
from relay.jetstream.known import FAST_INGEST, WINDOWED, Stream
from relay.jetstream.options import BusOptions
from relay.jetstream.streams import StreamMap
from relay.jetstream.windowed import publish_windowed

PROBE = 32
"""Events with which a stream is tried that took none: as many as the server answers in one go."""

_PROOF_OF_LIFE_TIMEOUT = 1.0

Outcomes = list[Outcome | None]
"""One an event; None where the connection was lost first."""


class Outgoing:
    """Publishes to the streams of one connection, one call a stream at a time."""

    def __init__(self, connection: Connection, streams: StreamMap, options: BusOptions) -> None:
        """Publish over ``connection``; ``streams`` is told what is found out."""
        self._connection = connection
        self._streams = streams
        self._options = options

    async def publish(self, stream: Stream, events: Sequence[Event]) -> Outcomes:
        """Publish ``events``, all of ``stream``, in order of each key."""
        if stream.hold is None:
            return await self._send(stream, events)
        if anyio.current_time() < stream.hold.closed_until:
            return [stream.hold.why] * len(events)
        outcomes = await self._send(stream, events[:PROBE], path=WINDOWED)
        rest = events[PROBE:]
        if self._connection.lost is not None:
            return outcomes + [None] * len(rest)
        if stream.hold is not None:
            return outcomes + [stream.hold.why] * len(rest)
        return outcomes + await self._send_rest(stream, events[:PROBE], outcomes, rest)

    async def _send_rest(
        self, stream: Stream, before: Sequence[Event], came: Outcomes, rest: Sequence[Event]
    ) -> Outcomes:
        """Send what stands behind a probe that ``came`` out so, but nothing past its key."""
        pairs = zip(before, came, strict=True)
        stuck = {event.key for event, outcome in pairs if not isinstance(outcome, Stored)} - {None}
        outcomes: Outcomes = [WAITS if event.key in stuck else None for event in rest]
        places = [place for place, outcome in enumerate(outcomes) if outcome is None]
        if places:
            sent = await self._send(stream, [rest[place] for place in places])
            for place, outcome in zip(places, sent, strict=True):
                outcomes[place] = outcome
        return outcomes

    async def _send(
        self, stream: Stream, events: Sequence[Event], *, path: str | None = None
    ) -> Outcomes:
        """Send by ``path`` or the stream's own, and draw the conclusions for the stream."""
        began = anyio.current_time()
        usual = self._options.ack_timeout
        patience = usual if stream.hold is None else stream.hold.patience(usual)
        max_bytes = min(filter(None, (self._connection.max_payload, stream.max_bytes)))
        if (path or stream.path) == FAST_INGEST:
            sent = await publish_batches(
                self._connection, stream, events, max_bytes=max_bytes, ack_timeout=patience
            )
        else:
            sent = await publish_windowed(
                self._connection,
                stream,
                events,
                max_bytes=max_bytes,
                window=self._options.window,
                ack_timeout=patience,
            )
        if sent.verdict is not None:
            took = anyio.current_time() - began
            return await self._conclude(stream, sent, sent.verdict, took)
        if stream.hold is not None and self._connection.lost is None:
            self._look_anew(stream)
        elif max_bytes == stream.max_bytes and Refused in set(map(type, sent.outcomes)):
            return await self._doubt_the_limit(stream, sent.outcomes)
        return sent.outcomes

    async def _doubt_the_limit(self, stream: Stream, outcomes: Outcomes) -> Outcomes:
        """Ask whether the limit still stands by which we refused events ourselves.

        A person raises it and has the dead tried again: what was true a minute ago must not kill
        them once more.
        """
        before = stream.max_bytes
        self._look_anew(stream)
        await self._streams.inspect(stream.name)
        if before < stream.max_bytes or not stream.max_bytes:
            again = Unknown(f"{out(stream.name)}: its limit of {before} bytes was raised meanwhile")
            return [again if _is_ours(each) else each for each in outcomes]
        self._look_anew(stream)
        return outcomes

    async def _conclude(
        self, stream: Stream, sent: Sent, verdict: Verdict, took: float
    ) -> Outcomes:
        """Close the stream for a while, or look it up anew; say in the outcomes what it was."""
        if verdict.kind is Kind.STREAM_CHANGED:
            self._look_anew(stream)
            return sent.outcomes
        assert isinstance(verdict.outcome, Held)
        why: Held | Unknown = verdict.outcome
        silent = verdict.kind is Kind.SILENCE
        if silent and not await self._is_alive():
            self._connection.drop(verdict.outcome.reason)
            return [None if each == why else each for each in sent.outcomes]
        if verdict.kind is Kind.NOBODY:
            why = await self._streams.explain(stream, sent.subject)
        if isinstance(why, Held) and why.by == out(stream.name):
            now = anyio.current_time()
            stream.takes_nothing(why.reason, now, code=why.code, took=took, silent=silent)
        else:
            # It concerns one subject, and all that was not sent shares the verdict: next time
            # the subject is known for what it is before anything is sent.
            stream.hold = None
            why = Unknown(f"not sent: {why.reason}", why.code)
        return [why if each == verdict.outcome else each for each in sent.outcomes]

    async def _is_alive(self) -> bool:
        """Ask JetStream for anything, over the same connection; a refusal is an answer too."""
        try:
            await api_level(self._connection, _PROOF_OF_LIFE_TIMEOUT)
        except (DeniedError, RejectedError):
            return True
        except NoAnswerError:
            return False
        return True

    def _look_anew(self, stream: Stream) -> None:
        stream.hold = None
        self._streams.forget(stream)


def _is_ours(outcome: Outcome | None) -> bool:
    """Whether it is a refusal before the wire: the server gives a code."""
    return isinstance(outcome, Refused) and not outcome.code
