"""The most that is possible here: bare scripts over the relay's own drivers, without its code.

    python -m bench.limits fast|windowed|public URL EVENTS BYTES [--bare] [--ready]
    python -m bench.limits rows DSN EVENTS

The first two write their frames, the relay's headers included, straight into nats-py's transport,
and make them as they go, as everybody has to who publishes; with ``--ready`` they were made before,
and what is left is the time of the server and of the sockets. ``public`` publishes the same
messages as a fast ingest batch through ``Client.publish``, as a careful user of nats-py would.
``rows`` reads the outbox through psycopg, binary, in pages of 2,000. Each prints events/s as JSON;
the clock runs from the first byte sent to the last PubAck.
"""

import asyncio
import json
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any

import nats
import psycopg
import typer
import uvloop
from nats.aio.client import Client
from nats.aio.msg import Msg

from bench.peers.base import SUBJECT
from bench.processes import output_of, python

CHUNK = 250
BATCH = 10_000
WINDOW = 1_000
PAGE = 2_000
ROWS = """
    select id, event_id::text, coalesce(idempotency_key, event_id::text), subject, key, created_at,
           headers::text, payload_bytes
      from relay.outbox where id > %s order by id limit %s
"""
app = typer.Typer()


def published(how: str, url: str, events: int, size: int, *switches: str) -> float:
    """Publish ``events`` of ``size`` bytes in a process of its own; events/s."""
    command = [*python("bench.limits", how, url, events, size), *switches]
    return float(json.loads(output_of(command, 300)))


def rows_read(dsn: str, events: int) -> float:
    """Read the outbox's first ``events`` in a process of its own; events/s."""
    return float(json.loads(output_of(python("bench.limits", "rows", dsn, events), 300)))


def headers_of(number: int, *, bare: bool) -> dict[str, str]:
    """Return what the relay would put on the wire."""
    if bare:
        return {}
    id_ = str(uuid.uuid4())
    return {
        "Nats-Msg-Id": id_,
        "Relay-Event-Id": id_,
        "Relay-Created-At": "2026-01-01T00:00:00.000000Z",
        "Relay-Key": f"k{number % 1000}",
    }


def frame(reply: str, headers: dict[str, str], payload: bytes) -> bytes:
    """Make one PUB or HPUB."""
    if not headers:
        return f"PUB {SUBJECT} {reply} {len(payload)}\r\n".encode() + payload + b"\r\n"
    block = "NATS/1.0\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers.items()) + "\r\n"
    line = f"HPUB {SUBJECT} {reply} {len(block)} {len(block) + len(payload)}\r\n{block}"
    return line.encode() + payload + b"\r\n"


def batch_replies(inbox: str, events: int) -> list[str]:
    """Return the reply subjects of fast ingest batches (ADR-50), gap = fail."""
    replies = []
    for number in range(events):
        batch, place = divmod(number, BATCH)
        last = place == BATCH - 1 or number == events - 1
        op = 2 if last else 0 if place == 0 else 1
        replies.append(f"{inbox}.b{batch}.500.fail.{place + 1}.{op}.$FI")
    return replies


@dataclass(frozen=True)
class Load:
    """What to publish: so many events of ``size`` bytes.

    ``bare`` is without headers, ``ready`` with every frame made beforehand.
    """

    events: int
    size: int
    bare: bool
    ready: bool

    @property
    def payload(self) -> bytes:
        """The payload of each."""
        return b"x" * self.size

    def chunks(self, replies: list[str]) -> Iterable[bytes]:
        """Make the frames, a chunk of them in one ``bytes``."""
        payload = self.payload
        headers = [headers_of(number, bare=self.bare) for number in range(self.events)]
        made = (
            b"".join(
                [
                    frame(replies[number], headers[number], payload)
                    for number in range(start, min(start + CHUNK, self.events))
                ]
            )
            for start in range(0, self.events, CHUNK)
        )
        return list(made) if self.ready else made


