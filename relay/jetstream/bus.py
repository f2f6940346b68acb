"""The ``EventBus`` over NATS JetStream: events in, outcomes out, one connection at a time.

    publish ──► connected? ──► where does each subject go? ──► lanes ──► outcomes, or BusOutage
                  │ no                 (routing)                 │
                  └─ connect, once through all servers           └─ not all stored? (diagnosis)

    lane      a stream by one path (fast_ingest or windowed). Events that need an answer of their
              own go by the windowed path, whatever the stream's is: those with a producer's key,
              those whose subject took nothing last time, all of a stream that took nothing or left
              a batch unanswered. Most calls have one round of one lane.
    round 1   lane A: k1 k2 k1     lane B: k3       at once, in any order
    round 2   lane B: k1                            once all of round 1 has its outcome

Authoritative: JetStream's answers; nothing is Stored without proof (R-LOSS: ``answers``). Nothing
is sent without the permit (R-TERM: ``connection.Sender``). R-ORDER: a lane keeps the order of a key
by itself; an event whose key stands before it in another lane goes a round later, and ``KeyFence``
stops it where that one is not stored.

On failure: the connection is dropped, never mended; ``BusOutage`` says why, at once, and the next
call makes a new one. Pausing between calls is the caller's business. What was in flight is to be
published again with the same message ids, which the stream's duplicate window drops. An outage of
one stream is an outcome of its events, and what is known of it outlives the connection. A stream
that took nothing last time is tried with a few events first.
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from operator import itemgetter, methodcaller

import anyio

from relay.core.cloudevents import binary_mode
from relay.core.event import Event
from relay.core.order import WAITS, KeyFence, put_behind
from relay.core.outcome import Outcome, Stored
from relay.core.storage import StreamStorage
from relay.errors import BusOutage, sole
from relay.jetstream.answers import out
from relay.jetstream.api import WINDOWED, DeniedError, NoAnswerError, RejectedError
from relay.jetstream.connection import Sender
from relay.jetstream.diagnosis import LaneResult
from relay.jetstream.fast_ingest import publish_batches
from relay.jetstream.options import BusOptions
from relay.jetstream.reconcile import Reconciler
from relay.jetstream.rounds import Lane, Outcomes, Round, rounds_of
from relay.jetstream.routing import ASK_TIMEOUT, Route
from relay.jetstream.servers import Servers
from relay.jetstream.setup import Session, begin
from relay.jetstream.streams import Stream, Streams
from relay.jetstream.windowed import publish_windowed
from relay.ports import Permit

PROBE = 32
"""Events with which a stream is tried that took none: as many as the server answers in one go."""

_LOOK_TIMEOUT = 0.5
_MOST_LOOKED_AT = 64
"""Streams: each costs a round trip, and series in the metrics."""

_MESSAGE_ID = itemgetter(Event._fields.index("message_id"))


class JetStreamBus:
    """Publish events to JetStream. See ``relay.ports.EventBus`` for what is promised."""

    def __init__(self, options: BusOptions) -> None:
        """Take the options; nothing is connected before ``connect`` or ``publish``.

        Raises:
            SettingsError: a URL can't be used.
        """
        self._options = options
        self._own_ids = options.own_ids
        self._as_cloudevent = options.cloudevents_source and binary_mode(
            options.cloudevents_source, options.cloudevents_type, options.cloudevents_subject
        )
        self._servers = Servers(options)
        self._open: Session | None = None
        self._streams = Streams()
        self.reconciling = Reconciler(self._streams, options)
        self._was_connected = False
        self._connecting = anyio.Lock(fast_acquire=True)
        self.recall = self._streams.recall
        self.learnt = self._streams.learnt

    @property
    def paths(self) -> Mapping[str, str]:
        """How each stream met so far is published to: ``fast ingest`` or ``windowed``."""
        return self._streams.paths

    @property
    def server(self) -> tuple[str, int] | None:
        """Host and port of the server that the newest connection is, or was, to."""
        return None if self._open is None else self._open.connection.address

    @property
    def sole_hold(self) -> str | None:
        """The name of the hold that would hold up every event; None if events go apart."""
        return None if self._options.stream is None else out(self._options.stream)

    @property
    def duplicate_window(self) -> float | None:
        """The shortest duplicate window in s of the streams met so far; None if none is known."""
        windows = [stream.duplicate_window for stream in self._streams.met]
        return min((each for each in windows if each), default=None)

    async def storage(self) -> Sequence[StreamStorage]:
        """Ask what the streams met so far hold; those that don't answer now are left out."""
        now, found = self._open, list[StreamStorage]()
        with anyio.move_on_after(ASK_TIMEOUT):
            for name in list(self._streams.paths)[:_MOST_LOOKED_AT]:
                if now is None or now.connection.lost is not None:
                    break
                with suppress(DeniedError, RejectedError, NoAnswerError):
                    state = (await now.api.stream_info(name, _LOOK_TIMEOUT)).state
                    found.append(StreamStorage(name, state["messages"], state["bytes"]))
        return found

    async def connect(self) -> None:
        """Connect unless connected, and make or check the configured stream.

        Raises:
            BusOutage: no server takes us, or JetStream does not answer.
            BusLoginRefused: every server refuses us as we are set up.
            StreamError: the configured stream is missing, can't be made or can't be used; at the
                first connection only.
            SettingsError: a credentials or certificate file can't be used.
        """
        await self._connected()

    async def close(self) -> None:
        """Drop the connection at once; what is not sent yet is never sent. Never raises."""
        now, self._open = self._open, None
        if now is not None:
            now.connection.drop("closed")
            await now.connection.dropped()

    async def _connected(self) -> Session:
        async with self._connecting:
            now = self._open
            if now is None or now.connection.lost is not None:
                await self.close()
                now = self._open = await self._connect()
            await self.reconciling.compare(now.connection, now.api, now.routing.present)
            return now

    async def _connect(self) -> Session:
        connection = await self._servers.connect()
        self._streams.forget_descriptions()
        try:
            session = await begin(
                connection, self._options, self._streams, insist=not self._was_connected
            )
        except BaseException:
            connection.drop("the start failed")
            await connection.dropped()
            raise
        self._was_connected = True
        return session

    # Publishing.

    async def publish(
        self, events: Sequence[Event], permit: Permit, *, closed: Collection[str] = ()
    ) -> Sequence[Outcome]:
        """Publish in order, per key; one outcome an event, in the order of ``events``.

        ``Stored.seq`` is given where JetStream's answer has it for this very event: always on the
        windowed path, on fast ingest for the last event of the call if nothing else was stored.

        Raises:
            BusOutage: the connection is or was lost: publish all of them again.
            StreamError, SettingsError: as ``connect``, if it has to connect first.
            TermLost, StoreOutage: ``permit`` could not be renewed.
            StreamBehind: a stream has lost messages that it had acknowledged.
        """
        if not events:
            return []
        if self._as_cloudevent:
            events = list(map(self._as_cloudevent, events))
        session = await self._connected()
        subjects = dict.fromkeys([event.subject for event in events])
        routes = await session.routing.routes_of(subjects, closed)
        routes = await self.reconciling.look_first(routes)
        call = _Call(session, permit, self._options, self._own_ids)
        if self.reconciling.active:
            outcomes = await self.reconciling.publish(call.publish, events, routes)
        else:
            outcomes = await call.publish(events, routes)
        if self._streams.doubts:
            await self.reconciling.doubted()
        complete = [outcome for outcome in outcomes if outcome is not None]
        if len(complete) < len(events):
            raise BusOutage(f"connection lost: {session.connection.lost}")
        if not _all_stored(complete):
            put_behind(events, complete)
        return complete


