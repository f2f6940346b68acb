"""What follows for a stream, its subjects and the connection when a lane did not store everything.

Two reports are checked first. No answer for a subject, and none for any other event of the stream:
the stream may be gone, without a leader, or have given the subject away; STREAM.INFO is asked. No
answer in time: if JetStream answers another question now, the connection stays, with the other
streams' events on it; if not, it is dropped, for another server may do better.

Authoritative: what the lane reports as ``LaneResult``, and the server's answers to these questions.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from relay.core.event import Event
from relay.core.outcome import Fault, Held, Outcome, Refused, Stored, Unknown
from relay.core.subjects import matches
from relay.jetstream.answers import HIDDEN, WHOLE_STREAM, Meaning, out
from relay.jetstream.api import Api, DeniedError, NoAnswerError, RejectedError
from relay.jetstream.codes import STREAM_NOT_FOUND
from relay.jetstream.connection import Connection
from relay.jetstream.routing import ASK_AGAIN_TIMEOUT, Routing
from relay.jetstream.streams import Stream

_PROOF_OF_LIFE_TIMEOUT = 1.0


@dataclass(slots=True)
class LaneResult:
    """What one path reports of the events it was to send to one stream.

    ``outcomes`` has one an event. None where the connection was lost first, and where a batch ended
    early without a reason: then the event is to be sent by the windowed path.
    """

    outcomes: list[Outcome | None]
    stream_error: Meaning | None = None  # the first answer that spoke of the whole stream
    found: dict[str, Held] = field(default_factory=dict)  # full or forbidden subjects
    quiet: dict[str, Held] = field(default_factory=dict)  # subjects that nobody answered for
    moved: dict[str, str] = field(default_factory=dict)  # only the stream named here answered
    foreign_streams: set[str] = field(default_factory=set)  # those of other domains that answered
    changed: bool = False  # the stream is not what we took it for
    timed_out: float = 0.0  # s after which the deadline passed before all answers were there
    contradicted: bool = False  # two answers to one token can't both be true

    def halt(self, error: Meaning) -> None:
        """Let ``error`` be the outcome of all that has none."""
        self.stream_error = error
        self.fill(error.outcome)

    def fill(self, outcome: Outcome) -> None:
        """Let ``outcome`` be that of all that has none."""
        self.outcomes[:] = [each or outcome for each in self.outcomes]

    def take_over(self, left: "LaneResult") -> None:
        """Add what sending the rest found out; the outcomes are the caller's business."""
        self.stream_error = self.stream_error or left.stream_error
        self.found.update(left.found)
        self.quiet.update(left.quiet)
        self.moved.update(left.moved)
        self.foreign_streams |= left.foreign_streams
        self.changed = self.changed or left.changed
        self.timed_out = self.timed_out or left.timed_out
        self.contradicted = self.contradicted or left.contradicted

    def replace(self, which: Collection[Outcome], by: Outcome | None) -> None:
        """Give ``by`` to all events whose outcome is one of ``which``."""
        self.outcomes[:] = [by if each in which else each for each in self.outcomes]


