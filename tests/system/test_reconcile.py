"""Streams that forget what they acknowledged, or hold more than anybody saw. R-LOSS, R-ONCE."""

import asyncio
import os
import sys
import threading
from pathlib import Path

import psycopg
import pytest

from relay import devstack
from tests import warm
from tests.system import streams
from tests.system.harness import (
    STREAM,
    Load,
    RelayProcess,
    Start,
    alone,
    delivered,
    emit,
    until,
    verdict,
)
from tests.system.streams import older_store

pytestmark = pytest.mark.timeout(120)

OPEN = "select count(*) from relay.repair where ended_at is null"
REPAIRED = "select coalesce(sum(repaired), 0)::int from relay.repair"


def wait(seconds: float) -> None:
    threading.Event().wait(seconds)


def lines(relay: RelayProcess, text: str) -> list[dict[str, str]]:
    return [line for line in relay.said() if text in line["event"]]


@pytest.mark.slow
def test_a_server_that_comes_back_with_an_older_store_gets_the_rest_again_under_load(
    one_dsn: str, own_nats: devstack.NatsServer, start: Start, tmp_path: Path
) -> None:
    relay = start(one_dsn, own_nats.url)
    with Load(one_dsn) as load:
        until(lambda: delivered(one_dsn) > 20, 30)
        for _ in range(2):
            with older_store(own_nats, tmp_path):
                before = delivered(one_dsn)
                until(lambda before=before: delivered(one_dsn) > before + 100, 30)  # type: ignore[misc]
            until(lambda: alone(one_dsn, REPAIRED) > 0, 30)
        load.stop()
        found = asyncio.run(verdict(load, own_nats.url))
    assert found.is_clean, found
    assert relay.terminate() == 0


@pytest.mark.slow
def test_relays_killed_again_and_again_in_a_repair_lose_and_repeat_nothing(
    one_dsn: str, own_nats: devstack.NatsServer, start: Start, tmp_path: Path
) -> None:
    settings = {"batch_size": "20", "max_batch_size": "20"}
    relay = start(one_dsn, own_nats.url, **settings)
    with Load(one_dsn, producers=2, pause=0) as load:
        until(lambda: delivered(one_dsn) > 20, 30)
        with older_store(own_nats, tmp_path):
            before = delivered(one_dsn)
            until(lambda: delivered(one_dsn) > before + 3000, 60)
            load.stop()
        for _ in range(4):
            until(lambda: alone(one_dsn, "select count(*) from relay.repair") > 0, 30)
            wait(0.15)
            relay.kill()
            relay = start(one_dsn, own_nats.url, **settings)
        found = asyncio.run(verdict(load, own_nats.url))
    assert found.is_clean, found


def test_what_nobody_saw_acknowledged_is_not_stored_twice_however_late(
    one_dsn: str, own_nats: devstack.NatsServer, start: Start
) -> None:
    streams.make(own_nats.url, STREAM, "orders.>", duplicate_window=200_000_000)
    armed = start(one_dsn, own_nats.url, failpoints="before-settle=kill:3")
    while armed.process.poll() is None:
        emit(one_dsn, "orders.placed", "k")
        wait(0.3)
    stored = len(streams.read(own_nats.url, STREAM))
    assert stored > delivered(one_dsn)
    relay = start(one_dsn, own_nats.url)
    until(lambda: alone(one_dsn, "select count(*) from relay.pending") == 0, 20)
    emit(one_dsn, "orders.placed", "k")
    until(lambda: len(streams.read(own_nats.url, STREAM)) > stored, 20)
    until(lambda: alone(one_dsn, "select count(*) from relay.pending") == 0, 20)
    assert relay.terminate() == 0
    assert [m.event_id for m in streams.read(own_nats.url, STREAM)] == ids(one_dsn)


