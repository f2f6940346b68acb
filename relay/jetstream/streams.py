"""The streams of the server, as this process knows them, beyond any one connection.

Authoritative: the server. A stream is believed to be as it was last described. Every filter that a
stream ever had is remembered, here and by the engine in the database: a subject that was captured
once is held, and a subject that no stream ever captured is refused.

``Stream.held`` and ``Stream.found`` say what the last try came to, and when that was is of no
matter: the engine's ledger decides when a stream or a subject is tried again.

A weakness of a stream (``weaknesses``) is a warning, for the stream still takes events.
"""

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from relay.core.checkpoint import Tip
from relay.core.event import Event
from relay.core.outcome import Held, Outcome, Stored
from relay.core.subjects import matches
from relay.jetstream.answers import BatchAck, Expected, out
from relay.jetstream.api import LARGEST, WINDOWED, StreamInfo
from relay.jetstream.weaknesses import Weakness, weaknesses

log = logging.getLogger(__name__)

SEQ_UNKNOWN = -(1 << 62)

NO_TTL = (
    "stream {} does not remove messages by a ttl of their own, and the event has one: set"
    " allow_msg_ttl on the stream (nats-server 2.11 and later)"
)
TTL_UNSEEN = (
    "the event has a ttl, and whether its stream keeps it (allow_msg_ttl, nats-server 2.11 and"
    " later) can't be seen: allow $JS.API.INFO, $JS.API.STREAM.LIST and $JS.API.STREAM.INFO.*"
)

_PATIENCE_AFTER_SILENCE = 0.8
"""s. Other streams' events wait as long as a try of a stream that was silent."""

WINDOW_SHARE = 0.5
"""The part of the duplicate window after which what has no answer is looked for before a resend."""

_MOST_FOUND = 10_000

T = TypeVar("T")


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
    no_ttl: str = ""  # why it can't take an event with a ttl; empty if it can, or is not described
    duplicate_window: float | None = None  # s; None if that is not known
    last_seq: int = SEQ_UNKNOWN  # the highest stream sequence in any answer
    met: bool = False  # an event went to it
    held: Held | None = None  # why all of it took nothing at the last try
    found: dict[str, Held] = field(default_factory=dict)  # the same for single subjects
    silent: bool = False  # the last try ended without all answers in time
    late: bool = False  # an answer to such a try came afterwards; no patient try has followed yet
    doubted: bool = False  # an event was refused by its configuration, which a person may change
    suspect: bool = False  # its last batch was not answered to the end: ask about each message
    weak: list[Weakness] = field(default_factory=list)  # what it puts at risk
    # For ``reconcile``: how far it was when that was taken down last, and has come since.
    info: StreamInfo | None = None  # as it was last described
    tip: Tip | None = None
    newest: tuple[int, str, bool] | None = None  # sequence, message id, whether it is sure
    looked: int = 0  # the sequence up to which it was searched for events of ours
    uncompared: bool = False  # it has to be compared with its tip before it is published to
    unanswered_since: float | None = None  # when the first of those was sent that have no answer
    moved: set["Stream"] = field(default_factory=set)  # every stream's: those with ``newest``
    doubts: set["Stream"] = field(default_factory=set)  # every stream's: see ``doubt``

    def stored_at(self, seq: int, message_id: str, *, sure: bool) -> None:
        """Note a message that was stored."""
        if self.newest is None or seq > self.newest[0]:
            self.newest = min(seq, LARGEST), message_id, sure
            self.moved.add(self)

    def batch_stored(self, ack: BatchAck, message_id: str) -> None:
        """Note a batch; its last stored message is ``message_id``, unless that was a duplicate."""
        seq, count = ack.seq, ack.count
        if not seq:  # all of them are duplicates that nobody expected: look where they are
            self.doubts.add(self)
            return
        self.stored_at(seq, message_id, sure=count == 1 or seq == self.last_seq + count)
        before = max(self.last_seq, -1 if self.tip is None else self.tip.seq)
        if before >= 0 and seq < before + count:
            self.doubts.add(self)

    def each_stored(self, events: Sequence[Event], outcomes: Sequence[Outcome | None]) -> None:
        """Note events that have an answer each."""
        new = [
            (each.seq, place)
            for place, each in enumerate(outcomes)
            if type(each) is Stored and each.seq and each.duplicate is False
        ]
        if new:
            seq, place = max(new)
            self.stored_at(seq, events[place].message_id, sure=True)
            if self.tip is not None and min(new)[0] <= self.tip.seq:
                self.doubts.add(self)

    def take_tip(self, *, keep_after: bool) -> Tip | None:
        """Make what is newest the tip; with ``keep_after`` what stands behind it may be ours."""
        before = self.tip
        if before is None:
            if self.newest is None or self.info is None:
                return None
            before = Tip(self.name, self.info.created, 0)
        seq, message_id, sure = self.newest or (before.seq, before.message_id, before.sure)
        after = before.after if keep_after else max(seq, before.after)
        self.tip = Tip(self.name, before.created, seq, message_id, sure, after)
        self.newest = None
        return self.tip

    def resume(self, tip: Tip) -> None:
        """Begin with ``tip``."""
        self.tip, self.newest, self.looked, self.uncompared = tip, None, tip.after, True

    def unsure(self, now: float) -> bool:
        """Whether it may hold what nobody knows of, and has forgotten the id: compare it first."""
        since, window = self.unanswered_since, self.duplicate_window or 0.0
        return self.uncompared or (since is not None and now - since > window * WINDOW_SHARE)

    def forget_tip(self) -> None:
        """Begin with none."""
        self.tip = self.newest = self.unanswered_since = None
        self.looked = 0

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
        self.moved: set[Stream] = set()
        self.doubts: set[Stream] = set()

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
            stream.moved, stream.doubts = self.moved, self.doubts
        return stream

    def forget_descriptions(self) -> None:
        """What there is has to be described anew: this is another connection."""
        for stream in self.by_name.values():
            stream.info = None

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
        stream.info = info
        # An event over max_bytes fits into no stream of that size, however empty.
        limits = [config.get(limit, 0) for limit in ("max_msg_size", "max_bytes")]
        stream.max_bytes = min((limit for limit in limits if limit > 0), default=0)
        stream.direct = config.get("allow_direct", False)
        stream.readable = True
        stream.no_ack = config.get("no_ack", False)
        stream.no_ttl = "" if config.get("allow_msg_ttl") else NO_TTL.format(info.name)
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
