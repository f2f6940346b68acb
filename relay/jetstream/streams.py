"""Which stream captures a subject, and why one that should take an event takes none.

    subject ──known──► stream, refusal or outage            a dictionary look-up an event
            └─unknown─► a known stream's filter takes it    matched here
                        └─► STREAM.NAMES, STREAM.INFO       one round trip a stream, not a subject

Authoritative: the server. What is asked here is believed for one connection, and forgotten as soon
as an answer smells of a changed stream. "No stream captures it" is remembered for 2 s only, for the
next thing a person does is to make one.

"The stream is gone" and "the stream has no leader" look alike to who publishes: nobody answers.
STREAM.NAMES tells them apart, for it is not the stream that answers it. A subject is refused only
if no stream ever captured it: where one did, events wait for it to be made again.

On failure: a leaderless or silent JetStream is an outage, never "no stream". Where the permissions
hide the streams, everything goes by the windowed path, with the server's limits alone.
"""

import logging
from collections.abc import Iterable

import anyio

from relay.core.outcome import Held, Refused, Unknown
from relay.core.subjects import fault_of
from relay.jetstream.answers import HIDDEN, NO_RESPONDERS, forbidden, out
from relay.jetstream.api import (
    STREAM_NOT_FOUND,
    DeniedError,
    Json,
    NoAnswerError,
    RejectedError,
    stream_info,
    streams_of,
)
from relay.jetstream.connection import Connection
from relay.jetstream.frames import line_fault
from relay.jetstream.known import KnownStreams, Stream
from relay.jetstream.setup import FAST_INGEST_LEVEL

log = logging.getLogger(__name__)

ASK_TIMEOUT = 2.0
"""s for a question about a stream. A leaderless one never answers, not even when it has a leader
again, so the question is better asked anew: 5 s each made the recovery from a dead leader slow."""

_ASK_AGAIN_TIMEOUT = 0.5
"""s for a question in the middle of an outage: other streams' events wait for it meanwhile."""

_REFUSAL_LASTS = 2.0
_OUTAGE_LASTS = 0.5
_SILENCE_LASTS_LEAST = 0.5
_MOST_SUBJECTS = 65_536

Route = Stream | Refused | Held | Unknown


