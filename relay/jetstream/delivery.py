"""One call of ``publish``: the events sorted by stream and path, sent, and their outcomes judged.

    lane      a stream by one path. Events that need an answer of their own go by the windowed
              path, whatever the stream's is: those with a producer's key, those whose subject
              took nothing last time, all of a stream that took nothing or left a batch unanswered.

    round 1   lane A: k1 k2 k1     lane B: k3       at once, in any order
    round 2   lane B: k1                            once all of round 1 has its outcome

R-ORDER: a lane keeps the order of a key by itself; between lanes only waiting does, so an event
whose key stands before it in another lane goes a round later, and ``KeyFence`` stops it where that
one is not stored. Most calls have one round of one lane.

Authoritative: what the paths report as ``LaneResult``. Two things are looked into before they are
believed. Nobody answered for a subject, and nothing else of the stream was answered: the stream may
be gone, without a leader, or have given the subject away; ``Routing.explain`` asks. Nothing came in
time: if JetStream answers another question meanwhile, the connection stays, with the other
streams' events on it; if not, it is dropped, for another server may do better.

A stream that took nothing last time is tried with a few events first.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from operator import itemgetter, methodcaller

import anyio

from relay.core.event import Event
from relay.core.order import WAITS, KeyFence, put_behind
from relay.core.outcome import Fault, Held, Outcome, Refused, Stored, Unknown
from relay.errors import sole
from relay.jetstream.api import Api, DeniedError, NoAnswerError, RejectedError
from relay.jetstream.connection import Sender
from relay.jetstream.error_codes import WHOLE_STREAM, out
from relay.jetstream.fast_ingest import publish_batches
from relay.jetstream.lane_result import LaneResult
from relay.jetstream.options import BusOptions
from relay.jetstream.routing import Route, Routing
from relay.jetstream.streams import WINDOWED, Stream
from relay.jetstream.windowed import publish_windowed

PROBE = 32
"""Events with which a stream is tried that took none: as many as the server answers in one go."""

_PROOF_OF_LIFE_TIMEOUT = 1.0
_MESSAGE_ID = itemgetter(Event._fields.index("message_id"))

Outcomes = list[Outcome | None]
"""One an event; None where the connection was lost first."""

Lane = tuple[Stream, bool]
"""A stream, and whether its events go by the windowed path."""

Round = dict[Lane, list[int]]
"""The places of each lane's events in the call, ascending."""


