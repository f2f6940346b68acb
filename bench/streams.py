"""Streams of the benchmarks: made, counted, read back, deleted. The stream says what was stored."""

import asyncio
import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg

from bench.peers.base import number_of

_READ_TIMEOUT = 60.0


@dataclass(frozen=True)
class Message:
    """One stored message.

    Attributes:
        number: the event's, from the payload.
        stored_at: the stream's own time stamp, in s since the epoch.
        event_id: what a relay says in its header; empty for others.
    """

    number: int
    stored_at: float
    event_id: str


@dataclass(frozen=True)
class State:
    """How many messages a stream holds, and when the last of them was stored."""

    messages: int
    last_at: float


async def make(url: str, stream: str, *, batched: bool) -> None:
    """Make a stream in file storage that allows fast ingest, or does not."""
    async with await nats.connect(url) as client:
        await client.jetstream().add_stream(
            name=stream, subjects=["orders.>"], storage="file", allow_batched=batched
        )


async def take_nothing(url: str, stream: str, *, full: bool) -> None:
    """Let the stream be full, behind its first message, or have room for all again."""
    async with await nats.connect(url) as client:
        config = (await _api(client, f"STREAM.INFO.{stream}", {}))["config"]
        config |= {"discard": "new", "max_msgs": 1 if full else -1}
        answer = await _api(client, f"STREAM.UPDATE.{stream}", config)
        assert "error" not in answer, answer


async def delete(url: str, stream: str) -> None:
    """Free its subjects for the next one."""
    async with await nats.connect(url) as client:
        await client.jetstream().delete_stream(stream)


async def state(url: str, stream: str) -> State:
    """Ask once."""
    async with await nats.connect(url) as client:
        return await _state(client, stream)


async def wait_for(url: str, stream: str, messages: int, patience: float) -> State:
    """Wait until ``messages`` are stored.

    Raises:
        TimeoutError: none more came for ``patience`` s; says how many there are.
    """
    async with await nats.connect(url) as client:
        seen, since = -1, 0.0
        while True:
            now = asyncio.get_running_loop().time()
            found = await _state(client, stream)
            if found.messages >= messages:
                return found
            if found.messages != seen:
                seen, since = found.messages, now
            elif now - since > patience:
                raise TimeoutError(f"{seen} of {messages} messages are stored, and no more come")
            await asyncio.sleep(0.05)


async def read_back(url: str, stream: str) -> list[Message]:
    """Read all that the stream holds, by a consumer of its own that acknowledges nothing."""
    async with await nats.connect(url) as client:
        wanted = (await _state(client, stream)).messages
        found: list[Message] = []
        done = asyncio.Event()

        async def take(message: Msg) -> None:
            # $JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<ns>.<pending>
            stored_ns = int(message.reply.split(".")[-2])
            event_id = (message.headers or {}).get("Relay-Event-Id", "")
            found.append(Message(number_of(message.data), stored_ns / 1e9, event_id))
            if len(found) >= wanted:
                done.set()

        if wanted:
            inbox = client.new_inbox()
            await client.subscribe(inbox, cb=take, pending_msgs_limit=0, pending_bytes_limit=0)
            config = {"deliver_subject": inbox, "ack_policy": "none", "mem_storage": True}
            answer = await _api(
                client,
                f"CONSUMER.CREATE.{stream}.reader",
                {"stream_name": stream, "config": {"name": "reader", **config}},
            )
            assert "error" not in answer, answer
            await asyncio.wait_for(done.wait(), _READ_TIMEOUT)
            await _api(client, f"CONSUMER.DELETE.{stream}.reader", {})
        return found


async def _state(client: Client, stream: str) -> State:
    answer = await _api(client, f"STREAM.INFO.{stream}", {})
    found = answer["state"]
    # Go writes nanoseconds, which fromisoformat cuts to microseconds.
    return State(found["messages"], datetime.fromisoformat(found["last_ts"]).timestamp())


async def _api(client: Client, subject: str, question: dict[str, Any]) -> dict[str, Any]:
    answer = await client.request(f"$JS.API.{subject}", json.dumps(question).encode(), timeout=10)
    found: dict[str, Any] = json.loads(answer.data)
    return found