class StreamMap:
    """Subjects to streams, for one connection."""

    def __init__(
        self,
        connection: Connection,
        level: int,
        known: KnownStreams,
        ask_timeout: float = ASK_TIMEOUT,
    ) -> None:
        """Begin with what is known of the streams, and ask before any of it is used.

        Args:
            connection: where to ask.
            level: the server's JetStream API level.
            known: the streams met so far, by this connection and earlier ones.
            ask_timeout: s for each question.
        """
        self._connection = connection
        self._level = level
        self._known = known
        self._timeout = ask_timeout
        self._routes: dict[str, Route] = {}
        self._routes_until: dict[str, float] = {}
        self._asked: dict[str, Stream] = {}
        self._nobody_says: Held | None = None
        self._silent_until = 0.0

    def learn(self, info: Json) -> Route:
        """Take in a STREAM.INFO."""
        stream = self._known.learn(info, can_batch=self._level >= FAST_INGEST_LEVEL)
        if info["config"].get("no_ack"):
            why = f"stream {stream.name} has no_ack and never says what it stored; set it false"
            return Held(out(stream.name), why)
        self._asked[stream.name] = stream
        return stream

    def out_of_reach(self, name: str, why: str) -> None:
        """Note that ``name`` could not be asked about: its events wait."""
        self._known.get(name).takes_nothing(why, anyio.current_time())

    async def routes_of(self, subjects: Iterable[str]) -> dict[str, Route]:
        """Find where each of ``subjects`` goes.

        The first question without an answer answers for all that would have to be asked as well:
        a JetStream that is away costs one deadline, not one a subject.
        """
        routes: dict[str, Route] = {}
        for subject in subjects:
            route = self._routes.get(subject)
            if not isinstance(route, Stream):
                route = await self._resolve(subject)
            denial = self._connection.denial(subject)
            routes[subject] = forbidden(denial) if denial else route
        return routes

    def stream_of(self, subject: str) -> str | None:
        """Name the stream that ``subject`` went to; None if it went nowhere, or that is hidden."""
        route = self._routes.get(subject)
        return route.name if isinstance(route, Stream) and route.name != HIDDEN else None

    def forget(self, stream: Stream) -> None:
        """Look the stream up anew when its next event comes."""
        self._asked.pop(stream.name, None)
        self._forget_subjects()

    async def inspect(self, name: str) -> Route:
        """Ask what ``name`` is like. If it can't say, it is believed to be as it was, and away."""
        try:
            return self.learn(await stream_info(self._connection, name, self._timeout))
        except DeniedError:
            return self._hidden(name)
        except RejectedError as no:
            if no.code == STREAM_NOT_FOUND:
                return Unknown(f"{out(name)}: just deleted", no.code)
            self.out_of_reach(name, f"{out(name)}: {no}")
        except NoAnswerError as silence:
            self.out_of_reach(name, f"{out(name)} has no leader: {silence}")
        return self._known.get(name)

    async def explain(self, stream: Stream, subject: str) -> Held | Unknown:
        """Find out why nobody answered an event published to ``stream`` on ``subject``.

        A ``Held`` by the stream itself speaks of all of it, any other outcome of the subject only.
        """
        by = out(stream.name)
        try:
            names = await streams_of(self._connection, subject, _ASK_AGAIN_TIMEOUT)
        except (DeniedError, RejectedError, NoAnswerError) as why:
            return Held(by, f"{by}: nobody takes its messages, nor says why: {why}", NO_RESPONDERS)
        if stream.name in names:
            return Held(by, f"{by} has no leader", NO_RESPONDERS)
        self.forget(stream)
        if names:
            return Unknown(f"{subject} has moved from {by} to {out(names[0])}")
        return await self._lost(stream, subject)

    async def _resolve(self, subject: str) -> Route:
        """Find where ``subject`` goes. An Unknown is not remembered, the others for a while."""
        if anyio.current_time() < self._routes_until.get(subject, 0.0):
            return self._routes[subject]
        route = self._judge(subject) or self._match(subject) or await self._ask(subject)
        if isinstance(route, Unknown):
            return route
        if len(self._routes) >= _MOST_SUBJECTS:
            self._forget_subjects()
        self._routes[subject] = route
        if not isinstance(route, Stream):
            lasts = _REFUSAL_LASTS if isinstance(route, Refused) else _OUTAGE_LASTS
            self._routes_until[subject] = anyio.current_time() + lasts
        return route

    def _forget_subjects(self) -> None:
        self._routes.clear()
        self._routes_until.clear()

    def _judge(self, subject: str) -> Refused | None:
        fault = fault_of(subject) or line_fault(subject, self._connection.inbox)
        return Refused(fault) if fault else None

    def _match(self, subject: str) -> Stream | None:
        for stream in self._asked.values():
            if stream.captures(subject):
                return stream
        return self._known.held(subject)

    async def _ask(self, subject: str) -> Route:
        names = await self._names(subject)
        if names is None:
            return self._hidden(HIDDEN)
        if isinstance(names, Held):
            return names
        if names:
            return await self.inspect(names[0])
        once = self._known.once(subject)
        if once is None:
            return Refused(f"no stream captures {subject}: create one or set RELAY_STREAM_CREATE")
        lost = await self._lost(once, subject)
        if lost.by != out(once.name):
            return lost
        once.takes_nothing(lost.reason, anyio.current_time(), code=lost.code)
        return once

    async def _names(self, subject: str) -> list[str] | Held | None:
        """Name the streams that capture ``subject``; None where that is hidden."""
        now = anyio.current_time()
        if self._nobody_says is not None and now < self._silent_until:
            return self._nobody_says
        timeout = self._timeout if self._nobody_says is None else _ASK_AGAIN_TIMEOUT
        try:
            names = await streams_of(self._connection, subject, timeout)
        except DeniedError:
            return None
        except (RejectedError, NoAnswerError) as why:
            took = anyio.current_time() - now
            self._silent_until = now + took + max(took, _SILENCE_LASTS_LEAST)
            reason = f"nobody can say which stream captures {subject}: {why}"
            self._nobody_says = Held(out(HIDDEN), reason)
            return self._nobody_says
        self._nobody_says = None
        return names

    async def _lost(self, once: Stream, subject: str) -> Held:
        """Say what became of the stream that captured ``subject``, now that nobody does."""
        by = out(once.name)
        try:
            info = await stream_info(self._connection, once.name, _ASK_AGAIN_TIMEOUT)
        except RejectedError as no:
            if no.code != STREAM_NOT_FOUND:
                return Held(by, f"{by}: {no}", no.code)
            return Held(by, f"{by} is gone: make it again, with its subjects", STREAM_NOT_FOUND)
        except (DeniedError, NoAnswerError) as why:
            return Held(by, f"{by} does not capture {subject} any more: {why}")
        self.learn(info)
        reason = f"{by} does not capture {subject} any more: add it to its subjects again"
        return Held(f"lost subjects of {once.name}", reason)

    def _hidden(self, name: str) -> Stream:
        if name not in self._asked:
            stream = self._asked[name] = self._known.get(name)
            log.warning(
                "the permissions hide the streams: no fast ingest and no check of their limits; "
                "allow $JS.API.STREAM.NAMES and $JS.API.STREAM.INFO.*",
                extra={"stream": name},
            )
            self._known.choose(stream)
        return self._asked[name]