class Delivery:
    """The sending of one call."""

    def __init__(self, sender: Sender, api: Api, routing: Routing, options: BusOptions) -> None:
        """Send by ``sender``; ``routing`` is told what is found out."""
        self._sender = sender
        self._api = api
        self._routing = routing
        self._options = options

    async def publish(self, events: Sequence[Event], routes: Mapping[str, Route]) -> Outcomes:
        """Publish ``events``, each as ``routes`` says of its subject.

        Raises:
            TermLost, StoreOutage: the permit could not be renewed.
        """
        lane = self._sole_lane(events, routes)
        if lane is not None:
            outcomes = await self._send_lane(lane, events)
        else:
            outcomes = [None] * len(events)
            fence = KeyFence()
            for each in rounds_of(events, routes, outcomes, self._lane):
                await self._send_round(each, events, outcomes, fence)
        if set(map(type, outcomes)) != {Stored}:
            complete = [outcome for outcome in outcomes if outcome is not None]
            if len(complete) == len(events):
                put_behind(events, complete)
                return [*complete]
        return outcomes

    # Lanes.

    def _sole_lane(self, events: Sequence[Event], routes: Mapping[str, Route]) -> Lane | None:
        """Return the lane that all ``events`` take; None if they go apart, or one goes nowhere."""
        stream, *others = set(routes.values())
        if others or not isinstance(stream, Stream):
            return None
        if _all_apart(stream):
            return stream, True
        is_own = methodcaller("startswith", self._options.own_ids)
        of_our_own = all(map(is_own, map(_MESSAGE_ID, events)))  # in C: 0.12 µs an event, not 0.19
        return (stream, False) if of_our_own and not stream.found else None

    def _lane(self, event: Event, stream: Stream) -> Lane:
        apart = (
            _all_apart(stream)
            or event.subject in stream.found
            or not event.message_id.startswith(self._options.own_ids)
        )
        return stream, apart

    async def _send_round(
        self, lanes: Round, events: Sequence[Event], outcomes: Outcomes, fence: KeyFence
    ) -> None:
        """Send by several lanes at once: none waits for what another one takes."""

        async def send(lane: Lane, places: Sequence[int]) -> None:
            came = await self._send_lane(lane, [events[place] for place in places])
            for place, outcome in zip(places, came, strict=True):
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
        lost = self._sender.connection.lost is not None
        for place in sorted(place for places in lanes.values() for place in places):
            if outcomes[place] is None and not lost:
                outcomes[place] = WAITS
            if not isinstance(outcomes[place], Stored):
                fence.close(events[place].key)

    # One lane.

    async def _send_lane(self, lane: Lane, events: Sequence[Event]) -> Outcomes:
        """Send ``events`` by one lane; a stream that took nothing last time gets a few first."""
        stream, windowed = lane
        if stream.held is None or len(events) <= PROBE:
            return await self._send(stream, events, windowed=windowed)
        outcomes = await self._send(stream, events[:PROBE], windowed=True)
        rest = events[PROBE:]
        if self._sender.connection.lost is not None:
            return outcomes + [None] * len(rest)
        if stream.held is not None:
            return outcomes + [stream.held] * len(rest)
        fence = KeyFence()
        fence.note(events[:PROBE], [outcome for outcome in outcomes if outcome is not None])
        passing, _ = fence.split(rest)
        came = iter(await self._send(stream, passing, windowed=True) if passing else ())
        return outcomes + [next(came) if fence.passes(each.key) else WAITS for each in rest]

    async def _send(self, stream: Stream, events: Sequence[Event], *, windowed: bool) -> Outcomes:
        """Send by one path, and draw the conclusions for the stream."""
        connection = self._sender.connection
        if stream.doubted:
            await self._routing.refresh(stream)
        result = await self._by(stream, events, windowed=windowed)
        if result.plain and _all_as_usual(stream):
            return result.outcomes
        if connection.lost is None and not windowed and None in result.outcomes:
            await self._send_left(stream, events, result)
        if connection.lost is None:
            await self._conclude(stream, events, result, windowed=windowed)
        return result.outcomes

    async def _by(self, stream: Stream, events: Sequence[Event], *, windowed: bool) -> LaneResult:
        patience = stream.patience(self._options.ack_timeout)
        connection = self._sender.connection
        max_bytes = min(filter(None, (connection.max_payload, stream.max_bytes)))
        if windowed:
            return await publish_windowed(
                self._sender,
                stream,
                events,
                max_bytes=max_bytes,
                options=self._options,
                ack_timeout=patience,
            )
        return await publish_batches(
            self._sender, stream, events, max_bytes=max_bytes, ack_timeout=patience
        )

    async def _send_left(self, stream: Stream, events: Sequence[Event], result: LaneResult) -> None:
        """Send what a batch left without a reason by the windowed path, which finds the reason."""
        places = [place for place, outcome in enumerate(result.outcomes) if outcome is None]
        left = await self._by(stream, [events[place] for place in places], windowed=True)
        for place, outcome in zip(places, left.outcomes, strict=True):
            result.outcomes[place] = outcome
        result.take_over(left)

    # Conclusions.

    async def _conclude(
        self, stream: Stream, events: Sequence[Event], result: LaneResult, *, windowed: bool
    ) -> None:
        """Believe what was found, or look into it; leave the stream as it is now known to be."""
        connection, outcomes = self._sender.connection, result.outcomes
        stored = Stored in set(map(type, outcomes))
        for name in result.foreign_streams:
            self._routing.streams.second_capture(name)
        if result.contradicted:
            self._routing.streams.second_capture(stream.name)
        if result.timed_out and not await self._is_alive():
            seconds = f"no answer within {result.timed_out:g} s"
            connection.drop(f"{out(stream.name)}: {seconds}, and none by JetStream itself")
            _replace(result, result.quiet.values(), None)
            return
        stream.suspect = bool(result.timed_out) and not windowed
        await self._follow(events, result)
        held: Outcome | None = None
        if result.stream_error is not None and result.stream_error.kind in WHOLE_STREAM:
            held = result.stream_error.outcome
        elif result.quiet and not stored:
            held = await self._explained(stream, events, result)
        if isinstance(held, Held) and held.by == out(stream.name):
            stream.silences = stream.silences + 1 if result.timed_out else 0
            stream.takes_nothing(held)
            return
        await self._took_events(stream, events, result, stored=stored)

    async def _follow(self, events: Sequence[Event], result: LaneResult) -> None:
        """Let those subjects' next events go to the streams that answered, if we know them."""
        for subject, name in result.moved.items():
            outcome = await self._routing.leads_to(subject, name)
            if outcome is None:
                continue
            result.quiet.pop(subject, None)
            for place, event in enumerate(events):
                if event.subject == subject and isinstance(result.outcomes[place], Held):
                    result.outcomes[place] = outcome

    async def _explained(
        self, stream: Stream, events: Sequence[Event], result: LaneResult
    ) -> Outcome:
        """Ask why nobody answered for anything, and let the reason be the outcome.

        If it is the subjects' own, what was not sent because of them is to be sent again.
        """
        why = next(iter(result.quiet.values()))
        reason = await self._routing.explain(stream, result.quiet.keys(), why)
        _replace(result, result.quiet.values(), reason)
        if isinstance(reason, Held) and reason.by != out(stream.name):
            result.quiet = dict.fromkeys(result.quiet, reason)
            for place, event in enumerate(events):
                if result.outcomes[place] == reason and event.subject not in result.quiet:
                    result.outcomes[place] = Unknown(f"not sent: {reason.reason}")
        else:
            result.quiet.clear()
        return reason

    async def _took_events(
        self, stream: Stream, events: Sequence[Event], result: LaneResult, *, stored: bool
    ) -> None:
        """Note what single subjects came to, in a stream that is not out as a whole."""
        if stream.found:
            for event, outcome in zip(events, result.outcomes, strict=True):
                if isinstance(outcome, Stored):
                    stream.found.pop(event.subject, None)
        stream.note({**result.found, **result.quiet})
        was_held = stream.held is not None
        if stored or result.stream_error is None:
            # After a silence the next is looked at sooner: is it the whole stream's?
            stream.held, stream.silences = None, int(bool(result.timed_out))
        changed = result.changed or (was_held and stored)
        limit = stream.max_bytes
        ours = 0 < limit <= self._sender.connection.max_payload and any(
            map(_is_ours, result.outcomes)
        )
        stream.doubted = ours
        if changed or ours:
            await self._routing.refresh(stream)
        if ours and (limit < stream.max_bytes or not stream.max_bytes):
            # A person raised it: what was true a minute ago must not make an event a dead one.
            raised = Unknown(f"{out(stream.name)}: its limit of {limit} bytes was raised meanwhile")
            result.outcomes[:] = [raised if _is_ours(each) else each for each in result.outcomes]

    async def _is_alive(self) -> bool:
        """Ask JetStream for anything, over the same connection; a refusal is an answer too."""
        try:
            await self._api.account(_PROOF_OF_LIFE_TIMEOUT)
        except (DeniedError, RejectedError):
            return True
        except NoAnswerError:
            return False
        return True


