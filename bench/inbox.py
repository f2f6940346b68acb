"""How fast a consumer with an inbox is: ``python -m bench.inbox --messages 40000``.

A stream is filled, then one process takes it, with one INSERT a message as the effect. Both ways: a
handler of single messages, and one of batches by executemany.
"""

import asyncio
import json
import resource
import time
from collections.abc import Sequence
from typing import Annotated, Any

import nats
import psycopg
import typer
from psycopg_pool import AsyncConnectionPool

from relay import devstack
from relay.consumer import Consumer, Message, Options, migrations
from relay.consumer.psycopg import PsycopgDatabase

_EFFECT = "insert into effect (id, key, number) values (%s, %s, %s)"
_KEYS = 500
_CONTENT = 200
"""Bytes of a payload, and some more."""


async def single(connection: Any, message: Message) -> None:
    await connection.execute(_EFFECT, _values(message))


async def many(connection: Any, messages: Sequence[Message]) -> None:
    async with connection.cursor() as cursor:
        await cursor.executemany(_EFFECT, [_values(message) for message in messages])


def _values(message: Message) -> tuple[str, str | None, int]:
    return message.id, message.key, json.loads(message.payload)["number"]


async def fill(url: str, count: int) -> None:
    client = await nats.connect(url)
    jetstream = client.jetstream(publish_async_max_pending=2000)
    await jetstream.add_stream(name="BENCH", subjects=["bench.>"])
    acks = []
    for number in range(count):
        content = json.dumps({"number": number, "text": "x" * _CONTENT}).encode()
        headers = {"Nats-Msg-Id": f"m-{number}", "Relay-Key": f"k{number % _KEYS}"}
        acks.append(await jetstream.publish_async("bench.a", content, headers=headers))
    await asyncio.gather(*acks)
    await client.close()


async def measure(dsn: str, url: str, count: int, *, batches: bool) -> dict[str, float | str]:
    """Take the whole stream, under a name of its own."""
    name = "batches" if batches else "single"
    options = Options(batches=batches)
    async with AsyncConnectionPool[Any](dsn, open=False, max_size=options.lanes + 3) as pool:
        database = PsycopgDatabase(pool)
        handler = many if batches else single
        consumer = Consumer(
            database, handler, name=name, stream="BENCH", servers=url, options=options
        )
        running = asyncio.create_task(consumer.run())
        while not consumer.counts.handled:  # noqa: ASYNC110 - a count, not an event
            await asyncio.sleep(0.001)
        first, began, before = consumer.counts.handled, time.monotonic(), _cpu()
        while consumer.counts.handled < count:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        done, seconds = count - first, time.monotonic() - began
        cpu = (_cpu() - before) / done
        consumer.stop()
        await running
    return {"handler": name, "per_s": round(done / seconds), "client_cpu_us": round(cpu * 1e6)}


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def run(dsn: str, url: str, count: int) -> None:
    await migrations.migrate(dsn, "relay")
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute("create table effect (id text, key text, number int)")
    await fill(url, count)
    for batches in (False, True):
        typer.echo(json.dumps(await measure(dsn, url, count, batches=batches)))


def main(*, messages: Annotated[int, typer.Option(min=5000)] = 40_000) -> None:
    """Measure a consumer on throw-away servers."""
    with devstack.postgres(settings={"fsync": "on"}) as postgres, devstack.nats_server() as server:
        asyncio.run(run(postgres.dsn, server.url, messages))


if __name__ == "__main__":
    typer.run(main)
