"""The streams of the server, as this process knows them, beyond any one connection.

Authoritative: the server. A stream is believed to be as it was last seen. Every filter that a
stream ever had is remembered, here and by the engine in the database, for a subject that once was
captured is held, and one that never was is refused.

``Stream.held`` and ``Stream.found`` say what the last try came to, and when that was is of no
matter: the engine's ledger decides when a stream or a subject is tried again.
"""

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from relay.core.outcome import Held, Stored
from relay.core.subjects import matches
from relay.jetstream.answers import Expected, StreamInfo
from relay.jetstream.filters import Filters
from relay.jetstream.weaknesses import weaknesses

log = logging.getLogger(__name__)

FAST_INGEST = "fast ingest"
WINDOWED = "windowed"

SEQ_UNKNOWN = -(1 << 62)

_PATIENCE_FIRST = 1.0
_MOST_FOUND = 10_000


@dataclass(slots=True, eq=False)
class Stream:
    """A stream as events meet it. One object a name, for the life of the process.

    Attributes:
        name: the stream's name, or ``HIDDEN``.
        expected: whose answers count.
        stored: the outcome of an event of which no more is known than that it is stored.
        path: ``FAST_INGEST`` or ``WINDOWED``.
        subjects: the filters it has now.
        max_bytes: its own limit of headers and payload together; 0 if it has none.
        direct: whether its messages can be read by direct get.
        readable: whether the permissions let us read its messages.
        no_ack: it never says what it stored.
        duplicate_window: s; None if that is not known.
        last_seq: the highest stream sequence that we have seen.
        met: whether an event ever went to it.
        held: what the whole of it last came to; None if it took an event.
        found: what single subjects last came to.
        silences: tries in a row in which the whole of it gave no answer at all.
        doubted: an event was refused here by its limit, which a person may raise any time.
        suspect: its last batch was never answered to the end: an answer for each message is wanted.
    """

    name: str
    expected: Expected
    stored: Stored
    path: str = WINDOWED
    subjects: tuple[str, ...] = ()
    max_bytes: int = 0
    direct: bool = True
    readable: bool = True
    no_ack: bool = False
    duplicate_window: float | None = None
    last_seq: int = SEQ_UNKNOWN
    met: bool = False
    held: Held | None = None
    found: dict[str, Held] = field(default_factory=dict)
    silences: int = 0
    doubted: bool = False
    suspect: bool = False
    weak: list[tuple[str, str]] = field(default_factory=list)

    def hold_of(self, subject: str, closed: Collection[str]) -> Held | None:
        """Return the outcome of an event on ``subject`` if one of ``closed`` holds it, we know."""
        if self.held is not None and self.held.by in closed:
            return self.held
        held = self.found.get(subject)
        return held if held is not None and held.by in closed else None

    def takes_nothing(self, why: Held) -> None:
        """Note that the whole of it takes nothing now."""
        self.held = why
        self.last_seq = SEQ_UNKNOWN  # it may come back as another one

    def note(self, found: Mapping[str, Held]) -> None:
        """Note what single subjects came to."""
        if len(self.found) + len(found) > _MOST_FOUND:
            self.found.clear()
        self.found.update(found)

    def patience(self, usual: float) -> float:
        """Return the s to wait for an answer: at first few for a stream that was silent."""
        if not self.silences:
            return usual
        return min(usual, _PATIENCE_FIRST * 2.0 ** (self.silences - 1))


