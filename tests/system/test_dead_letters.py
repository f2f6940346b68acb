"""A dead letter's whole way: refused, dead, looked at, and retried or dropped by a person."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import nats
import psycopg
import pytest
from nats.js import JetStreamContext
from nats.js.api import StreamConfig

from relay import devstack
from relay.audit.oracle import StreamMessage
from relay.audit.stream import read_stream
from tests import warm
from tests.system.harness import STREAM, RelayProcess, alone, until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

SMALL, LARGE = b"x" * 10, b"x" * 2000
NARROW = StreamConfig(name=STREAM, subjects=["orders.>"], max_msg_size=1000)
WIDE = StreamConfig(name=STREAM, subjects=["orders.>"], max_msg_size=100_000)


@pytest.fixture
def dsn(one_dsn: str) -> str:
    """One major version of Postgres will do: nothing here depends on which."""
    return one_dsn


@pytest.fixture
async def jetstream(own_nats: devstack.NatsServer) -> AsyncIterator[JetStreamContext]:
    client = await nats.connect(own_nats.url)
    context = client.jetstream()
    await context.add_stream(NARROW)
    yield context
    await client.close()


def emit(dsn: str, *events: tuple[str, str, bytes]) -> dict[str, str]:
    """Write events (name, key, payload) in one transaction; return their UUIDs by name."""
    with psycopg.connect(dsn) as producer:
        rows = [
            producer.execute(
                "select relay.emit_bytes(%s, %s, key => %s)::text",
                (f"orders.{name}", payload, key),
            ).fetchone()
            for name, key, payload in events
        ]
    return {name: row[0] for (name, _, _), row in zip(events, rows, strict=True) if row}


def dead(dsn: str, *args: str) -> subprocess.CompletedProcess[str]:
    return warm.run(
        [sys.executable, "-m", "relay", "dead", *args],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "RELAY_POSTGRES_DSN": dsn,
        },
    )


def parked(dsn: str) -> list[tuple[str, str]]:
    """Subjects and states of the parked, in the order of id."""
    listed = dead(dsn, "list", "--parked", "--json")
    assert listed.returncode == 0, listed.stderr
    return [(each["subject"], each["state"]) for each in json.loads(listed.stdout)]


def refusals(dsn: str) -> int:
    """How often event 1 was refused."""
    return len(json.loads(dead(dsn, "show", "1", "--json").stdout)["errors"])


async def stored(own_nats: devstack.NatsServer, count: int) -> list[StreamMessage]:
    """Wait until the stream holds ``count`` messages, and return them."""
    messages: list[StreamMessage] = []
    for _ in range(1000):
        messages = await read_stream(own_nats.url, STREAM)
        if len(messages) >= count:
            break
        await asyncio.sleep(0.02)
    return messages


@pytest.mark.slow
async def test_a_retry_inside_the_duplicate_window_is_stored_before_the_later_ones_of_its_key(
    dsn: str, own_nats: devstack.NatsServer, jetstream: JetStreamContext, tmp_path: Path
) -> None:
    ids = emit(dsn, ("a", "k", SMALL), ("b", "k", LARGE), ("c", "k", SMALL), ("z", "other", SMALL))
    settings = {"max_attempts": "1", "on_dead": "block"}
    with RelayProcess(dsn, own_nats.url, tmp_path / "relay.log", **settings) as relay:
        until(lambda: parked(dsn) == [("orders.b", "dead"), ("orders.c", "waiting")], 20)
        ids |= emit(dsn, ("d", "k", SMALL), ("y", "other", SMALL))
        before = await stored(own_nats, 3)
        assert sorted(message.subject for message in before) == ["orders.a", "orders.y", "orders.z"]

        # Somebody brought it in by hand: the stream remembers the event's own message id.
        await jetstream.publish("orders.by_hand", b"", headers={"Nats-Msg-Id": f"relay-{ids['b']}"})
        await jetstream.update_stream(WIDE)
        told = dead(dsn, "retry", "--subject", "orders.b", "--yes", "--by", "anna")
        assert (told.returncode, told.stdout) == (0, "retried 1 dead event\n"), told.stderr

        after = await stored(own_nats, 7)
        of_key = [message for message in after if message.key == "k"]
        assert [message.subject[-1] for message in of_key] == ["a", "b", "c", "d"]
        assert [message.message_id for message in of_key] == [
            f"relay-{ids['a']}",
            f"relay-{ids['b']}-1",
            f"relay-{ids['c']}",
            f"relay-{ids['d']}",
        ]
        until(lambda: parked(dsn) == [], 20)
        assert len(await read_stream(own_nats.url, STREAM)) == 7
        assert "stored since it was retried by" in dead(dsn, "show", ids["b"]).stderr
        assert relay.terminate() == 0


async def test_a_dropped_event_lets_its_key_go_on_at_once_and_never_arrives(
    dsn: str, own_nats: devstack.NatsServer, jetstream: JetStreamContext, tmp_path: Path
) -> None:
    emit(dsn, ("a", "k", LARGE), ("b", "k", SMALL), ("c", "k", SMALL))
    settings = {"max_attempts": "1", "on_dead": "block"}
    with RelayProcess(dsn, own_nats.url, tmp_path / "relay.log", **settings) as relay:
        waiting = [("orders.b", "waiting"), ("orders.c", "waiting")]
        until(lambda: parked(dsn) == [("orders.a", "dead"), *waiting], 20)
        assert dead(dsn, "drop", "--all", "--yes").returncode == 0
        messages = await stored(own_nats, 2)
        assert [message.subject for message in messages] == ["orders.b", "orders.c"]
        until(lambda: parked(dsn) == [], 20)
        assert relay.terminate() == 0
    assert (await jetstream.stream_info(STREAM)).state.last_seq == 2


@pytest.mark.slow
async def test_a_dead_event_that_blocks_nobody_comes_late_when_it_is_retried(
    dsn: str, own_nats: devstack.NatsServer, jetstream: JetStreamContext, tmp_path: Path
) -> None:
    emit(dsn, ("a", "k", LARGE), ("b", "k", SMALL))
    with RelayProcess(dsn, own_nats.url, tmp_path / "relay.log", max_attempts="1") as relay:
        assert [message.subject for message in await stored(own_nats, 1)] == ["orders.b"]
        until(lambda: parked(dsn) == [("orders.a", "dead")], 20)
        assert dead(dsn, "retry", "1").returncode == 0
        until(lambda: refusals(dsn) == 2, 20)
        await jetstream.update_stream(WIDE)
        until(lambda: dead(dsn, "retry", "--all", "--yes").returncode == 0, 20)
        messages = await stored(own_nats, 2)
        assert [message.subject for message in messages] == ["orders.b", "orders.a"]
        assert relay.terminate() == 0


@pytest.mark.slow
async def test_a_key_is_put_back_in_its_order_and_what_passed_the_dead_events_is_named(
    dsn: str, own_nats: devstack.NatsServer, jetstream: JetStreamContext, tmp_path: Path
) -> None:
    # R-ORDER: order-preserving dead letters
    big = [("a", "k", LARGE), ("b", "k", SMALL), ("c", "k", LARGE), ("d", "k", SMALL)]
    emit(dsn, *big, ("e", "other", SMALL))
    with RelayProcess(dsn, own_nats.url, tmp_path / "relay.log", max_attempts="1") as relay:
        until(lambda: parked(dsn) == [("orders.a", "dead"), ("orders.c", "dead")], 20)
        await stored(own_nats, 3)
        await jetstream.update_stream(WIDE)
        told = dead(dsn, "retry", "--key", "k", "--dry-run")
        assert told.returncode == 0
        assert told.stdout == "would retry 2 dead events: nothing was done\n"
        assert "key k: 2 later events published before them: 2, 4" in told.stderr
        assert parked(dsn) == [("orders.a", "dead"), ("orders.c", "dead")]

        asked = asyncio.get_running_loop().run_in_executor(
            None, dead, dsn, "retry", "--key", "k", "--yes", "--json"
        )
        until(
            lambda: alone(dsn, "select count(*) from relay.parked where dead_at is null") == 2, 20
        )
        emit(dsn, ("f", "k", SMALL))
        told = await asked
        report = json.loads(told.stdout)
        assert (report["done"], report["failed"]) == (2, [])
        later = await stored(own_nats, 6)
        of_key = [message.subject[-1] for message in later if message.key == "k"]
        passed = of_key[: of_key.index("a")]
        assert set(passed) >= {"b", "d"}
        assert report["published"] == sorted({"b": 2, "d": 4, "f": 6}[name] for name in passed)
        assert of_key[len(passed) :] == ["a", "c", *(["f"] if "f" not in passed else [])]
        assert relay.terminate() == 0


@pytest.mark.slow
async def test_where_the_dead_block_their_key_nothing_has_passed_and_all_of_it_waits(
    dsn: str, own_nats: devstack.NatsServer, jetstream: JetStreamContext, tmp_path: Path
) -> None:
    # R-ORDER: order-preserving dead letters
    emit(dsn, ("a", "k", LARGE), ("b", "k", SMALL), ("c", "k", SMALL))
    settings = {"max_attempts": "1", "on_dead": "block"}
    with RelayProcess(dsn, own_nats.url, tmp_path / "relay.log", **settings) as relay:
        until(lambda: len(parked(dsn)) == 3, 20)
        await jetstream.update_stream(WIDE)
        told = dead(dsn, "retry", "--key", "k", "--yes")
        assert (told.returncode, told.stdout) == (0, "retried 1 dead event\n"), told.stderr
        assert told.stderr == "key k: 2 later events wait for them\n" * 2
        messages = await stored(own_nats, 3)
        assert [message.subject for message in messages] == ["orders.a", "orders.b", "orders.c"]
        assert relay.terminate() == 0
