"""The streams of the server, as this process knows them, beyond any one connection.

Authoritative: the server. A stream is believed to be as it was last described. Every filter that a
stream ever had is remembered, here and by the engine in the database: a subject that was captured
once is held, and a subject that no stream ever captured is refused.

``Stream.held`` and ``Stream.found`` say what the last try came to, and when that was is of no
matter: the engine's ledger decides when a stream or a subject is tried again.

A weakness of a stream is a warning, for the stream still takes events: it is its owner's choice
what they are worth.
"""

import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from relay.core import durations
from relay.core.outcome import Held, Stored
from relay.core.subjects import matches
from relay.jetstream.answers import Expected, Json, out
from relay.jetstream.api import WINDOWED, StreamInfo

log = logging.getLogger(__name__)

MIN_DUPLICATE_WINDOW_NS = 120_000_000_000
"""Two minutes: the server's default, and what a take-over with its retries needs."""

SEQ_UNKNOWN = -(1 << 62)

_PATIENCE_AFTER_SILENCE = 0.8
"""s. Other streams' events wait as long as a try of a stream that was silent."""

_MOST_FOUND = 10_000

T = TypeVar("T")


class Weakness(NamedTuple):
    """What a stream puts at risk, and what to do about it; ``topic`` is one word for sorting."""

    topic: str
    weak: str
    remedy: str


@dataclass(slots=True, eq=False)
class Stream:
    """A stream as events meet it. One object a name, for the life of the process."""

    name: str  # or ``HIDDEN``
    expected: Expected  # whose answers count
    stored: Stored  # the outcome of an event of which no more is known than that it is stored
    path: str = WINDOWED
    subjects: tuple[str, ...] = ()  # the filters it has now
    max_bytes: int = 0  # its own limit of headers and payload together; 0 if it has none
    direct: bool = True  # its messages can be read by direct get
    readable: bool = True  # the permissions let us read its messages
    no_ack: bool = False  # it never says what it stored
    duplicate_window: float | None = None  # s; None if that is not known
    last_seq: int = SEQ_UNKNOWN  # the highest stream sequence in any answer
    met: bool = False  # an event went to it
    held: Held | None = None  # why all of it took nothing at the last try
    found: dict[str, Held] = field(default_factory=dict)  # the same for single subjects
    silent: bool = False  # the last try ended without all answers in time
    late: bool = False  # an answer to such a try came afterwards; no patient try has followed yet
    doubted: bool = False  # an event was refused by its limit, which a person may raise any time
    suspect: bool = False  # its last batch was not answered to the end: ask about each message
    weak: list[Weakness] = field(default_factory=list)  # what it puts at risk

    def hold_of(self, subject: str, closed: Collection[str]) -> Held | None:
        """Return what is known to hold an event on ``subject``: one of ``closed``, or no_ack."""
        for held in (self.held, self.found.get(subject)):
            if held is not None and held.by in closed:
                return held
        return self.never_says()

    def never_says(self) -> Held | None:
        """Return the hold of a stream with ``no_ack``."""
        if not self.no_ack:
            return None
        why = f"stream {self.name} has no_ack and never says what it stored; set it false"
        return Held(out(self.name), why)

    def takes_nothing(self, why: Held) -> None:
        """Note that the whole of it takes nothing now."""
        self.held = why
        self.last_seq = SEQ_UNKNOWN  # it may come back as another one

    def note(self, found: Mapping[str, Held]) -> None:
        """Note the outcomes of single subjects."""
        if len(self.found) + len(found) > _MOST_FOUND:
            self.found.clear()
        self.found.update(found)

    def patience(self, usual: float) -> float:
        """Return the s to wait for an answer of a silent stream: few, unless one came late."""
        late, self.late = self.late, False
        return usual if late else min(usual, _PATIENCE_AFTER_SILENCE)


class Streams:
    """Every stream known, and what was logged of it: once a process, not a connection."""

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
            stream = self.by_name[name] = Stream(name, Expected(name, domain), Stored(name))
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
        stream.path = info.path(can_batch=can_batch)
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
        ever |= new
        for each in new:
            self._once.add(each, name)
        return bool(new)

    def _log(self, stream: Stream) -> None:
        name = stream.name or "?"
        if self._paths.get(name) != stream.path:
            self._paths[name] = stream.path
            extra = {"stream": name, "path": stream.path}
            log.info("publishing by %s", stream.path, extra=extra)
        for _, weak, remedy in stream.weak:
            if (name, weak) not in self._warned:
                self._warned.add((name, weak))
                hint = weak.startswith("allow_batched")
                extra = {"stream": name, "weakness": weak, "remedy": remedy}
                level = logging.INFO if hint else logging.WARNING
                log.log(level, "stream %s: %s; %s", name, weak, remedy, extra=extra)


