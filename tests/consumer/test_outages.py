"""Servers away, frozen, lost and misconfigured; said once, waited for, gone on."""

import asyncio
import logging
import os
import signal
from collections.abc import Iterator
from contextlib import suppress

import pytest
from nats.js.api import ConsumerConfig

from relay import devstack
from relay.consumer import Consumer, Options
from relay.consumer.psycopg import PsycopgDatabase
from relay.errors import AlreadyRunning, BusLoginRefused, SchemaError, SettingsError, StreamError
from tests.consumer.rig import INTEREST, WORK_QUEUE, World, migrated, until, world

# R-LOSS R-ONCE R-BOUND
pytestmark = pytest.mark.anyio


def warnings(caplog: pytest.LogCaptureFixture, words: str) -> list[str]:
    return [each.getMessage() for each in caplog.records if words in each.getMessage()]


async def test_nats_away_is_said_once_and_waited_for(
    inbox_dsn: str, own_nats: devstack.NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "relay.consumer")
    async with world(inbox_dsn, own_nats.url) as there, there.running() as consumer:
        await there.publish(1, "k")
        await until(lambda: consumer.counts.handled == 1)
        own_nats.kill()
        await until(lambda: warnings(caplog, "NATS is away"))
        await asyncio.sleep(1.0)
        own_nats.start()
        await until(lambda: there.client.is_connected)
        await there.publish(2, "k")
        await until(lambda: there.numbers() == [1, 2])
        assert len(warnings(caplog, "NATS is away")) == 1
        assert len(warnings(caplog, "NATS is back")) == 1


@pytest.mark.slow
async def test_a_frozen_nats_is_noticed(inbox_dsn: str, own_nats: devstack.NatsServer) -> None:
    async with world(inbox_dsn, own_nats.url) as there, there.running() as consumer:
        await there.publish(1, "k")
        await until(lambda: consumer.counts.handled == 1)
        os.kill(own_nats.pid, signal.SIGSTOP)
        await until(lambda: consumer._reading.bus.lasts, 12.0)
        os.kill(own_nats.pid, signal.SIGCONT)
        await there.publish(2, "k")
        await until(lambda: there.numbers() == [1, 2])


@pytest.fixture
def own_postgres() -> Iterator[devstack.Postgres]:
    with devstack.postgres() as server:
        yield server


@pytest.mark.slow
async def test_postgres_killed_in_the_middle_costs_no_attempt(
    own_postgres: devstack.Postgres,
    nats_server: devstack.NatsServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "relay.consumer")
    await asyncio.to_thread(migrated, own_postgres.dsn)
    async with world(own_postgres.dsn, nats_server.url) as there:
        async with there.running(batch=10) as consumer:
            await there.publish_all(range(2000), lambda number: f"k{number % 5}")
            for least in (300, 900):
                await until(lambda least=least: consumer.counts.handled > least)
                await asyncio.to_thread(own_postgres.kill)
                await until(lambda: consumer._store.lasts)
                await asyncio.to_thread(own_postgres.start)
            await until(lambda: len(there.numbers()) == 2000, 30)
            assert consumer.counts.refused == 0
            await there.acknowledged()
        for key in range(5):
            assert there.numbers(f"k{key}") == list(range(key, 2000, 5))
        assert len(warnings(caplog, "Postgres is away")) == 2


async def test_the_durable_and_its_stream_may_go_and_nothing_is_done_twice(there: World) -> None:
    """An administrator deletes what JetStream knows: the floor in the database knows better."""
    async with there.running(only_new=True) as consumer:
        await until(there.has_durable)
        for number in range(5):
            await there.publish(number, "k")
        await until(lambda: consumer.counts.handled == 5)
        await until(lambda: there.ask("select position from relay.inbox_consumer") == [(5,)])
        there.ask("truncate relay.inbox")  # as if retention were over
        await there.client.jetstream().delete_consumer(there.stream, there.name)
        await there.publish(5, "k")
        await until(lambda: there.numbers() == [0, 1, 2, 3, 4, 5])
        # Another stream of that name begins at 1 again, and its messages are new.
        await there.client.jetstream().delete_stream(there.stream)
        await there.client.jetstream().add_stream(
            name=there.stream, subjects=[f"{there.stream.lower()}.>"]
        )
        await there.publish(6, "k")
        await there.publish(7, "k")
        await until(lambda: there.numbers() == [0, 1, 2, 3, 4, 5, 6, 7])
        await there.acknowledged()