def test_events_that_left_the_parked_and_are_lost_come_again(
    one_dsn: str, own_nats: devstack.NatsServer, start: Start, tmp_path: Path
) -> None:
    streams.make(own_nats.url, STREAM, "orders.>", max_msg_size=300, allow_batched=True)
    relay = start(one_dsn, own_nats.url, max_retry_delay="200ms", max_attempts="1000")
    emit(one_dsn, "orders.placed", "other")
    large = {"padding": "x" * 300}
    with psycopg.connect(one_dsn) as connection:
        connection.execute(
            "select relay.emit('orders.placed', %s::json, key => 'k')",
            (psycopg.types.json.Jsonb(large),),
        )
    until(lambda: alone(one_dsn, "select count(*) from relay.parked") == 1, 20)
    emit(one_dsn, "orders.placed", "k")
    until(lambda: alone(one_dsn, "select count(*) from relay.parked") == 2, 20)
    for _ in range(3):
        emit(one_dsn, "orders.placed", "other")
        wait(0.05)
    until(lambda: len(streams.read(own_nats.url, STREAM)) == 4, 20)
    with older_store(own_nats, tmp_path):
        streams.change(own_nats.url, STREAM, max_msg_size=-1)
        until(lambda: len(streams.read(own_nats.url, STREAM)) == 6, 20)
        until(lambda: alone(one_dsn, "select count(*) from relay.unparked") == 2, 20)
    streams.change(own_nats.url, STREAM, max_msg_size=-1)
    until(lambda: len(streams.read(own_nats.url, STREAM)) == 6, 20)
    found = [m.event_id for m in streams.read(own_nats.url, STREAM)]
    assert sorted(found) == sorted(ids(one_dsn))
    keyed = ids(one_dsn, "k")
    assert [each for each in found if each in keyed] == keyed
    assert relay.terminate() == 0


@pytest.mark.slow
def test_events_past_their_retention_are_named_as_lost(
    one_dsn: str, own_nats: devstack.NatsServer, start: Start, tmp_path: Path
) -> None:
    relay = start(one_dsn, own_nats.url, retention="1s")
    emit(one_dsn, "orders.placed")
    until(lambda: streams.held(own_nats.url, STREAM) == 1, 20)
    until(lambda: alone(one_dsn, "select count(*) from relay.pending") == 0, 20)
    with older_store(own_nats, tmp_path):
        for _ in range(3):
            emit(one_dsn, "orders.placed")
        until(lambda: alone(one_dsn, "select count(*) from relay.outbox") == 0, 30)
    until(lambda: bool(lines(relay, "no longer in the outbox")), 20)
    (line,) = lines(relay, "no longer in the outbox")
    assert line["level"] == "error"
    assert "the ids 2 to 4 are lost" in line["event"]
    row = alone(one_dsn, "select (gone_from, gone_to)::text from relay.status")
    assert row == "(2,4)"
    assert relay.terminate() == 0


@pytest.mark.slow
def test_report_only_says_so_and_a_person_has_it_published_again(
    one_dsn: str, own_nats: devstack.NatsServer, start: Start, tmp_path: Path
) -> None:
    relay = start(one_dsn, own_nats.url, repair="report")
    emit(one_dsn, "orders.placed")
    until(lambda: delivered(one_dsn) == 1, 20)
    with older_store(own_nats, tmp_path):
        emit(one_dsn, "orders.placed")
        until(lambda: delivered(one_dsn) == 2, 20)
    until(lambda: len(lines(relay, "a stream has lost messages")) == 1, 20)
    emit(one_dsn, "orders.placed")
    until(lambda: delivered(one_dsn) == 3, 20)
    assert len(streams.read(own_nats.url, STREAM)) == 2
    until(lambda: alone(one_dsn, "select count(*) from relay.pending") == 0, 20)
    done = warm.run(
        [sys.executable, "-m", "relay", "reconcile"],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "RELAY_POSTGRES_DSN": one_dsn,
            "RELAY_NATS_URL": own_nats.url,
        },
    )
    assert done.returncode == 0, done.stderr
    assert "EVENTS: has lost messages behind sequence 1" in done.stdout
    until(lambda: len(streams.read(own_nats.url, STREAM)) == 3, 20)
    until(lambda: alone(one_dsn, OPEN) == 0, 20)
    assert sorted(m.event_id for m in streams.read(own_nats.url, STREAM)) == sorted(ids(one_dsn))
    assert relay.terminate() == 0


def ids(dsn: str, key: str | None = None) -> list[str]:
    """The event_ids in the outbox, in the order of id."""
    with psycopg.connect(dsn) as connection:
        rows = connection.execute(
            "select event_id::text from relay.outbox where %(key)s::text is null or key = %(key)s"
            " order by id",
            {"key": key},
        ).fetchall()
    return [event_id for (event_id,) in rows]