class Streams:
    """Every stream known, and what was said of it in the log: once a process, not a connection."""

    def __init__(self) -> None:
        """Know none."""
        self.by_name: dict[str, Stream] = {}
        self._ever: dict[str, set[str]] = {}
        self._once = Filters[str]()
        self._unsaved: set[str] = set()
        self._paths: dict[str, str] = {}
        self._warned: set[tuple[str, str]] = set()

    @property
    def met(self) -> list[Stream]:
        """The streams that events went to, in the order in which they were met."""
        return [stream for stream in self.by_name.values() if stream.met]

    @property
    def paths(self) -> dict[str, str]:
        """How each of them is published to."""
        return {stream.name or "?": stream.path for stream in self.met}

    def get(self, name: str, domain: str | None = None) -> Stream:
        """Return the stream of that name, known before or not."""
        stream = self.by_name.get(name)
        if stream is None:
            stream = Stream(name, Expected(name, domain), Stored(name))
            self.by_name[name] = stream
        return stream

    def once(self, subject: str, only: str | None = None) -> str | None:
        """Name a stream that ever captured ``subject``; of ``only`` alone if that is given."""
        if only is None:
            return self._once.find(subject)
        return only if any(matches(each, subject) for each in self._ever.get(only, ())) else None

    def recall(self, streams: Mapping[str, Collection[str]]) -> None:
        """Take in streams with every filter they ever had."""
        for name, filters in streams.items():
            self._remember(name, filters)

    def learnt(self) -> dict[str, Collection[str]]:
        """Return the streams and filters learnt since this was asked last."""
        unsaved: dict[str, Collection[str]] = {
            name: sorted(self._ever[name]) for name in self._unsaved
        }
        self._unsaved.clear()
        return unsaved

    def learn(self, info: StreamInfo, *, can_batch: bool) -> Stream:
        """Take in what the server says of a stream."""
        config, stream = info.config, self.get(info.name, info.domain)
        if stream.expected.domain != info.domain:
            stream.expected = Expected(info.name, info.domain)
        stream.path = FAST_INGEST if can_batch and config.get("allow_batched") else WINDOWED
        stream.subjects = info.subjects
        # An event over max_bytes fits into no stream of that size, however empty.
        limits = [config.get(limit, 0) for limit in ("max_msg_size", "max_bytes")]
        stream.max_bytes = min((limit for limit in limits if limit > 0), default=0)
        stream.direct = config.get("allow_direct", False)
        stream.readable = True
        stream.no_ack = config.get("no_ack", False)
        stream.duplicate_window = config.get("duplicate_window", 0) / 1e9
        stream.last_seq = max(stream.last_seq, info.state["last_seq"])
        stream.weak = weaknesses(
            config, consumers=info.state["consumer_count"], can_batch=can_batch
        )
        if self._remember(info.name, info.subjects):
            self._unsaved.add(info.name)
        if stream.met:
            self._log(stream)
        return stream

    def meet(self, stream: Stream) -> None:
        """Note that an event goes to ``stream``; log its path and what it puts at risk, once."""
        if not stream.met:
            stream.met = True
            self._log(stream)

    def second_capture(self, name: str) -> None:
        """Warn, once for each, that another stream stores what we publish as well."""
        if (name, "") not in self._warned and len(self._warned) < _MOST_FOUND:
            self._warned.add((name, ""))
            log.warning(
                "stream %s of another domain answers for what the relay publishes: two streams "
                "capture the same subjects; its answers prove nothing",
                name,
                extra={"stream": name},
            )

    def _remember(self, name: str, filters: Collection[str]) -> bool:
        """Add filters that ``name`` had; True if one is new."""
        ever = self._ever.setdefault(name, set())
        new = set(filters) - ever
        for each in new:
            ever.add(each)
            self._once.add(each, name)
        return bool(new)

    def _log(self, stream: Stream) -> None:
        name = stream.name or "?"
        if self._paths.get(name) != stream.path:
            self._paths[name] = stream.path
            extra = {"stream": name, "path": stream.path}
            log.info("publishing by %s", stream.path, extra=extra)
        for weak, remedy in stream.weak:
            if (name, weak) not in self._warned:
                self._warned.add((name, weak))
                hint = weak.startswith("allow_batched")
                extra = {"stream": name, "weakness": weak, "remedy": remedy}
                level = logging.INFO if hint else logging.WARNING
                log.log(level, "stream %s: %s; %s", name, weak, remedy, extra=extra)
