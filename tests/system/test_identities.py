"""R-ONCE: whose message an id is, and that nobody's is swallowed for the sake of another's."""

import os
import sys
import uuid
from pathlib import Path

import pytest

from relay import devstack
from tests import warm
from tests.system import streams
from tests.system.harness import STREAM, Start, alone, connected, emit, until

pytestmark = pytest.mark.timeout(120)

KEPT = "select count(*) from relay.parked where dead_at is not null"
PARKED = "select count(*) from relay.parked"


@pytest.fixture
def another_dsn(one_postgres: devstack.Postgres, one_template: str) -> str:
    """A second service's database."""
    return one_postgres.create_database(f"other_{uuid.uuid4().hex[:8]}", template=one_template)


@pytest.mark.parametrize("batched", ["true", "false"], ids=["fast ingest", "windowed"])
def test_one_key_of_two_databases_is_stored_once_and_the_other_is_dead_and_named(
    one_dsn: str, another_dsn: str, own_nats: devstack.NatsServer, start: Start, batched: str
) -> None:
    url = own_nats.url
    streams.make(url, STREAM, "orders.>", allow_batched=batched == "true")
    relays = [start(dsn, url, stream_create="false") for dsn in (one_dsn, another_dsn)]
    first = [emit(one_dsn, "orders.one", "k", message_id=f"pay-{n}") for n in range(10)]
    until(lambda: streams.held(url, STREAM) == 10, 20)
    for n in range(10):
        emit(another_dsn, "orders.two", "k", message_id=f"pay-{n}")
    behind = emit(another_dsn, "orders.two", "k")
    until(lambda: alone(another_dsn, KEPT) == 10, 20)
    until(lambda: streams.held(url, STREAM) == 11, 20)
    until(lambda: alone(another_dsn, PARKED) == 10, 20)  # what waited behind them is settled
    assert [m.event_id for m in streams.read(url, STREAM)] == [*first, behind]
    with connected(another_dsn) as look:
        said = look.execute("select last_error from relay.parked order by id").fetchall()
    assert all(f"event {event_id}" in error for (error,), event_id in zip(said, first, strict=True))
    assert [relay.terminate() for relay in relays] == [0, 0]


def test_with_a_prefix_each_both_are_stored(
    one_dsn: str, another_dsn: str, own_nats: devstack.NatsServer, start: Start
) -> None:
    url = own_nats.url
    relays = [
        start(dsn, url, message_id_prefix=prefix)
        for dsn, prefix in ((one_dsn, "one:"), (another_dsn, "two:"))
    ]
    for dsn in (one_dsn, another_dsn):
        emit(dsn, "orders.placed", "k", message_id="pay-1")
        emit(dsn, "orders.placed", "k")
    until(lambda: streams.held(url, STREAM) == 4, 20)
    ids = {message.message_id for message in streams.read(url, STREAM)}
    assert {"one:pay-1", "two:pay-1"} < ids
    assert sorted(each[:10] for each in ids)[::2] == ["one:pay-1", "two:pay-1"]
    assert (alone(one_dsn, PARKED), alone(another_dsn, PARKED)) == (0, 0)
    assert [relay.terminate() for relay in relays] == [0, 0]


def test_another_applications_id_costs_that_event_alone(
    one_dsn: str, own_nats: devstack.NatsServer, start: Start
) -> None:
    url = own_nats.url
    streams.make(url, STREAM, "orders.>")
    streams.publish(url, "orders.theirs", message_id="pay-1")
    relay = start(one_dsn, url)
    emit(one_dsn, "orders.mine", "k", message_id="pay-1")
    behind = emit(one_dsn, "orders.mine", "k")
    until(lambda: streams.held(url, STREAM) == 2, 20)
    assert streams.read(url, STREAM)[-1].event_id == behind
    until(lambda: alone(one_dsn, KEPT) == 1, 20)
    assert "another client" in alone(one_dsn, "select last_error from relay.parked")
    assert relay.terminate() == 0


@pytest.mark.parametrize("key", ["pay-7-1", "pay-7-retry-1", "pay-7"])
def test_a_retried_event_meets_no_other_ones_key(
    one_dsn: str, own_nats: devstack.NatsServer, start: Start, key: str
) -> None:
    """Whatever key another event has, the retried one gets an id that none of them can have."""
    url = own_nats.url
    streams.make(url, STREAM, "orders.>", max_msg_size=500)
    relay = start(one_dsn, url, max_attempts="1")
    with connected(one_dsn) as producer:
        dead = producer.execute(
            "insert into relay.outbox (subject, payload, idempotency_key)"
            " values ('orders.big', to_json(repeat('x', 1000)), 'pay-7') returning event_id::text"
        ).fetchone()
    assert dead is not None
    until(lambda: alone(one_dsn, KEPT) == 1, 20)
    if key != "pay-7":
        emit(one_dsn, "orders.other", message_id=key)
        until(lambda: streams.held(url, STREAM) == 1, 20)
    else:
        streams.publish(url, "orders.other", message_id=key)
    streams.change(url, STREAM, max_msg_size=-1)
    done = warm.run(
        [sys.executable, "-m", "relay", "dead", "retry", "--all", "--yes"],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "RELAY_POSTGRES_DSN": one_dsn,
        },
    )
    assert done.returncode == 0, done.stderr
    until(lambda: streams.held(url, STREAM) == 2, 20)
    assert [m.event_id for m in streams.read(url, STREAM)][1] == dead[0]
    until(lambda: alone(one_dsn, PARKED) == 0, 20)
    assert relay.terminate() == 0
