"""The streams that this process has met, and which of them take nothing at present.

    open ──a verdict on the whole stream──► closed ──its pause is over──► probed
      ▲                                       ▲ a longer pause              │ a few events are sent
      │                                       └─────────such a verdict──────┤
      └─────────looked up anew────────────────────────────anything else─────┘

Authoritative: the server. What is known here outlives the connection, so that a stream which is
away does not have to be asked about again each time: it is believed to be what it was, until it
takes an event. While closed its events are Held at once, without a byte to the server.

Pauses double up to a quarter of a second: the caller rests for up to half a second on top, and the
first event is wanted within one second after the stream is back. Four probes a second from one
relay are no burden. Only a stream that is silent costs the time of the whole call, and so has
pauses as long as its probes.
"""

import logging
from dataclasses import dataclass, field

from relay.core.outcome import Held
from relay.core.subjects import matches
from relay.jetstream.answers import HIDDEN, out
from relay.jetstream.api import Json
from relay.jetstream.weaknesses import weaknesses

log = logging.getLogger(__name__)

FAST_INGEST = "fast ingest"
WINDOWED = "windowed"

PAUSE_FIRST = 0.1
PAUSE_MOST = 0.25
PAUSE_AFTER_SILENCE_MOST = 2.0
PATIENCE_FIRST = 1.0
"""s for the first probe of a silent stream; doubled while it stays so, up to the usual time-out."""

SEQ_UNKNOWN = -(1 << 62)


@dataclass(slots=True)
class Hold:
    """One stream's outage: since the first verdict, until something is stored again.

    Attributes:
        why: the outcome of its events.
        closed_until: nothing is sent before then.
        silences: verdicts in a row that were the lack of any answer.
    """

    why: Held
    closed_until: float = 0.0
    silences: int = 0
    _pause: float = PAUSE_FIRST

    def again(self, why: Held, now: float, *, took: float, silent: bool) -> None:
        """Note one more verdict, which needed ``took`` s to come."""
        self.why = why
        self.silences = self.silences + 1 if silent else 0
        self.closed_until = now + max(self._pause, min(took, PAUSE_AFTER_SILENCE_MOST))
        self._pause = min(self._pause * 2, PAUSE_MOST)

    def patience(self, usual: float) -> float:
        """Return the seconds to wait for the next probe's answers."""
        if not self.silences:
            return usual
        return min(usual, PATIENCE_FIRST * 2.0 ** (self.silences - 1))


@dataclass(slots=True)
class Stream:
    """A stream as events meet it. One object a name, for the life of the process.

    Attributes:
        name: the stream's name, or ``HIDDEN``.
        path: ``FAST_INGEST`` or ``WINDOWED``.
        filters: the subjects it captures.
        once: every subject filter it ever had.
        max_bytes: its own limit of headers and payload together; 0 if it has none.
        last_seq: the highest stream sequence that we have seen.
        hold: its outage; None while it takes events.
    """

    name: str
    path: str = WINDOWED
    filters: tuple[str, ...] = ()
    once: set[str] = field(default_factory=set)
    max_bytes: int = 0
    last_seq: int = SEQ_UNKNOWN
    hold: Hold | None = None

    def captures(self, subject: str) -> bool:
        """Say whether one of its filters takes ``subject``."""
        return any(matches(each, subject) for each in self.filters)

    def captured(self, subject: str) -> bool:
        """Say whether it takes ``subject`` or ever took it."""
        return any(matches(each, subject) for each in self.once)

    def takes_nothing(
        self, reason: str, now: float, *, code: int = 0, took: float = 0.0, silent: bool = False
    ) -> Held:
        """Close it for a while, for one more time; return the outcome of its events."""
        why = Held(out(self.name), reason, code)
        if self.hold is None:
            self.hold = Hold(why)
            self.last_seq = SEQ_UNKNOWN  # it may come back as another one
        self.hold.again(why, now, took=took, silent=silent)
        return why


class KnownStreams:
    """Every stream met, and what was said of it in the log: once a process, not a connection."""

    def __init__(self) -> None:
        """Know none."""
        self.paths: dict[str, str] = {}
        self._streams: dict[str, Stream] = {}
        self._warned: set[tuple[str, str]] = set()

    @property
    def alone(self) -> str | None:
        """How the outage of the only stream is named; None if there are others, or none."""
        if len(self._streams) != 1 or HIDDEN in self._streams:
            return None
        return out(next(iter(self._streams)))

    def get(self, name: str) -> Stream:
        """Return the stream of that name, met now or before."""
        return self._streams.setdefault(name, Stream(name))

    def held(self, subject: str) -> Stream | None:
        """Find the stream with an outage that captures ``subject``, as far as we know."""
        for stream in self._streams.values():
            if stream.hold is not None and stream.captures(subject):
                return stream
        return None

    def once(self, subject: str) -> Stream | None:
        """Find a stream that captured ``subject`` when we met it."""
        return next((each for each in self._streams.values() if each.captured(subject)), None)

    def learn(self, info: Json, *, can_batch: bool) -> Stream:
        """Take in a STREAM.INFO; log what it puts at risk, and the path."""
        config = info["config"]
        stream = self.get(config["name"])
        stream.path = FAST_INGEST if can_batch and config.get("allow_batched") else WINDOWED
        stream.filters = tuple(config.get("subjects") or ())
        stream.once.update(stream.filters)
        # An event over max_bytes fits into no stream of that size, however empty.
        limits = [config.get(limit) or 0 for limit in ("max_msg_size", "max_bytes")]
        stream.max_bytes = min((limit for limit in limits if limit > 0), default=0)
        stream.last_seq = info.get("state", {}).get("last_seq", SEQ_UNKNOWN)
        self._warn(info, can_batch=can_batch)
        self.choose(stream)
        return stream

    def choose(self, stream: Stream) -> None:
        """Log the path of a stream, when it is first taken and when it changes."""
        if self.paths.get(stream.name) != stream.path:
            self.paths[stream.name] = stream.path
            extra = {"stream": stream.name, "path": stream.path}
            log.info("publishing by %s", stream.path, extra=extra)

    def _warn(self, info: Json, *, can_batch: bool) -> None:
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
