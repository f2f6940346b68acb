"""One process: effects once, in order per key, whatever a handler does."""

import asyncio
import json
import random
import re
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from psycopg.conninfo import make_conninfo
from psycopg_pool import AsyncConnectionPool

from relay.consumer import Message
from relay.consumer.psycopg import PsycopgDatabase
from tests.consumer.rig import World, apply, until

# R-ONCE R-ORDER R-FATE
pytestmark = pytest.mark.anyio


def failing(*numbers: int) -> Any:
    """A handler that makes its effect and then raises, for these numbers; clear the set to mend."""
    bad = set(numbers)

    async def handle(connection: Any, message: Message) -> None:
        await apply(connection, message)
        if json.loads(message.payload)["number"] in bad:
            raise ValueError("no such account")

    handle.bad = bad  # type: ignore[attr-defined]
    return handle


async def test_each_effect_is_made_once_in_order_per_key_with_lanes_beside_one_another(
    there: World,
) -> None:
    async def slowly(connection: Any, message: Message) -> None:
        await asyncio.sleep(random.random() * 0.002)
        await apply(connection, message)

    numbers = range(600)
    await there.publish_all(numbers, lambda number: f"k{number % 7}")
    async with there.running(slowly, batch=5) as consumer:
        await until(lambda: consumer.counts.handled == 600)
        await there.acknowledged()
    assert sorted(there.numbers()) == list(numbers)
    for key in range(7):
        assert there.numbers(f"k{key}") == list(range(key, 600, 7))


async def test_a_second_copy_and_a_second_delivery_change_nothing(there: World) -> None:
    seen = []

    async def slow(connection: Any, message: Message) -> None:
        seen.append(message.id)
        await asyncio.sleep(1.3)  # longer than AckWait: JetStream delivers again meanwhile
        await apply(connection, message)

    async with there.running(slow, ack_wait=1.0, lanes=1) as consumer:
        await there.publish(1, "k", id_="a")
        await until(lambda: seen)
        await there.client.publish(
            there.subject(), b'{"number": 2}', headers={"Nats-Msg-Id": "b", "Relay-Key": "k"}
        )
        await until(lambda: consumer.counts.handled == 2)
        await there.acknowledged()
        there_is_more = there.ask("select count(*) from relay.inbox")
    assert there.numbers() == [1, 2]
    assert seen == ["a", "b"]
    assert there_is_more == [(2,)]


async def test_messages_with_the_same_id_are_one(there: World) -> None:
    await there.publish(1, "k", id_="one")
    # JetStream's own memory of ids is short: this is what comes behind it.
    await there.client.jetstream().purge_stream(there.stream)
    async with there.running() as consumer:
        await there.publish(1, "k", id_="two")
        await until(lambda: consumer.counts.handled == 1)
        there.ask("insert into relay.inbox values ('billing', 'three') returning 1")
        await there.publish(3, "k", id_="three")
        await there.publish(4, "k", id_="four")
        await until(lambda: consumer.counts.handled == 2)
    assert there.numbers() == [1, 4]
    assert consumer.counts.repeated == 1


async def test_a_message_without_headers_is_handled_once(there: World) -> None:
    seen = list[Message]()

    async def keep(_: Any, message: Message) -> None:
        seen.append(message)

    await there.client.publish(there.subject(), b"bare")
    async with there.running(keep) as consumer:
        await until(lambda: consumer.counts.handled == 1)
    async with there.running(keep):
        await there.acknowledged()
    (message,) = seen
    assert (message.payload, message.key, dict(message.headers)) == (b"bare", None, {})
    assert message.id.startswith(f"{there.stream}-1-")
    assert message.stored_at.tzinfo is not None