class Acks:
    """Counts what is stored, batch by batch; wakes who waits for it."""

    def __init__(self) -> None:
        """Nothing is stored yet."""
        self.stored = 0
        self._whole = 0
        self._changed = asyncio.Event()

    async def of_batches(self, message: Msg) -> None:
        """Take a flow ack, or the PubAck at a batch's end."""
        answer = json.loads(message.data)
        assert "error" not in answer, answer
        if answer.get("type") == "ack":
            self.stored = max(self.stored, self._whole + answer["seq"])
        else:
            self._whole += answer["count"]
            self.stored = self._whole
        self._changed.set()

    async def of_messages(self, message: Msg) -> None:
        """Take one PubAck."""
        assert b'"error"' not in message.data, message.data
        self.stored += 1
        self._changed.set()

    async def reach(self, count: int) -> None:
        """Wait until so many are stored."""
        while self.stored < count:
            self._changed.clear()
            await asyncio.wait_for(self._changed.wait(), 10)


async def fast(client: Client, inbox: str, acks: Acks, load: Load) -> float:
    """Write batches; at most two of them are not acknowledged whole."""
    chunks = load.chunks(batch_replies(inbox, load.events))
    await client.subscribe(f"{inbox}.>", cb=acks.of_batches)
    await client.flush()
    return await send(client, acks, chunks, load.events, 2 * BATCH)


async def windowed(client: Client, inbox: str, acks: Acks, load: Load) -> float:
    """Write messages that are acknowledged one by one, through the relay's window."""
    chunks = load.chunks([f"{inbox}.{number}" for number in range(load.events)])
    await client.subscribe(f"{inbox}.*", cb=acks.of_messages)
    await client.flush()
    return await send(client, acks, chunks, load.events, WINDOW)


async def send(
    client: Client, acks: Acks, chunks: Iterable[bytes], events: int, most: int
) -> float:
    """Write the frames with at most ``most`` in flight; events/s."""
    transport: Any = client._transport  # noqa: SLF001 - nats-py's fastest way in
    began = time.perf_counter()
    for number, chunk in enumerate(chunks, 1):
        await acks.reach(min(events, number * CHUNK) - most)
        transport.write(chunk)
        await transport.drain()
    await acks.reach(events)
    return events / (time.perf_counter() - began)


async def public(client: Client, inbox: str, acks: Acks, load: Load) -> float:
    """Publish batches through the public API."""
    events, payload = load.events, load.payload
    replies = batch_replies(inbox, events)
    headers = [headers_of(number, bare=load.bare) or None for number in range(events)]
    await client.subscribe(f"{inbox}.>", cb=acks.of_batches)
    await client.flush()
    began = time.perf_counter()
    for number in range(events):
        await client.publish(SUBJECT, payload, reply=replies[number], headers=headers[number])
        if number % CHUNK == 0:
            await acks.reach(number - 2 * BATCH)
    await acks.reach(events)
    return events / (time.perf_counter() - began)


async def rows(dsn: str, events: int) -> float:
    """Read pages until ``events`` were read; events/s."""
    connection = await psycopg.AsyncConnection.connect(dsn, autocommit=True)
    async with connection, connection.cursor(binary=True) as cursor:
        last, began = 0, time.perf_counter()
        for _ in range(0, events, PAGE):
            await cursor.execute(ROWS, (last, PAGE), prepare=True)
            last = (await cursor.fetchall())[-1][0]
        return events / (time.perf_counter() - began)


Publishing = Callable[[Client, str, Acks, Load], Awaitable[float]]


async def connected(how: Publishing, url: str, load: Load) -> float:
    """Run one way of publishing over a connection of its own."""
    client = await nats.connect(url, pending_size=64 << 20)
    try:
        return await how(client, client.new_inbox(), Acks(), load)
    finally:
        await client.close()


def add(how: Publishing) -> None:
    """Make a command of one way of publishing."""

    def command(
        url: str,
        events: int,
        size: int,
        bare: Annotated[bool, typer.Option()] = False,
        ready: Annotated[bool, typer.Option()] = False,
    ) -> None:
        load = Load(events, size, bare, ready)
        print(json.dumps(uvloop.run(connected(how, url, load))))

    app.command(name=getattr(how, "__name__", "?"))(command)


add(fast)
add(windowed)
add(public)


@app.command(name="rows")
def read_rows(dsn: str, events: int) -> None:
    print(json.dumps(uvloop.run(rows(dsn, events))))


if __name__ == "__main__":
    app()