async def test_other_subjects_keep_the_position_though_rows_and_durable_go(
    there: World, caplog: pytest.LogCaptureFixture
) -> None:
    a, b, c = (there.subject(last) for last in "abc")
    jetstream, handled = there.client.jetstream(), [0, 1]

    async def handles(subjects: list[str]) -> None:
        async with there.running(subjects=subjects):
            await until(lambda: len(there.numbers()) >= len(handled))
            await there.acknowledged()
        assert sorted(there.numbers()) == handled  # without a key there is no order

    for number, subject in enumerate([a, b, c]):
        await jetstream.publish(subject, b'{"number": %d}' % number)
    await handles([a, b])
    for number, subjects in enumerate(([b, a], [b, c], []), 3):
        there.ask("truncate relay.inbox")  # as if retention were over
        await jetstream.delete_consumer(there.stream, there.name)
        await jetstream.publish(b, b'{"number": %d}' % number)
        handled.append(number)
        await handles(subjects)
    said = warnings(caplog, "from the position on")
    assert [each.partition(" is read")[0] for each in said] == [c, ">"]


@pytest.mark.parametrize("retention", [WORK_QUEUE, INTEREST])
async def test_streams_of_other_retentions_are_read_and_emptied(
    inbox_dsn: str, nats_server: devstack.NatsServer, retention: object
) -> None:
    async with world(inbox_dsn, nats_server.url, retention=retention) as there:
        dead = asyncio.create_task(there.consumer(ack_wait=1.0).run())
        await until(there.has_durable)
        await there.kill(dead)
        await there.publish_all(range(50), lambda number: f"k{number % 3}")
        async with there.running():
            await until(lambda: len(there.numbers()) == 50)
            await there.acknowledged()
        assert (await there.client.jetstream().stream_info(there.stream)).state.messages == 0


async def test_several_filters_are_read_in_one_order(there: World) -> None:
    subjects = [there.subject("a"), there.subject("b")]
    for number in range(20):
        name = f"{there.stream.lower()}.{'abc'[number % 3]}"
        content = b'{"number": %d}' % number
        await there.client.jetstream().publish(name, content, headers={"Relay-Key": "k"})
    stuck = asyncio.Event()

    async def wait(*_: object) -> None:
        stuck.set()
        await asyncio.sleep(600)

    dead = asyncio.create_task(there.consumer(wait, subjects=subjects, handler_timeout=600).run())
    await stuck.wait()
    await there.kill(dead)
    async with there.running(subjects=subjects):
        await until(lambda: len(there.numbers()) == 14)
    assert there.numbers() == [number for number in range(20) if number % 3 < 2]


async def test_what_a_person_has_to_mend_is_said_at_the_first_try(
    there: World,
) -> None:
    jetstream = there.client.jetstream()
    await jetstream.add_consumer(
        there.stream, ConsumerConfig(durable_name="pushed", deliver_subject="x", ack_policy="none")
    )
    there.name = "pushed"
    with pytest.raises(StreamError, match="it pushes, and must be a pull consumer; its ack policy"):
        await there.consumer().run()
    there.name = "billing"
    async with there.running() as consumer:
        await until(lambda: consumer.is_leading)
    with pytest.raises(AlreadyRunning):
        await consumer.run()
    there.ask("drop schema relay cascade")
    with pytest.raises(SchemaError, match="python -m relay inbox migrate"):
        await there.consumer().run()


async def test_a_missing_stream_and_a_refused_login_are_named(
    there: World, own_nats: devstack.NatsServer
) -> None:
    there.stream = "NONE"
    with pytest.raises(StreamError, match="there is no stream 'NONE'"):
        await there.consumer().run()
    config = own_nats.log_path.with_name("server.conf")
    config.write_text("authorization { user: a, password: b }", encoding="utf-8")
    own_nats.stop()
    own_nats.start()
    with pytest.raises(BusLoginRefused, match="Authorization Violation"):
        await there.consumer(servers=own_nats.url).run()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"lanes": 0}, "lanes is 0: it has to be 1 or more"),
        ({"on_dead": "wait"}, "on_dead is 'wait': block or skip"),
        ({"retention": 5.0}, "retention is 5 s: 60 or more"),
        ({"subjects": "a.b"}, "subjects is the text 'a.b': give a list of them"),
    ],
)
def test_options_that_can_t_be_used_are_named(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        Options(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["", "a.b", "a b", ">"])
def test_a_name_that_jetstream_refuses_is_named(name: str) -> None:
    with pytest.raises(SettingsError, match="no dot, space"), suppress(TypeError):
        Consumer(PsycopgDatabase(None), None, name=name, stream="S")  # type: ignore[arg-type]
