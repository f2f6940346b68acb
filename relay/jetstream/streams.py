"""Which stream captures a subject, and how that stream is published to.

    subject ──known──► stream or refusal                    a dictionary look-up an event
            └─unknown─► a known stream's filter takes it    matched here
                        └─► STREAM.NAMES, STREAM.INFO       one round trip a stream, not a subject

Authoritative: the server. What is known here lasts for one connection, and is forgotten as soon as
an answer smells of a changed stream. "No stream captures it" is remembered for 2 s only, for the
next thing a person does is to make one.

On failure: a leaderless or silent JetStream is Unknown, never "no stream". Where the permissions
hide the streams, everything goes by the windowed path, with the server's limits alone.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass

import anyio

from relay.core.outcome import Refused, Unknown
from relay.core.subjects import fault_of, matches
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
from relay.jetstream.setup import FAST_INGEST_LEVEL
from relay.jetstream.weaknesses import weaknesses

log = logging.getLogger(__name__)

FAST_INGEST = "fast ingest"
WINDOWED = "windowed"

HIDDEN = "?"
"""The name under which events go whose stream the permissions hide."""

_REFUSAL_LASTS = 2.0
_MOST_SUBJECTS = 65_536


@dataclass(slots=True)
class Stream:
    """A stream as events meet it.

    Attributes:
        name: the stream's name, or ``HIDDEN``.
        path: ``FAST_INGEST`` or ``WINDOWED``.
        filters: the subjects it captures.
        max_msg_size: its own limit of headers and payload, bytes; 0 if it has none.
        last_seq: the highest stream sequence that we have seen.
    """

    name: str
    path: str
    filters: tuple[str, ...] = ()
    max_msg_size: int = 0
    last_seq: int = 0


Route = Stream | Refused | Unknown


class Notices:
    """What was said in the log already: it is said once a process, not once a connection."""

    def __init__(self) -> None:
        """Nothing is said yet."""
        self.paths: dict[str, str] = {}
        self._warned: set[tuple[str, str]] = set()

    def choose(self, stream: Stream) -> None:
        """Log the path of a stream, when it is first taken and when it changes."""
        if self.paths.get(stream.name) != stream.path:
            self.paths[stream.name] = stream.path
            extra = {"stream": stream.name, "path": stream.path}
            log.info("publishing by %s", stream.path, extra=extra)

    def warn(self, info: Json, *, can_batch: bool) -> None:
        """Log each weakness of a stream once, with its remedy."""
        config = info["config"]
        consumers = info.get("state", {}).get("consumer_count", 0)
        for weak, remedy in weaknesses(config, consumers=consumers, can_batch=can_batch):
            if (config["name"], weak) not in self._warned:
                self._warned.add((config["name"], weak))
                hint = weak.startswith("allow_batched")
                extra = {"stream": config["name"], "weakness": weak, "remedy": remedy}
                level = logging.INFO if hint else logging.WARNING
                log.log(level, "stream %s: %s; %s", config["name"], weak, remedy, extra=extra)


class StreamMap:
    """Subjects to streams, for one connection."""

    def __init__(
        self, connection: Connection, level: int, notices: Notices, ask_timeout: float
    ) -> None:
        """Know nothing yet.

        Args:
            connection: where to ask.
            level: the server's JetStream API level.
            notices: where the path and the weaknesses are said.
            ask_timeout: s for each question.
        """
        self._routes: dict[str, Route] = {}
        self._connection = connection
        self._level = level
        self._notices = notices
        self._timeout = ask_timeout
        self._streams: dict[str, Stream] = {}
        self._refused_until: dict[str, float] = {}

    def learn(self, info: Json) -> Route:
        """Take in a STREAM.INFO."""
        config = info["config"]
        name = config["name"]
        if config.get("no_ack"):
            return Unknown(f"stream {name} has no_ack and never says what it stored; set it false")
        can_batch = self._level >= FAST_INGEST_LEVEL
        stream = Stream(
            name=name,
            path=FAST_INGEST if can_batch and config.get("allow_batched") else WINDOWED,
            filters=tuple(config.get("subjects") or ()),
            max_msg_size=max(0, config.get("max_msg_size") or 0),
            last_seq=info.get("state", {}).get("last_seq", 0),
        )
        self._streams[name] = stream
        self._notices.warn(info, can_batch=can_batch)
        self._notices.choose(stream)
        return stream

    async def routes_of(self, subjects: Iterable[str]) -> dict[str, Route]:
        """Find where each of ``subjects`` goes.

        The first question without an answer answers for all that would have to be asked as well:
        a JetStream that is away costs one deadline, not one a subject.
        """
        silent: Unknown | None = None
        routes: dict[str, Route] = {}
        for subject in subjects:
            route = self._routes.get(subject)
            if route is None or isinstance(route, Refused):
                route = await self._resolve(subject, silent)
                silent = silent or (route if isinstance(route, Unknown) else None)
            denial = self._connection.denial(subject)
            routes[subject] = Unknown(denial) if denial else route
        return routes

    async def _resolve(self, subject: str, silent: Unknown | None) -> Route:
        """Find where ``subject`` goes. An Unknown is not remembered, a Refused for 2 s."""
        if anyio.current_time() < self._refused_until.get(subject, 0.0):
            return self._routes[subject]
        route = self._judge(subject) or self._match(subject) or silent or await self._ask(subject)
        if isinstance(route, Unknown):
            return route
        if len(self._routes) >= _MOST_SUBJECTS:
            self._forget_subjects()
        self._routes[subject] = route
        if isinstance(route, Refused):
            self._refused_until[subject] = anyio.current_time() + _REFUSAL_LASTS
        return route

    def forget(self, stream: Stream) -> None:
        """Look the stream up anew when its next event comes."""
        self._streams.pop(stream.name, None)
        self._forget_subjects()

    def _forget_subjects(self) -> None:
        self._routes.clear()
        self._refused_until.clear()

    def _judge(self, subject: str) -> Refused | None:
        fault = fault_of(subject) or line_fault(subject, self._connection.inbox)
        return Refused(fault) if fault else None

    def _match(self, subject: str) -> Stream | None:
        for stream in self._streams.values():
            if any(matches(each, subject) for each in stream.filters):
                return stream
        return None

    async def _ask(self, subject: str) -> Route:
        try:
            names = await streams_of(self._connection, subject, self._timeout)
        except DeniedError:
            return self._hidden(HIDDEN)
        except (RejectedError, NoAnswerError) as why:
            return Unknown(f"nobody can say which stream captures {subject}: {why}")
        if not names:
            return Refused(f"no stream captures {subject}: create one or set RELAY_STREAM_CREATE")
        return await self._inspect(names[0])

    async def _inspect(self, name: str) -> Route:
        try:
            return self.learn(await stream_info(self._connection, name, self._timeout))
        except DeniedError:
            return self._hidden(name)
        except RejectedError as no:
            gone = no.code == STREAM_NOT_FOUND
            return Unknown(f"stream {name}: {'just deleted' if gone else no}", no.code)
        except NoAnswerError as silence:
            return Unknown(f"stream {name}: {silence}")

    def _hidden(self, name: str) -> Stream:
        if name not in self._streams:
            self._streams[name] = Stream(name, WINDOWED)
            log.warning(
                "the permissions hide the streams: no fast ingest and no check of their limits; "
                "allow $JS.API.STREAM.NAMES and $JS.API.STREAM.INFO.*",
                extra={"stream": name},
            )
            self._notices.choose(self._streams[name])
        return self._streams[name]