def rounds_of(
    events: Sequence[Event],
    routes: Mapping[str, Route],
    outcomes: Outcomes,
    lane_of: Callable[[Event, Stream], Lane],
) -> list[Round]:
    """Sort ``events``; those that go nowhere, and those behind them, get their outcome here."""
    rounds: list[Round] = [{}]
    last: dict[str, tuple[Lane, int]] = {}
    fence = KeyFence()
    for place, event in enumerate(events):
        key, route = event.key, routes[event.subject]
        if not fence.passes(key):
            outcomes[place] = WAITS
            continue
        if not isinstance(route, Stream):
            outcomes[place] = route
            fence.close(key)
            continue
        lane, turn = lane_of(event, route), 0
        if key is not None:
            before, turn = last.get(key, (lane, 0))
            turn += before != lane
            last[key] = (lane, turn)
            if turn == len(rounds):
                rounds.append({})
        rounds[turn].setdefault(lane, []).append(place)
    return rounds


def _all_apart(stream: Stream) -> bool:
    """Whether each event of ``stream`` needs an answer of its own."""
    return stream.path == WINDOWED or stream.held is not None or stream.suspect


def _all_as_usual(stream: Stream) -> bool:
    """Whether nothing is remembered of ``stream`` that a stored event would change."""
    return not (stream.held or stream.found or stream.suspect or stream.doubted or stream.silences)


def _replace(result: LaneResult, which: Collection[Held], by: Outcome | None) -> None:
    """Give ``by`` to all events whose outcome is one of ``which``."""
    result.outcomes[:] = [by if each in which else each for each in result.outcomes]


def _is_ours(outcome: Outcome | None) -> bool:
    """Whether it is a refusal before the wire for an event's size: the server gives a code."""
    return isinstance(outcome, Refused) and not outcome.code and outcome.fault is Fault.EVENT