@dataclass(slots=True)
class Diagnosis:
    """Conclusions over one connection; ``routing`` is told what is found out."""

    _connection: Connection
    _api: Api
    _routing: Routing

    async def conclude(
        self, stream: Stream, events: Sequence[Event], result: LaneResult, *, windowed: bool
    ) -> None:
        """Believe ``result``, or look into it; leave the stream as it is now known to be."""
        stored = Stored in set(map(type, result.outcomes))
        for name in result.foreign_streams:
            self._routing.streams.second_capture(name)
        if result.contradicted:
            self._routing.streams.second_capture(stream.name)
        if result.timed_out and not await self._is_alive():
            seconds = f"no answer within {result.timed_out:g} s"
            self._connection.drop(f"{out(stream.name)}: {seconds}, and none by JetStream itself")
            result.replace(result.quiet.values(), None)
            return
        stream.silent = bool(result.timed_out)
        stream.suspect = stream.silent and not windowed
        await self._follow(events, result)
        held: Outcome | None = None
        if result.stream_error is not None and result.stream_error.kind in WHOLE_STREAM:
            held = result.stream_error.outcome
        elif result.quiet and not stored:
            held = await self._explain(stream, events, result)
        if isinstance(held, Held) and held.by == out(stream.name):
            stream.takes_nothing(held)
        else:
            await self._took_events(stream, events, result, stored=stored)

    async def _is_alive(self) -> bool:
        """Ask JetStream for anything, over the same connection; a refusal is an answer too."""
        try:
            await self._api.account(_PROOF_OF_LIFE_TIMEOUT)
        except (DeniedError, RejectedError):
            return True
        except NoAnswerError:
            return False
        return True

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

    async def _explain(
        self, stream: Stream, events: Sequence[Event], result: LaneResult
    ) -> Outcome:
        """Find out why nobody answered for anything, and let the reason be the outcome.

        If it is the subjects' own, what was not sent because of them is to be sent again.
        """
        why = next(iter(result.quiet.values()))
        reason = await self._reason(stream, result.quiet.keys(), why)
        result.replace(result.quiet.values(), reason)
        if isinstance(reason, Held) and reason.by != out(stream.name):
            result.quiet = dict.fromkeys(result.quiet, reason)
            for place, event in enumerate(events):
                if result.outcomes[place] == reason and event.subject not in result.quiet:
                    result.outcomes[place] = Unknown(f"not sent: {reason.reason}")
        else:
            result.quiet.clear()
        return reason

    async def _reason(self, stream: Stream, subjects: Collection[str], why: Held) -> Held | Unknown:
        """Ask why none of ``subjects`` was answered, and nothing else of ``stream`` either.

        A ``Held`` by the stream itself speaks of all of it, any other outcome of the subjects only.
        """
        by, routing = out(stream.name), self._routing
        if stream.name == HIDDEN:
            return why
        try:
            info = await self._api.stream_info(stream.name, ASK_AGAIN_TIMEOUT)
        except RejectedError as no:
            if no.code != STREAM_NOT_FOUND:
                return Held(by, f"{by}: {no}", no.code)
        except (DeniedError, NoAnswerError) as no:
            hidden = isinstance(no, DeniedError)
            reason = f"{by} does not answer, and" if hidden else f"{by} has no leader:"
            return Held(by, f"{reason} {no}", why.code)
        else:
            routing.streams.learn(info, can_batch=routing.can_batch)
            if all(any(matches(each, subject) for each in info.subjects) for subject in subjects):
                several = len(subjects) > 1 and not why.code
                return stream.never_says() or (Held(by, f"{by}: {why.reason}") if several else why)
        await routing.look()
        return self._moved(stream, subjects)

    def _moved(self, stream: Stream, subjects: Collection[str]) -> Held | Unknown:
        for subject in subjects:
            route = self._routing.resolve(subject)
            if isinstance(route, Held):
                return route
            if isinstance(route, Stream) and route is not stream:
                return Unknown(f"{subject} has moved from {out(stream.name)} to {out(route.name)}")
        return Unknown(f"{out(stream.name)} has changed")

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
            stream.held = None
        limit, no_ttl = stream.max_bytes, stream.no_ttl if stream.info is not None else ""
        has_limit = 0 < limit <= self._connection.wire.max_payload
        stream.doubted = bool(has_limit or no_ttl) and any(map(_is_refused_here, result.outcomes))
        if result.changed or stream.doubted or (was_held and stored):
            await self._routing.refresh(stream)
        is_raised = has_limit and (limit < stream.max_bytes or not stream.max_bytes)
        if stream.doubted and (is_raised or (no_ttl and not stream.no_ttl)):
            # A person changed it: what was true a minute ago must not make an event a dead one.
            raised = Unknown(f"{out(stream.name)}: its configuration was changed meanwhile")
            result.outcomes[:] = [
                raised if _is_refused_here(each) else each for each in result.outcomes
            ]


def _is_refused_here(outcome: Outcome | None) -> bool:
    """Whether an event was refused for size or ttl before the wire: the server gives a code."""
    return isinstance(outcome, Refused) and not outcome.code and outcome.fault is Fault.EVENT
