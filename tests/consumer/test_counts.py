"""What a consumer counts: each refusal once, and each message as what became of it."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from relay.consumer import Consumer, Message
from relay.consumer.outages import Outage
from relay.errors import StoreOutage
from tests.consumer.rig import World, until

# R-FATE
pytestmark = pytest.mark.anyio

PARK = (
    "insert into relay.inbox_parked"
    " (consumer, message_id, stream, sequence, stored_at, subject, key, headers, payload)"
    " values ('billing', 'earlier', %s, 1, now(), 'any', 'k', '{}', '') returning id"
)


async def refuse(_: Any, message: Message) -> None:
    raise ValueError("no such account")


def losing(consumer: Consumer, monkeypatch: pytest.MonkeyPatch, *, times: int, after: bool) -> None:
    """Lose the database when a message is parked, before or after its transaction commits."""
    park, taking = consumer._inbox.park, consumer._inbox.taking
    parked = 0

    async def parks(*args: Any, **options: Any) -> None:
        nonlocal parked
        await park(*args, **options)
        parked += 1
        if parked <= times and not after:
            raise StoreOutage("the connection is lost")

    @asynccontextmanager
    async def takes(*args: Any) -> AsyncIterator[Any]:
        before = parked
        async with taking(*args) as taken:
            yield taken
        if before < parked <= times:
            raise StoreOutage("the answer is lost")

    monkeypatch.setattr(consumer._inbox, "park", parks)
    monkeypatch.setattr(consumer._inbox, "taking", takes)


@pytest.mark.parametrize("after", [False, True], ids=["rolled back", "committed"])
async def test_a_refusal_is_counted_once_however_often_the_database_is_lost_meanwhile(
    there: World, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    async with there.running(refuse, max_attempts=1) as consumer:
        losing(consumer, monkeypatch, times=2, after=after)
        await there.publish(1, "k")
        await until(lambda: consumer.counts.parked == 1)
        await there.acknowledged()
    counts = consumer.counts
    assert (counts.refused, counts.parked, counts.repeated, counts.waiting) == (1, 1, 0, 0)
    assert there.ask("select attempts from relay.inbox_parked") == [(1,)]


async def test_a_refusal_again_is_counted_once_it_is_kept(
    there: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with there.running(refuse, max_attempts=2) as consumer:
        keep, tries = consumer._inbox.refuse, 0

        async def keeps(*args: Any, **options: Any) -> None:
            nonlocal tries
            tries += 1
            if tries == 1:
                raise StoreOutage("the connection is lost")
            await keep(*args, **options)

        monkeypatch.setattr(consumer._inbox, "refuse", keeps)
        await there.publish(1, "k")
        await until(
            lambda: there.ask("select id from relay.inbox_parked where dead_at is not null")
        )
        await until(lambda: consumer.counts.refused == 2)
    assert tries == 2
    assert consumer.counts.refused == 2


async def test_a_refused_message_that_has_to_wait_is_counted_as_waiting(there: World) -> None:
    """An earlier one of its key comes back to the parked while it is handled."""

    async def handle(_: Any, message: Message) -> None:
        await asyncio.to_thread(there.ask, PARK, message.stream)
        raise ValueError("no such account")

    async with there.running(handle) as consumer:
        await until(there.has_durable)
        await there.publish(1, "k")
        await there.acknowledged()
        await until(lambda: consumer.counts.refused == 1)
    assert (consumer.counts.parked, consumer.counts.waiting) == (0, 1)


async def test_a_message_that_was_taken_while_it_was_refused_is_counted_as_repeated(
    there: World,
) -> None:
    """As by a second copy of it that has another key, and so another lane."""

    async def handle(connection: Any, message: Message) -> None:
        await connection.execute("rollback")
        await connection.execute("insert into relay.inbox values ('billing', %s)", (message.id,))
        await connection.execute("commit")
        raise ValueError("no such account")

    async with there.running(handle) as consumer:
        await until(there.has_durable)
        await there.publish(1, "k")
        await there.acknowledged()
    assert (consumer.counts.parked, consumer.counts.repeated) == (0, 1)


async def test_what_was_asked_before_an_outage_does_not_end_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "relay.consumer")
    outage = Outage("Postgres", asyncio.Event())
    before = time.monotonic()
    await outage.wait("the connection is lost")
    outage.over(before)
    assert outage.lasts
    await outage.wait("the connection is lost")
    outage.over(time.monotonic())
    assert not outage.lasts
    words = [record.getMessage().split(" after ")[0] for record in caplog.records]
    assert words == ["Postgres is away, waiting", "Postgres is back"]