class Filters(Generic[T]):
    """Which of many subject filters takes a subject: a trie of tokens, each a node.

        orders.*.placed, orders.>     orders ─► * ─► placed: A
                                             └► > : B

    Where several filters take a subject, the most literal one decides.
    """

    def __init__(self, pairs: Iterable[tuple[str, T]] = ()) -> None:
        """Begin with these filters, each with what it leads to."""
        self.below: dict[str, Filters[T]] = {}
        self.value: T | None = None
        for pattern, value in pairs:
            self.add(pattern, value)

    def add(self, pattern: str, value: T) -> None:
        """Let ``pattern`` lead to ``value``, unless it leads somewhere already."""
        node = self
        for token in pattern.split("."):
            node = node.below.setdefault(token, Filters())
        if node.value is None:
            node.value = value

    def find(self, subject: str) -> T | None:
        """Return what the filter leads to that takes ``subject``; None if none does."""
        token, dot, rest = subject.partition(".")
        for after in (self.below.get(token), self.below.get("*")):
            if after is not None:
                found = after.find(rest) if dot else after.value
                if found is not None:
                    return found
        after = self.below.get(">")
        return None if after is None else after.value


def weaknesses(config: Json, *, consumers: int, can_batch: bool) -> list[Weakness]:
    """List what a stream's configuration puts at risk."""
    retention = config.get("retention", "limits")
    window = config.get("duplicate_window", 0)
    evicting = _evicting(config)
    # What makes a restarted server forget message ids: it learns them from what is left.
    forgetting = [f"{retention} retention"] if retention in {"workqueue", "interest"} else []
    if (config.get("max_msgs_per_subject") or 0) > 0:
        forgetting.append("max_msgs_per_subject")
    risks = (
        (
            config.get("storage") == "memory",
            "storage",
            "memory storage: a restart loses it",
            "make it anew with file storage",
        ),
        (
            config.get("num_replicas", 1) < 2,  # noqa: PLR2004
            "replicas",
            "one replica: it is away with its server",
            "set num_replicas to 3 on a cluster",
        ),
        (
            config.get("persist_mode") == "async",
            "storage",
            "persist_mode async: a crash loses acknowledged messages",
            "use persist_mode default",
        ),
        (
            bool(evicting),
            "limits",
            f"limits that delete old messages ({evicting})",
            "set discard to new, or make sure that consumers are done by then",
        ),
        (
            window < MIN_DUPLICATE_WINDOW_NS,
            "window",
            f"a duplicate window of {window / 1e9:g} s: later repeats are stored again",
            "set duplicate_window to 2 minutes or more",
        ),
        (
            config.get("sealed"),
            "accepts",
            "it is sealed: it takes no message",
            "publish to another stream",
        ),
        (
            config.get("allow_msg_counter"),
            "accepts",
            "it counts (allow_msg_counter): it takes no event",
            "publish to another stream",
        ),
        (
            retention == "interest" and consumers == 0,
            "consumers",
            "interest retention without a consumer: acknowledged messages are not kept",
            "make the consumers first, or use limits retention",
        ),
        (
            retention == "workqueue" and consumers == 0,
            "consumers",
            "workqueue retention without a consumer",
            "make its consumer",
        ),
        (
            bool(forgetting),
            "window",
            f"{' and '.join(forgetting)}: after a server's restart a repeat may be stored again",
            "have consumers expect repeats, or keep messages for the duplicate window",
        ),
        (
            can_batch and not config.get("allow_batched"),
            "path",
            "allow_batched is off",
            "set allow_batched for the fast ingest path",
        ),
    )
    return [Weakness(topic, weak, remedy) for is_so, topic, weak, remedy in risks if is_so]


def _evicting(config: Json) -> str:
    """Name the limits that delete messages which nobody has consumed yet; "" if none does."""
    names = ("max_msgs", "max_bytes", "max_age", "max_msgs_per_subject")
    limits = {name: config[name] for name in names if (config.get(name) or 0) > 0}
    if config.get("discard") == "new":
        limits = {name: limit for name, limit in limits.items() if name == "max_age"}
    elif config.get("discard", "old") != "old" and "max_age" not in limits:
        return ""
    if "max_age" in limits:  # in ns
        limits["max_age"] = durations.format(min(limits["max_age"] / 1e9, durations.LONGEST))
    return ", ".join(f"{name} {limit}" for name, limit in limits.items())
