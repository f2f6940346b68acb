"""The oracle: what should be in the stream against what is.

    lost        committed, but not in the stream
    duplicate   in the stream again, once for each further copy
    phantom     in the stream, but never committed; once for each copy
    reordered   came first after a later event of its key had come
    corrupt     another payload, key or subject than committed

Who wrote the events is authoritative for what was committed; the stream for what is stored.
Messages are judged in the order of their sequences, and the event of each has to be known by then:
what is committed is expected before what is stored is judged.

Order. With ``serial`` the writers of a key take turns, so the sequence within the key is the order.
Without, two transactions that were open at once have no order to keep, and an inversion counts only
where it is proven: both events are of one transaction, or the earlier one is known to have been
committed before the later one was written. Others are counted as ``unordered``: not judged.

Memory: all of it, or with a ``Shelf`` some 60 MB, and the rest in a temporary file.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from itertools import islice
from typing import Final, Literal, NamedTuple

from relay.audit.shelf import Map, Shelf, Trail

_SHOWN: Final = 3
_CHUNK: Final = 5_000

_MOST_ROWS: Final = 60_000
_MOST_KEYS: Final = 100_000
_MOST_RECENT: Final = 25_000
"""What is held in memory where there is a shelf."""

Kind = Literal["lost", "duplicate", "phantom", "reordered", "corrupt"]


class Committed(NamedTuple):
    """One event that a producer committed.

    ``sequence`` ascends within the key in the order of writing; gaps are fine. What is None is not
    compared, or not known. ``written_at`` and ``committed_at`` are s since 1970 by one clock; the
    event was committed at ``committed_at`` or before.
    """

    event_id: str
    key: str | None
    sequence: int
    digest: str | None = None
    subject: str | None = None
    transaction: int | None = None
    written_at: float | None = None
    committed_at: float | None = None


class StreamMessage(NamedTuple):
    """One message of the stream.

    ``event_id`` is the message id or a made-up name where the header is missing; ``created_at`` is
    the event's, ``stored_at`` JetStream's time stamp. ``replayed``: a person had it sent again.
    """

    seq: int
    event_id: str
    key: str | None
    digest: str | None
    message_id: str | None = None
    subject: str = ""
    created_at: datetime | None = None
    stored_at: datetime | None = None
    replayed: bool = False

    @property
    def latency(self) -> float | None:
        """Seconds from the event's insert to its storing; None if either is unknown."""
        if self.created_at is None or self.stored_at is None:
            return None
        return (self.stored_at - self.created_at).total_seconds()


class Finding(NamedTuple):
    """One thing that is wrong. ``sequence`` is the committed event's, ``seq`` the message's."""

    kind: Kind
    event_id: str
    sequence: int | None
    seq: int | None
    key: str | None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Findings:
    """What is wrong, as event ids; every tuple is empty if nothing is."""

    lost: tuple[str, ...] = ()
    duplicates: tuple[str, ...] = ()
    phantoms: tuple[str, ...] = ()
    reordered: tuple[str, ...] = ()
    corrupt: tuple[str, ...] = ()

    @classmethod
    def of(cls, findings: Iterable[Finding]) -> "Findings":
        """Sort findings by their kinds."""
        ids: dict[str, list[str]] = {name: [] for name in PLURALS.values()}
        for each in findings:
            ids[PLURALS[each.kind]].append(each.event_id)
        return cls(**{name: tuple(found) for name, found in ids.items()})

    @property
    def counts(self) -> dict[str, int]:
        """How many events each fault has, by the fault's name."""
        return {name: len(ids) for name, ids in asdict(self).items()}

    @property
    def is_clean(self) -> bool:
        """Whether nothing at all is wrong."""
        return not any(self.counts.values())

    def __str__(self) -> str:
        """Count each fault, and name a few of its events."""
        parts = []
        for name, count in self.counts.items():
            ids = ", ".join(getattr(self, name)[:_SHOWN]) + (", …" if count > _SHOWN else "")
            parts.append(f"{name} {count} ({ids})" if count else f"{name} 0")
        return ", ".join(parts)


PLURALS: Final[dict[Kind, str]] = {
    "lost": "lost",
    "duplicate": "duplicates",
    "phantom": "phantoms",
    "reordered": "reordered",
    "corrupt": "corrupt",
}
"""What many findings of a kind are called."""