async def test_poison_is_parked_with_its_key_behind_it_and_all_others_flow(there: World) -> None:
    handler = failing(2)
    async with there.running(handler, batch=10) as consumer:
        for number in range(1, 5):
            await there.publish(number, "bad")
        for number in range(11, 15):
            await there.publish(number, "good")
        await until(
            lambda: (
                there.ask(
                    "select count(*) from relay.inbox_parked where dead_at > now()-'1h'::interval"
                )
                == [(1,)]
            )
        )
        await until(lambda: len(there.numbers()) == 5)
        await there.acknowledged()  # nothing of it keeps MaxAckPending
        assert there.numbers("bad") == [1]
        assert there.numbers("good") == [11, 12, 13, 14]
        rows = there.ask(
            "select sequence, attempts, dead_at is null, next_attempt_at, last_error,"
            " jsonb_array_length(errors) from relay.inbox_parked order by id"
        )
        assert rows == [
            (2, 3, False, None, "ValueError: no such account", 3),
            (3, 0, True, None, "", 0),
            (4, 0, True, None, "", 0),
        ]
        # A message that comes now queues behind them as well.
        await there.publish(5, "bad")
        await until(lambda: there.ask("select count(*) from relay.inbox_parked") == [(4,)])
        await until(lambda: consumer.counts.waiting == 3)  # counted behind the commit
        # Mended: a person has it tried again.
        handler.bad.clear()
        there.ask("select relay.inbox_retry(array(select id from relay.inbox_parked), 'me')")
        await until(lambda: there.ask("select count(*) from relay.inbox_parked") == [(0,)])
        await there.publish(6, "bad")
        await until(lambda: there.numbers("bad")[-1:] == [6])
    assert there.numbers("bad") == [1, 2, 3, 4, 5, 6]
    assert there.ask("select action, message_id from relay.inbox_decision") != []


async def test_with_skip_a_dead_message_lets_its_key_go_on(there: World) -> None:
    async with there.running(failing(2), on_dead="skip"):
        for number in range(1, 5):
            await there.publish(number, "k")
        await until(lambda: there.numbers("k") == [1, 3, 4])
        await there.publish(5, "k")
        await until(lambda: there.numbers("k") == [1, 3, 4, 5])
    assert there.ask("select sequence from relay.inbox_parked where dead_at is not null") == [(2,)]


async def test_a_dead_message_that_is_dropped_frees_its_key_and_never_comes_back(
    there: World,
) -> None:
    async with there.running(failing(1)) as consumer:
        await there.publish(1, "k", id_="poison")
        await there.publish(2, "k")
        dead = "select from relay.inbox_parked where dead_at is not null"
        await until(lambda: there.ask(f"select count(*) from ({dead}) as d") == [(1,)])
        await until(lambda: consumer.counts.refused == 3)
        there.ask("select relay.inbox_drop(array(select id from relay.inbox_parked), 'me')")
        await until(lambda: there.numbers() == [2])
        await there.client.jetstream().purge_stream(there.stream)
    rows = there.ask("select message_id from relay.inbox where message_id = 'poison'")
    assert rows == [("poison",)]


async def test_a_refused_message_is_tried_again_by_itself_in_its_place(there: World) -> None:
    handler = failing(1)

    async def mend() -> None:
        await until(lambda: there.ask("select attempts from relay.inbox_parked where attempts > 0"))
        handler.bad.clear()

    async with there.running(handler, max_attempts=1000):
        await there.publish(1, "k")
        await there.publish(2, "k")
        await mend()
        await until(lambda: there.numbers() == [1, 2])
        assert there.ask("select count(*) from relay.inbox_parked") == [(0,)]


async def test_a_login_with_the_documented_rights_is_enough(there: World) -> None:
    guide = (Path(__file__).parents[2] / "relay/consumer/README.md").read_text(encoding="utf-8")
    grants, _ = re.findall(r"```sql\n(.*?)```", guide, re.DOTALL)
    login = f"billing_{uuid.uuid4().hex[:8]}"
    there.ask(f"create role {login} login; {grants}".replace(" to billing;", f" to {login};"))
    there.ask(f"grant insert on effect to {login}; grant usage on sequence effect_n_seq to {login}")
    try:
        async with AsyncConnectionPool[Any](
            make_conninfo(there.dsn, user=login), open=False
        ) as pool:
            database = PsycopgDatabase(pool)
            async with there.running(failing(1), database=database, max_attempts=2) as consumer:
                await there.publish(1, "k")
                await there.publish(2, "l")
                await until(lambda: consumer.counts.refused == 2)
                await until(lambda: there.numbers() == [2])
    finally:
        there.ask(f"drop owned by {login}; drop role {login}")


async def swallow(connection: Any, message: Message) -> None:
    await apply(connection, message)
    with suppress(Exception):  # which leaves a transaction whose COMMIT rolls back
        await connection.execute("select 1/0")


