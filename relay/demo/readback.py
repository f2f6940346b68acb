"""Reads a whole JetStream stream back, as it is, with a consumer of its own.

The stream is authoritative. The consumer is ephemeral and acknowledges nothing, so reading changes
nothing; messages stored after the reading began are left out.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import nats
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from relay.demo.check import StreamMessage, digest

_BATCH = 1000
_TIMEOUT = 10.0
_KEEP_CONSUMER = 60.0


async def read_stream(nats_url: str, stream: str) -> list[StreamMessage]:
    """Read every message that the stream holds now, in the order of sequence.

    Raises:
        nats.errors.Error: the server is away, there is no such stream, or it stopped answering.
    """
    client = await nats.connect(nats_url, connect_timeout=_TIMEOUT)
    try:
        return await _read(client.jetstream(timeout=_TIMEOUT), stream)
    finally:
        await client.close()


async def _read(jetstream: JetStreamContext, stream: str) -> list[StreamMessage]:
    state = (await jetstream.stream_info(stream)).state
    messages: list[StreamMessage] = []
    if state.messages == 0:
        return messages
    consumer = await jetstream.pull_subscribe(
        "",
        stream=stream,
        config=ConsumerConfig(
            deliver_policy=DeliverPolicy.ALL,
            ack_policy=AckPolicy.NONE,
            inactive_threshold=_KEEP_CONSUMER,
            mem_storage=True,
        ),
    )
    name = (await consumer.consumer_info()).name
    more = True
    while more:
        batch = await consumer.fetch(_BATCH, timeout=_TIMEOUT)
        messages.extend(parse_message(message) for message in batch)
        # The last sequence may belong to a deleted message, and new ones may come without end.
        more = batch[-1].metadata.num_pending > 0 and messages[-1].seq < state.last_seq
    await jetstream.delete_consumer(stream, name)
    return [message for message in messages if message.seq <= state.last_seq]


def parse_message(message: Msg) -> StreamMessage:
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