@dataclass(slots=True)
class Judge:
    """Judges messages against the events that were expected before them.

    Attributes:
        found: takes each finding, once.
        serial: the writers of a key take turns.
        has_keys: messages carry their keys; else keys are not compared.
        matched: events found in the stream.
        order_since: of what was written before, s since 1970, order is not judged.
        first: sequence and seq of the first event that was found in the stream.
        unordered: inversions that are not proven.
        replayed: further copies that a person asked for.
        unknown: messages of no event that was expected, not concluded yet.
    """

    found: Callable[[Finding], None]
    serial: bool = True
    has_keys: bool = True
    shelf: Shelf | None = None
    order_since: float = 0.0
    first: tuple[int, int] | None = None
    matched: int = 0
    unordered: int = 0
    replayed: int = 0
    unknown: list[StreamMessage] = field(default_factory=list)
    _rows: Map[Committed] = field(init=False)
    _latest: Map[tuple[int, int | None, float]] = field(init=False)
    _recent: Trail[tuple[Committed, int]] = field(init=False)

    def __post_init__(self) -> None:
        """Make the memories."""
        self._rows = Map(self.shelf, "waiting", _MOST_ROWS, lambda row: Committed(*row))
        self._latest = Map(self.shelf, "latest", _MOST_KEYS, tuple)
        self._recent = Trail(self.shelf, _MOST_RECENT, lambda came: (came[0].sequence, came[1]))

    def expect(self, events: Iterable[Committed]) -> None:
        """Take committed events, each once."""
        self._rows.put({event.event_id: event for event in events})

    def lacks(self, messages: Sequence[StreamMessage]) -> bool:
        """Say whether the event of one of ``messages`` is not known: it may not be expected yet."""
        rows, recent = self._rows.hot, self._recent
        absent = [each.event_id for each in messages if each.event_id not in rows]
        absent = [event_id for event_id in absent if recent.get(event_id) is None]
        return bool(absent) and not self._rows.fetch(absent)

    def judge(self, messages: Sequence[StreamMessage]) -> None:
        """Judge the next messages, in the order of ``seq``."""
        rows, recent, latest = self._rows.hot, self._recent, self._latest
        remembered, highest = recent.newest, latest.hot
        if self._latest.is_shelved:
            fetched = (rows[each.event_id].key for each in messages if each.event_id in rows)
            self._latest.fetch([key for key in fetched if key is not None])
        for message in messages:
            event_id = message.event_id
            event = rows.pop(event_id, None)
            if event is None:
                came = recent.get(event_id)
                if came is None:
                    self.unknown.append(message)
                else:
                    self._compare(came[0], message)
                    self._again(message, came[0].sequence, came[1])
                continue
            if not self.matched:
                self.first = event.sequence, message.seq
            self.matched += 1
            remembered[event_id] = event, message.seq
            if (
                event.digest != message.digest
                or event.key != message.key
                or (event.subject is not None and event.subject != message.subject)
            ):
                self._compare(event, message)
            if event.key is not None:
                before = highest.get(event.key)
                if before is None or event.sequence > before[0]:
                    written = event.written_at or 0.0
                    if before is not None and before[2] > written:
                        written = before[2]
                    highest[event.key] = (event.sequence, event.transaction, written)
                else:
                    self._inverted(event, message, before)
        recent.trim()
        latest.trim()

    def conclude(self) -> list[StreamMessage]:
        """Say of the unknown messages which are copies; return those that no event is known for."""
        unknown, self.unknown = self.unknown, []
        came = self._recent.look_up({each.event_id for each in unknown})
        left = []
        for message in unknown:
            first = came.get(message.event_id)
            if first is not None:
                self._again(message, *first)
            else:
                left.append(message)
        return left

    def phantom(self, message: StreamMessage) -> None:
        """Say that ``message`` was never committed."""
        self.found(Finding("phantom", message.event_id, None, message.seq, message.key))

    def waiting(self) -> Iterator[Committed]:
        """Go through the events that are not in the stream so far. Nothing else meanwhile."""
        return self._rows.values()

    @property
    def waits_for(self) -> int:
        """How many these are."""
        return len(self._rows)

    def waits(self, event: Committed) -> bool:
        """Say whether ``event`` is not in the stream so far."""
        return self._rows.fetch([event.event_id])

    def lose(self, event: Committed) -> None:
        """Say that ``event`` is lost, and wait for it no more."""
        self._rows.drop([event.event_id])
        self.found(Finding("lost", event.event_id, event.sequence, None, event.key))

    def forget(self, event_ids: Sequence[str]) -> None:
        """Wait for these events no more."""
        self._rows.drop(event_ids)

    def _compare(self, event: Committed, message: StreamMessage) -> None:
        wrong = []
        if event.digest is not None and message.digest != event.digest:
            wrong.append("payload")
        if self.has_keys and message.key != event.key:
            wrong.append(f"key {message.key!r} instead of {event.key!r}")
        if event.subject is not None and message.subject != event.subject:
            wrong.append(f"subject {message.subject!r} instead of {event.subject!r}")
        if wrong:
            where = (event.event_id, event.sequence, message.seq, event.key)
            self.found(Finding("corrupt", *where, ", ".join(wrong)))

    def _again(self, message: StreamMessage, sequence: int, first_seq: int) -> None:
        if message.replayed:
            self.replayed += 1
            return
        where = (message.event_id, sequence, message.seq, message.key)
        self.found(Finding("duplicate", *where, f"first at sequence {first_seq}"))

    def _inverted(
        self, event: Committed, message: StreamMessage, before: tuple[int, int | None, float]
    ) -> None:
        later, transaction, written = before
        is_one = transaction is not None and transaction == event.transaction
        is_known = event.committed_at is not None and event.committed_at < written
        is_old = event.written_at is not None and event.written_at < self.order_since
        if (self.serial or is_one or is_known) and not is_old:
            where = (event.event_id, event.sequence, message.seq, event.key)
            self.found(Finding("reordered", *where, f"behind {later}"))
        else:
            self.unordered += 1


def compare(committed: Iterable[Committed], stream: Iterable[StreamMessage]) -> Findings:
    """Compare every message, in the order of ``seq``, with the committed events, each once."""
    findings = list[Finding]()
    judge = Judge(findings.append)
    judge.expect(committed)
    messages = iter(stream)
    while chunk := list(islice(messages, _CHUNK)):
        judge.judge(chunk)
    for message in judge.conclude():
        judge.phantom(message)
    for event in list(judge.waiting()):
        judge.lose(event)
    return Findings.of(findings)


def digest(payload: bytes) -> str:
    """Return what stands for a payload in comparisons: the first half of its SHA-256, in hex."""
    return hashlib.sha256(payload).hexdigest()[:32]