async def commit(connection: Any, message: Message) -> None:
    await apply(connection, message)
    await connection.commit()


async def roll_back_by_hand(connection: Any, message: Message) -> None:
    await apply(connection, message)
    await connection.execute("rollback")
    await connection.execute("begin")


async def close(connection: Any, message: Message) -> None:
    await apply(connection, message)
    await connection.close()


async def return_something(connection: Any, message: Message) -> bool:
    await apply(connection, message)
    return False


async def forget_to_await(connection: Any, message: Message) -> Any:
    return apply(connection, message)


def synchronous(connection: Any, message: Message) -> None:
    return None


async def hang(connection: Any, message: Message) -> None:
    await apply(connection, message)
    await asyncio.sleep(60)


async def hang_in_postgres(connection: Any, message: Message) -> None:
    await apply(connection, message)
    await connection.execute("select pg_sleep(60)")


async def cancel_itself(connection: Any, message: Message) -> None:
    await apply(connection, message)
    raise asyncio.CancelledError


async def violate_at_commit(connection: Any, message: Message) -> None:
    await apply(connection, message)
    await connection.execute("insert into later values (1), (1)")


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.parametrize(
    "wrong",
    [
        swallow, commit, roll_back_by_hand, close, return_something, forget_to_await, synchronous,
        hang, hang_in_postgres, cancel_itself, violate_at_commit,
    ],
)  # fmt: skip
async def test_whatever_a_handler_does_wrong_its_message_is_parked_without_an_effect(
    there: World, wrong: Any
) -> None:
    there.ask("create table later (n int unique deferrable initially deferred); select 1")

    def handle(connection: Any, message: Message) -> Any:
        return (wrong if message.key == "bad" else apply)(connection, message)

    hangs = wrong in (hang, hang_in_postgres)
    limit = {"handler_timeout": 2.0} if hangs else {}
    async with there.running(handle, max_attempts=1, **limit) as consumer:
        await there.publish(1, "bad")
        await there.publish(2, "good")
        await until(lambda: consumer.counts.parked == 1)
        await until(lambda: consumer.counts.handled == 1)
        await there.acknowledged()
    assert there.numbers() == [2]
    ((error, dead),) = there.ask("select last_error, dead_at is not null from relay.inbox_parked")
    assert dead
    assert error


async def test_one_failing_message_of_a_batch_fails_alone(there: World) -> None:
    await there.publish_all(range(100), lambda number: f"k{number % 3}")
    sizes = []

    async def handle(connection: Any, messages: list[Message]) -> None:
        sizes.append(len(messages))
        for message in messages:
            await apply(connection, message)
        if any(json.loads(message.payload)["number"] == 50 for message in messages):
            raise ValueError("no")

    async with there.running(handle, batches=True, lanes=2, max_attempts=1) as consumer:
        await until(lambda: consumer.counts.parked == 1)
        await until(lambda: len(there.numbers()) + consumer.counts.waiting == 99)
    assert max(sizes) > 1
    assert there.numbers("k2") == list(range(2, 50, 3))
    assert there.numbers("k0") == list(range(0, 100, 3))
    assert there.numbers("k1") == list(range(1, 100, 3))


async def test_what_no_database_takes_as_text_is_handled_and_parked(there: World) -> None:
    odd = "x" * 3000
    fields = {"Nats-Msg-Id": odd, "Relay-Key": odd, "Note": "\u2028 \u0001 ü"}
    raw = b"NATS/1.0\r\nNats-Msg-Id: nul\x00\xff\r\nRelay-Key: \xfe\x00\r\nNote: \x00\r\n\r\n"
    async with there.running(failing(), max_attempts=1) as consumer:
        await there.client.jetstream().publish(there.subject(), b'{"number": 1}', headers=fields)
        payload = b"no JSON \x00"
        frame = f"HPUB {there.subject()} {len(raw)} {len(raw) + len(payload)}\r\n".encode()
        there.client._pending.append(frame + raw + payload + b"\r\n")
        await there.client.flush()
        await until(lambda: consumer.counts.handled + consumer.counts.parked == 2)
    assert there.numbers() == [1]
    ((error, payload_there),) = there.ask("select last_error, payload from relay.inbox_parked")
    assert "JSONDecodeError" in error
    assert bytes(payload_there) == payload
