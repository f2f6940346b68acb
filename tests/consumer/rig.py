"""A stream, a consumer's database, and consumers in this process whose handler writes effects."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import nats
import psycopg
from nats.aio.client import Client
from nats.js.api import RetentionPolicy, StreamConfig
from nats.js.errors import NotFoundError
from psycopg_pool import AsyncConnectionPool

from relay.consumer import Consumer, Message, Options, migrations
from relay.consumer.psycopg import PsycopgDatabase

EFFECTS = """
create table effect (n bigserial primary key, id text, key text, number int, by text default '');
create table total (id boolean primary key default true, sum bigint not null default 0);
insert into total default values;
"""
QUICK = {"retry_delay": 0.05, "max_retry_delay": 0.2, "max_attempts": 3}


async def apply(connection: Any, message: Message) -> None:
    """Write an effect; a second one of the same message would show."""
    number = json.loads(message.payload)["number"]
    await connection.execute(
        "insert into effect (id, key, number) values (%s, %s, %s)",
        (message.id, message.key, number),
    )


@dataclass
class World:
    dsn: str
    url: str
    stream: str
    client: Client
    pool: AsyncConnectionPool[Any]
    name: str = "billing"

    def subject(self, last: str = "placed") -> str:
        return f"{self.stream.lower()}.{last}"

    async def publish(
        self, number: int, key: str | None = None, *, id_: str | None = None, **headers: str
    ) -> str:
        """Publish a message as the relay does; its message id."""
        message_id = id_ or f"relay-{uuid.uuid4()}"
        fields = {"Nats-Msg-Id": message_id, **({"Relay-Key": key} if key else {}), **headers}
        content = json.dumps({"number": number}).encode()
        await self.client.jetstream().publish(self.subject(), content, headers=fields)
        return message_id

    async def publish_all(self, numbers: Sequence[int], key_of: Callable[[int], str]) -> None:
        jetstream = self.client.jetstream(publish_async_max_pending=1000)
        acks = []
        for number in numbers:
            content = json.dumps({"number": number}).encode()
            fields = {"Nats-Msg-Id": f"m-{number}", "Relay-Key": key_of(number)}
            acks.append(await jetstream.publish_async(self.subject(), content, headers=fields))
        await asyncio.gather(*acks)

    def consumer(self, handler: Any = apply, **options: Any) -> Consumer:
        servers = options.pop("servers", self.url)
        return Consumer(
            options.pop("database", None) or PsycopgDatabase(self.pool),
            handler,
            name=self.name,
            stream=self.stream,
            servers=servers,
            options=Options(**(QUICK | options)),
        )

    @asynccontextmanager
    async def running(self, handler: Any = apply, **options: Any) -> AsyncIterator[Consumer]:
        """Run a consumer for the block; what it raises is raised."""
        consumer = self.consumer(handler, **options)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(consumer.run())
            try:
                yield consumer
            finally:
                consumer.stop()

    def ask(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.dsn, autocommit=True) as look:
            cursor = look.execute(query.encode(), values or None)
            return cursor.fetchall() if cursor.description else []

    def numbers(self, key: str | None = None) -> list[int]:
        """The numbers of all effects in the order of their making; of one key."""
        where = "where key = %s" if key else ""
        rows = self.ask(f"select number from effect {where} order by n", *([key] if key else []))
        return [number for (number,) in rows]

    async def pending(self) -> tuple[int, int]:
        """What JetStream has still to deliver, and what it waits to have acknowledged."""
        info = await self.client.jetstream().consumer_info(self.stream, self.name)
        return info.num_pending or 0, info.num_ack_pending or 0

    async def kill(self, running: "asyncio.Task[None]") -> None:
        """End a consumer as a crash does, and let its lease be over."""
        running.cancel()
        await asyncio.wait([running])
        self.ask("update relay.inbox_consumer set lease_until = now()")

    async def has_durable(self) -> bool:
        with suppress(NotFoundError):
            return bool(await self.pending())
        return False

    async def acknowledged(self) -> None:
        async def all_() -> bool:
            return await self.pending() == (0, 0)

        await until(all_)


async def until(fact: Callable[[], Any], seconds: float = 15.0) -> None:
    """Ask again and again; fail after ``seconds``."""
    deadline = time.monotonic() + seconds
    while True:
        held = fact()
        if asyncio.iscoroutine(held):
            held = await held
        if held:
            return
        assert time.monotonic() < deadline, f"still not so after {seconds} s"
        await asyncio.sleep(0.02)


def migrated(dsn: str) -> None:
    asyncio.run(migrations.migrate(dsn, "relay"))
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(EFFECTS)


@asynccontextmanager
async def world(dsn: str, url: str, **stream: Any) -> AsyncIterator[World]:
    name = f"S{uuid.uuid4().hex[:8].upper()}"
    client = await nats.connect(url, allow_reconnect=True, max_reconnect_attempts=-1)
    try:
        config = StreamConfig(name=name, subjects=[f"{name.lower()}.>"], **stream)
        await client.jetstream().add_stream(config)
        pool = AsyncConnectionPool[Any](dsn, min_size=1, max_size=8, open=False)
        async with pool:
            yield World(dsn, url, name, client, pool)
        with suppress(Exception):
            await client.jetstream().delete_stream(name)
    finally:
        await client.close()


WORK_QUEUE = RetentionPolicy.WORK_QUEUE
INTEREST = RetentionPolicy.INTEREST
