"""What should be in the stream against what is: lost, duplicates, phantoms, order, content.

Pure. The producers are authoritative: an event counts from its commit's success on, and nothing
that the relay says or stores is looked at.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple


class Committed(NamedTuple):
    """One event that a producer committed.

    Attributes:
        event_id: its UUID as text.
        key: None asks for no order.
        sequence: ascending within the key in the order of writing; gaps are fine.
        digest: ``digest`` of its payload, or None not to compare it.
    """

    event_id: str
    key: str | None
    sequence: int
    digest: str | None = None


class StreamMessage(NamedTuple):
    """One message of the stream.

    Attributes:
        seq: its stream sequence.
        event_id: the header ``Relay-Event-Id``; the message id or a made-up name if it has none.
        key: the header ``Relay-Key``, or None.
        digest: ``digest`` of its payload.
        message_id: the header ``Nats-Msg-Id``, or None.
        subject: where it was published.
        created_at: the header ``Relay-Created-At``, or None.
        stored_at: JetStream's own time stamp.
    """

    seq: int
    event_id: str
    key: str | None
    digest: str
    message_id: str | None = None
    subject: str = ""
    created_at: datetime | None = None
    stored_at: datetime | None = None

    @property
    def latency(self) -> float | None:
        """Seconds from the event's insert to its storing; None if either is unknown."""
        if self.created_at is None or self.stored_at is None:
            return None
        return (self.stored_at - self.created_at).total_seconds()


@dataclass(frozen=True, slots=True)
class Findings:
    """What is wrong, as event ids; every tuple is empty if nothing is.

    Attributes:
        lost: committed, but not in the stream.
        duplicates: in the stream again, once for each further copy.
        phantoms: in the stream, but never committed; once for each copy.
        reordered: came first after a later event of their key had come.
        corrupt: another payload or another key than committed.
    """

    lost: tuple[str, ...] = ()
    duplicates: tuple[str, ...] = ()
    phantoms: tuple[str, ...] = ()
    reordered: tuple[str, ...] = ()
    corrupt: tuple[str, ...] = ()

    @property
    def is_clean(self) -> bool:
        """Whether nothing at all is wrong."""
        return not (self.lost or self.duplicates or self.phantoms or self.reordered or self.corrupt)

    def __str__(self) -> str:
        """Count each fault, and name a few of its events."""
        parts = []
        for name in ("lost", "duplicates", "phantoms", "reordered", "corrupt"):
            ids: tuple[str, ...] = getattr(self, name)
            few = f" ({', '.join(ids[:3])}{', …' if len(ids) > 3 else ''})" if ids else ""  # noqa: PLR2004 - a few
            parts.append(f"{name} {len(ids)}{few}")
        return ", ".join(parts)


def compare(committed: Iterable[Committed], stream: Iterable[StreamMessage]) -> Findings:
    """Compare the stream with what was committed.

    Args:
        committed: in any order; each event once.
        stream: every message, in the order of ``seq``.
    """
    expected = {event.event_id: event for event in committed}
    seen: set[str] = set()
    latest: dict[str, int] = {}
    duplicates, phantoms, reordered, corrupt = list[str](), list[str](), list[str](), list[str]()
    for message in stream:
        event = expected.get(message.event_id)
        if event is None:
            phantoms.append(message.event_id)
            continue
        if message.key != event.key or event.digest not in {None, message.digest}:
            corrupt.append(message.event_id)
        if message.event_id in seen:
            duplicates.append(message.event_id)
            continue
        seen.add(message.event_id)
        if event.key is not None:
            before = latest.setdefault(event.key, event.sequence)
            if event.sequence < before:
                reordered.append(message.event_id)
            latest[event.key] = max(before, event.sequence)
    lost = tuple(event_id for event_id in expected if event_id not in seen)
    return Findings(lost, tuple(duplicates), tuple(phantoms), tuple(reordered), tuple(corrupt))


def digest(payload: bytes) -> str:
    """Return what stands for a payload in comparisons: the first half of its SHA-256, in hex."""
    return hashlib.sha256(payload).hexdigest()[:32]
