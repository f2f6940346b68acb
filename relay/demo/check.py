"""What should be in the stream against what is: lost, duplicates, phantoms, order, content.

The producers are authoritative for what was committed: an event counts from its commit's success
on. The stream is authoritative for what is stored. It is read by an ephemeral consumer that
acknowledges nothing, so that reading changes nothing; later messages are left out.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from nats.aio.msg import Msg

_BATCH = 1000
_TIMEOUT = 10.0
_KEEP_CONSUMER = 60.0
_SHOWN = 3


class Committed(NamedTuple):
    """One event that a producer committed.

    ``sequence`` ascends within the key in the order of writing; gaps are fine. A digest of None is
    not compared.
    """

    event_id: str
    key: str | None
    sequence: int
    digest: str | None = None


class StreamMessage(NamedTuple):
    """One message of the stream.

    ``event_id`` is the message id or a made-up name where the header is missing; ``created_at`` is
    the event's, ``stored_at`` JetStream's time stamp.
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


def compare(committed: Iterable[Committed], stream: Iterable[StreamMessage]) -> Findings:
    """Compare every message, in the order of ``seq``, with the committed events, each once."""
    expected = {event.event_id: event for event in committed}
    stored: set[str] = set()
    latest: dict[str, int] = {}
    duplicates, phantoms, reordered, corrupt = list[str](), list[str](), list[str](), list[str]()
    for message in stream:
        event = expected.get(message.event_id)
        if event is None:
            phantoms.append(message.event_id)
            continue
        if message.key != event.key or event.digest not in {None, message.digest}:
            corrupt.append(message.event_id)
        if message.event_id in stored:
            duplicates.append(message.event_id)
            continue
        stored.add(message.event_id)
        if event.key is not None:
            before = latest.setdefault(event.key, event.sequence)
            if event.sequence < before:
                reordered.append(message.event_id)
            latest[event.key] = max(before, event.sequence)
    lost = tuple(event_id for event_id in expected if event_id not in stored)
    return Findings(lost, tuple(duplicates), tuple(phantoms), tuple(reordered), tuple(corrupt))


def digest(payload: bytes) -> str:
    """Return what stands for a payload in comparisons: the first half of its SHA-256, in hex."""
    return hashlib.sha256(payload).hexdigest()[:32]


async def read_stream(nats_url: str, stream: str) -> list[StreamMessage]:
    """Read every message that the stream holds now, in the order of sequence.

    Raises:
        nats.errors.Error: the server is away, there is no such stream, or it stopped answering.
    """
    import nats  # not above: producers import this file, and need no NATS
    from nats.js.api import AckPolicy, ConsumerConfig

    client = await nats.connect(nats_url, connect_timeout=_TIMEOUT)
    try:
        jetstream = client.jetstream(timeout=_TIMEOUT)
        state = (await jetstream.stream_info(stream)).state
        if state.messages == 0:
            return []
        config = ConsumerConfig(
            ack_policy=AckPolicy.NONE, inactive_threshold=_KEEP_CONSUMER, mem_storage=True
        )
        consumer = await jetstream.pull_subscribe("", stream=stream, config=config)
        messages: list[StreamMessage] = []
        more = True
        while more:
            batch = await consumer.fetch(_BATCH, timeout=_TIMEOUT)
            messages.extend(parse_message(message) for message in batch)
            # The last sequence may belong to a deleted message, and new ones may come without end.
            more = batch[-1].metadata.num_pending > 0 and messages[-1].seq < state.last_seq
        await jetstream.delete_consumer(stream, (await consumer.consumer_info()).name)
        return [message for message in messages if message.seq <= state.last_seq]
    finally:
        await client.close()


def parse_message(message: "Msg") -> StreamMessage:
    """Read one delivered message; ``digest`` is of what came, nothing under ``headers_only``."""
    headers: Mapping[str, Any] = message.headers or {}
    metadata = message.metadata
    created_at = headers.get("Relay-Created-At")
    message_id = headers.get("Nats-Msg-Id")
    seq = metadata.sequence.stream
    return StreamMessage(
        seq=seq,
        event_id=headers.get("Relay-Event-Id") or message_id or f"message {seq}",
        key=headers.get("Relay-Key"),
        digest=digest(message.data),
        message_id=message_id,
        subject=message.subject,
        created_at=datetime.fromisoformat(created_at) if created_at else None,
        stored_at=metadata.timestamp.astimezone(UTC),
    )