class _Call:
    """One call of ``publish``: the events sorted into lanes, and the lanes sent."""

    def __init__(
        self,
        session: Session,
        permit: Permit,
        options: BusOptions,
        own_ids: str,
    ) -> None:
        self._session = session
        self._apart = False  # whether each event needs an answer of its own, whatever its stream
        self._connection = session.connection
        self._sender = Sender(session.connection, permit)
        self._options = options
        self._own_ids = own_ids

    async def publish(
        self, events: Sequence[Event], routes: Mapping[str, Route], *, apart: bool = False
    ) -> Outcomes:
        self._apart = apart
        lane = self._sole_lane(events, routes)
        if lane is not None:
            return await self._send_lane(lane, events)
        outcomes: Outcomes = [None] * len(events)
        fence = KeyFence()
        for each in rounds_of(events, routes, outcomes, self._lane):
            await self._send_round(each, events, outcomes, fence)
        return outcomes

    def _sole_lane(self, events: Sequence[Event], routes: Mapping[str, Route]) -> Lane | None:
        """Return the lane that all ``events`` take; None if there is no such lane."""
        stream, *others = set(routes.values())
        if others or not isinstance(stream, Stream):
            return None
        if self._apart or _all_apart(stream):
            return stream, True
        is_own = methodcaller("startswith", self._own_ids)
        of_our_own = all(map(is_own, map(_MESSAGE_ID, events)))  # in C: 0.12 µs an event, not 0.19
        return (stream, False) if of_our_own and not stream.found else None

    def _lane(self, event: Event, stream: Stream) -> Lane:
        apart = self._apart or _all_apart(stream) or event.subject in stream.found
        return stream, apart or not event.message_id.startswith(self._own_ids)

    async def _send_round(
        self, lanes: Round, events: Sequence[Event], outcomes: Outcomes, fence: KeyFence
    ) -> None:
        """Send by several lanes at once: none waits for what another one takes."""

        async def send(lane: Lane, places: Sequence[int]) -> None:
            sent = await self._send_lane(lane, [events[place] for place in places])
            for place, outcome in zip(places, sent, strict=True):
                outcomes[place] = outcome

        try:
            async with anyio.create_task_group() as tasks:
                for lane, places in lanes.items():
                    passing = [place for place in places if fence.passes(events[place].key)]
                    if passing:
                        tasks.start_soon(send, lane, passing)
        except BaseExceptionGroup as group:
            error = sole(group)
            if error is group:
                raise
            raise error from None
        lost = self._connection.lost is not None
        for place in sorted(place for places in lanes.values() for place in places):
            if outcomes[place] is None and not lost:
                outcomes[place] = WAITS
            if not isinstance(outcomes[place], Stored):
                fence.close(events[place].key)

    async def _send_lane(self, lane: Lane, events: Sequence[Event]) -> Outcomes:
        """Send ``events`` by one lane; a stream that took nothing last time gets a few first."""
        stream, windowed = lane
        if stream.held is None or len(events) <= PROBE:
            return await self._send(stream, events, windowed=windowed)
        outcomes = await self._send(stream, events[:PROBE], windowed=True)
        rest = events[PROBE:]
        if self._connection.lost is not None:
            return outcomes + [None] * len(rest)
        if stream.held is not None:
            return outcomes + [replace(stream.held, sent=False)] * len(rest)
        fence = KeyFence()
        fence.note(events[:PROBE], [outcome for outcome in outcomes if outcome is not None])
        passing, _ = fence.split(rest)
        sent = iter(await self._send(stream, passing, windowed=True) if passing else ())
        return outcomes + [next(sent) if fence.passes(each.key) else WAITS for each in rest]

    async def _send(self, stream: Stream, events: Sequence[Event], *, windowed: bool) -> Outcomes:
        if stream.doubted:
            await self._session.routing.refresh(stream)
        began = anyio.current_time()
        result = await self._by(stream, events, windowed=windowed)
        outcomes = result.outcomes
        remembered = stream.held or stream.found or stream.suspect or stream.doubted
        if not (remembered or stream.silent or result.foreign_streams) and _all_stored(outcomes):
            return outcomes
        if self._connection.lost is None and not windowed and None in outcomes:
            # A batch left these without a reason; the windowed path finds the reason.
            places = [place for place, outcome in enumerate(outcomes) if outcome is None]
            left = await self._by(stream, [events[place] for place in places], windowed=True)
            for place, outcome in zip(places, left.outcomes, strict=True):
                outcomes[place] = outcome
            result.take_over(left)
        if result.timed_out and stream.tip is not None and stream.unanswered_since is None:
            stream.unanswered_since = began
        if self._connection.lost is None:
            await self._session.diagnosis.conclude(stream, events, result, windowed=windowed)
        return outcomes

    async def _by(self, stream: Stream, events: Sequence[Event], *, windowed: bool) -> LaneResult:
        max_bytes = self._connection.wire.max_payload
        if 0 < stream.max_bytes < max_bytes:
            max_bytes = stream.max_bytes
        patience = self._options.ack_timeout
        if stream.silent:
            patience = stream.patience(patience)
        if windowed:
            return await publish_windowed(
                self._sender, stream, events, max_bytes, patience, options=self._options
            )
        return await publish_batches(self._sender, stream, events, max_bytes, patience)


def _all_apart(stream: Stream) -> bool:
    """Whether each event of ``stream`` needs an answer of its own."""
    return stream.path == WINDOWED or stream.held is not None or stream.suspect


def _all_stored(outcomes: Sequence[Outcome | None]) -> bool:
    return set(map(type, outcomes)) == {Stored}
