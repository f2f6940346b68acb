"""Two processes of one consumer: who leads, what a frozen or killed one leaves, who commits."""

import asyncio
import json
import signal
from typing import Any

import psycopg
import pytest

from relay.consumer import Message
from tests.consumer.rig import World, apply, until

# R-ORDER R-ONCE R-TERM
pytestmark = pytest.mark.anyio


async def test_one_leads_and_the_other_takes_over_at_once_when_it_stops(there: World) -> None:
    long = {"lease_lifetime": 60.0}  # so that only the lease's return explains who leads
    async with there.running(**long) as first:
        await until(lambda: first.is_leading)
        async with there.running(**long) as second:
            await there.publish(1, "k")
            await until(lambda: first.counts.handled == 1)
            assert not second.is_leading
            first.stop()
            await until(lambda: second.is_leading)
            await there.publish(2, "k")
            await until(lambda: second.counts.handled == 1)
    assert there.numbers() == [1, 2]


async def test_what_was_delivered_to_the_dead_comes_first_without_waiting_for_ack_wait(
    there: World,
) -> None:
    """The trap of pull consumers: later messages of the key come before the unanswered ones."""
    started = asyncio.Event()

    async def stuck(connection: Any, message: Message) -> None:
        started.set()
        await asyncio.sleep(600)

    await there.publish_all(range(10), lambda _: "k")
    dead = asyncio.create_task(there.consumer(stuck, ack_wait=600.0, handler_timeout=600.0).run())
    await started.wait()
    await there.kill(dead)
    assert await there.pending() == (0, 10)
    async with there.running(lease_lifetime=2.0) as consumer:
        await until(lambda: consumer.is_leading)
        await there.publish(10, "k")
        await until(lambda: consumer.counts.handled == 11)
    assert there.numbers("k") == list(range(11))


async def test_a_leader_whose_term_is_over_commits_nothing(there: World) -> None:
    going, go_on = asyncio.Event(), asyncio.Event()

    async def slow(connection: Any, message: Message) -> None:
        going.set()
        await go_on.wait()
        await apply(connection, message)

    async with there.running(slow, lanes=1, batch=1) as consumer:
        await there.publish(1, "k")
        await going.wait()
        # The next term waits for the transaction under way, and not a moment longer.
        with psycopg.connect(there.dsn, autocommit=True) as other:
            other.execute("set lock_timeout = '200ms'")
            take = (
                "select from relay.inbox_consumer where name = 'billing' for update;"
                "update relay.inbox_consumer set epoch = epoch + 1, holder = 'other',"
                " lease_until = now() + interval '60 s'"
            )
            with pytest.raises(psycopg.errors.LockNotAvailable):
                other.execute(take)
            other.execute("set lock_timeout = 0")
            went_on = asyncio.get_running_loop().run_in_executor(None, other.execute, take)
            await asyncio.sleep(0.2)
            go_on.set()
            await went_on
        await there.publish(2, "k")  # earlier, it could be taken ahead of who waits for the lock
        await until(lambda: not consumer.is_leading)
        assert there.numbers() == [1]
        there.ask("update relay.inbox_consumer set lease_until = now()")
        await until(lambda: consumer.is_leading)
        await until(lambda: there.numbers() == [1, 2])


async def test_a_consumer_killed_between_commit_and_acknowledgement_makes_no_second_effect(
    there: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    consumer = there.consumer()
    committed = asyncio.Event()

    async def never(batch: list[object]) -> None:
        if batch:
            committed.set()
            await asyncio.sleep(600)

    monkeypatch.setattr(consumer._reading, "acknowledge", never)
    running = asyncio.create_task(consumer.run())
    await there.publish(1, "k")
    await committed.wait()
    await there.kill(running)
    assert await there.pending() == (0, 1)
    async with there.running(ack_wait=1.0) as following:
        await there.publish(2, "k")
        await until(lambda: there.numbers() == [1, 2])
        await until(lambda: following.counts.repeated >= 1)


async def test_somebody_else_who_reads_from_the_durable_upsets_no_order(there: World) -> None:
    async with there.running(ack_wait=30.0) as consumer:
        await there.publish(0, "k")
        await until(lambda: consumer.counts.handled == 1)
        thief = await there.client.jetstream().pull_subscribe_bind(there.name, there.stream)
        stealing = asyncio.create_task(thief.fetch(3, timeout=5))
        await asyncio.sleep(0.1)
        for number in range(1, 40):
            await there.publish(number, "k")
        stolen = await stealing
        await until(lambda: consumer.counts.handled == 40)
    assert stolen
    assert there.numbers() == list(range(40))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.slow
async def test_a_killed_or_frozen_process_is_replaced(there: World, number: signal.Signals) -> None:
    program = (
        "import asyncio, json, sys\n"
        "from psycopg_pool import AsyncConnectionPool\n"
        "from relay.consumer import Consumer, Options\n"
        "from relay.consumer.psycopg import PsycopgDatabase\n"
        "from tests.consumer.rig import apply\n"
        "async def slowly(connection, message):\n"
        "    await apply(connection, message)\n"
        "    await asyncio.sleep(0.01)\n"
        "async def main(dsn, url, stream):\n"
        "    async with AsyncConnectionPool(dsn, open=False) as pool:\n"
        "        options = Options(lease_lifetime=2.0, handler_timeout=2.0)\n"
        "        await Consumer(PsycopgDatabase(pool), slowly, name='billing', stream=stream,\n"
        "                       servers=url, options=options).run()\n"
        "asyncio.run(main(*sys.argv[1:]))\n"
    )
    import sys
    from pathlib import Path

    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, there.dsn, there.url, there.stream,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    try:
        await there.publish_all(range(400), lambda n: f"k{n % 3}")
        await until(lambda: len(there.numbers()) > 20)
        process.send_signal(number)
        async with there.running(lease_lifetime=60.0) as second:
            await until(lambda: len(there.numbers()) == 400)
            if number is signal.SIGSTOP:
                process.send_signal(signal.SIGCONT)
                await there.publish(400, "k0")
                await until(lambda: len(there.numbers()) == 401)
                await asyncio.sleep(0.5)
            assert second.is_leading
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
    for key in range(3):
        numbers = there.numbers(f"k{key}")
        assert numbers == sorted(set(numbers))
    assert len(there.numbers()) == len(set(there.numbers()))


async def test_a_message_that_ends_its_own_connection_is_parked(there: World) -> None:
    async def deadly(connection: Any, message: Message) -> None:
        if json.loads(message.payload)["number"] == 2:
            await connection.execute("select pg_terminate_backend(pg_backend_pid())")
        await apply(connection, message)

    async with there.running(deadly, max_attempts=1) as consumer:
        for number in (1, 2, 3):
            await there.publish(number, f"k{number}")
        await until(lambda: consumer.counts.parked == 1)
        await until(lambda: sorted(there.numbers()) == [1, 3])
