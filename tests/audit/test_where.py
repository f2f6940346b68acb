"""``relay where``: one event in every state, by every name."""

import asyncio
import re
from pathlib import Path
from typing import Any, get_args

import nats
import psycopg
import pytest
from nats.js.api import ConsumerConfig

from relay import devstack
from relay.audit.where import State
from tests.audit.conftest import Ask, Where
from tests.soak.where import run
from tests.system.harness import ROOT, STREAM, RelayProcess, alone, delivered, emit, until

PARK = """
insert into relay.parked (event_id, id, key, subject, created_at, attempts, next_attempt_at,
                          dead_at, held_by, last_error, last_code)
select event_id, id, key, subject, created_at, 3, %(next)s::timestamptz, %(dead)s::timestamptz,
       %(held)s, 'no room', 10077
  from relay.outbox where id = %(id)s
"""
SOON = "2100-01-01"


def park(dsn: str, id_: int, *, due: str | None = SOON, dead: str | None = None, held: str = ""):
    with psycopg.connect(dsn) as connection:
        connection.execute(PARK, {"id": id_, "next": due, "dead": dead, "held": held})


def id_of(dsn: str, event_id: str) -> int:
    return alone(dsn, "select id from relay.outbox where event_id = %s::uuid", event_id)


@pytest.fixture
def delivered_event(outbox_dsn: str, own_nats: devstack.NatsServer, tmp_path: Path) -> str:
    """An event with a key and a message id of its own, stored and settled; the relay has ended."""
    with psycopg.connect(outbox_dsn) as connection:
        row = connection.execute(
            "select relay.emit('orders.placed', '{}'::json, key => 'k7', idempotency_key => 'mine',"
            ' headers => \'{"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7'
            "-01\"}')::text"
        ).fetchone()
    with RelayProcess(outbox_dsn, own_nats.url, tmp_path / "relay.log") as relay:
        until(lambda: delivered(outbox_dsn) == 1, 20)
        relay.terminate()
    assert row is not None
    return row[0]


def test_a_stored_event_is_found_by_each_of_its_names(
    delivered_event: str, outbox_dsn: str, where: Where
) -> None:
    id_ = id_of(outbox_dsn, delivered_event)
    names = {
        str(id_): "id",
        delivered_event: "event_id",
        f"relay-{delivered_event}": "event_id",
        f"relay-{delivered_event}-1": "event_id",
        f"relay-{delivered_event}-r7": "event_id",
        f"relay-{delivered_event}-r7-2": "event_id",
        "mine": "idempotency_key",
        "k7": "key",
        "4bf92f3577b34da6a3ce929d0e0e4736": "trace",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01": "trace",
    }
    for name, read_as in names.items():
        found = where(name)
        (event,) = found["events"]
        assert found["read_as"] == read_as
        assert (event["id"], event["event_id"]) == (id_, delivered_event)
        assert (event["message_id"], event["state"]) == ("mine", "stored")
        (copy,) = event["stored"]
        assert (copy["stream"], copy["seq"], copy["consumers"]) == (STREAM, 1, {})


def test_a_pruned_event_is_found_in_the_stream_by_its_ids(
    delivered_event: str, outbox_dsn: str, where: Where, ask: Ask
) -> None:
    with psycopg.connect(outbox_dsn) as connection:
        connection.execute("delete from relay.outbox")
    for name in (delivered_event, "mine", "k7", "4bf92f3577b34da6a3ce929d0e0e4736"):
        found = where(name)
        assert found["events"] == []
        (copy,) = found["pruned"]
        assert (copy["event_id"], copy["seq"]) == (delivered_event, 1)
    assert "pruned" in ask("where", "mine").stdout


def test_a_pruned_event_is_found_behind_a_prefix_and_by_its_uuid_in_capitals(
    outbox_dsn: str, own_nats: devstack.NatsServer, where: Where, ask: Ask
) -> None:
    event_id = "0b8c1c5e-91d5-4c55-9a3f-7d1f6a52e10c"
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"

    async def publish() -> None:
        async with await nats.connect(own_nats.url) as client:
            js = client.jetstream()
            await js.add_stream(name=STREAM, subjects=["orders.>"])
            for message_id in ("shop:mine", "mine-too", "shop:42"):
                headers = {
                    "Nats-Msg-Id": message_id,
                    "Relay-Event-Id": event_id if message_id == "shop:mine" else message_id,
                    "traceparent": f"00-{trace}-00f067aa0ba902b7-01",
                }
                await js.publish("orders.placed", b"{}", headers=headers)

    asyncio.run(publish())
    prefix = {"RELAY_MESSAGE_ID_PREFIX": "shop:"}
    for name, seqs in {
        "mine": [1],
        "shop:mine": [1],
        "42": [3],
        event_id.upper(): [1],
        f"shop:relay-{event_id}-r1": [1],
        trace.upper(): [1, 2, 3],
    }.items():
        found = where(name, **prefix)
        assert (name, [copy["seq"] for copy in found["pruned"]]) == (name, seqs)
    # a part of a trace is no name: 4 stands in each of them
    for name in ("4", "min"):
        assert ask("where", name, **prefix).exit_code == 1


def test_consumers_have_passed_it_or_not(
    delivered_event: str, own_nats: devstack.NatsServer, where: Where
) -> None:
    async def consume() -> None:
        async with await nats.connect(own_nats.url) as client:
            js = client.jetstream()
            for name, subject in (
                ("past", "orders.>"),
                ("idle", "orders.>"),
                ("other", "orders.x"),
            ):
                config = ConsumerConfig(durable_name=name, filter_subject=subject)
                await js.add_consumer(STREAM, config)
            subscription = await js.pull_subscribe("orders.>", "past", stream=STREAM)
            (message,) = await subscription.fetch(1, timeout=5)
            await message.ack_sync()

    asyncio.run(consume())
    (event,) = where("mine")["events"]
    assert event["stored"][0]["consumers"] == {"past": "passed", "idle": "not reached"}


def test_what_waits_is_pending_and_nobody_leads(outbox_dsn: str, where: Where, ask: Ask) -> None:
    event_id = emit(outbox_dsn, "orders.placed")
    found = where(event_id)
    assert [each["state"] for each in found["events"]] == ["pending"]
    assert found["leader"] is None
    assert f"there is no stream {STREAM}" in found["unread"][STREAM]
    assert "nobody leads" in ask("where", event_id).stdout


def test_what_is_stored_and_not_settled_is_in_flight(
    delivered_event: str, outbox_dsn: str, where: Where
) -> None:
    with psycopg.connect(outbox_dsn) as connection:
        connection.execute("update relay.cursor set base = '1:1:', target = null, last_id = 0")
    assert where("mine")["events"][0]["state"] == "in flight"


def test_parked_events_say_what_they_wait_for(outbox_dsn: str, where: Where, ask: Ask) -> None:
    ids = [id_of(outbox_dsn, emit(outbox_dsn, "orders.placed", "k")) for _ in range(4)]
    park(outbox_dsn, ids[0])
    park(outbox_dsn, ids[1], due=None)
    park(outbox_dsn, ids[2], held="stream EVENTS")
    park(outbox_dsn, ids[3], due=None, dead="2026-01-01")
    states = {event["id"]: event for event in where("k")["events"]}
    assert [states[id_]["state"] for id_ in ids] == ["parked", "waiting", "held", "dead"]
    assert states[ids[1]]["waits_for"] == ids[0]
    shown = ask("where", "k").stdout
    assert f"parked behind {ids[0]}" in shown
    assert "held by stream EVENTS: no room (10077)" in shown
    assert "dead since 2026-01-01 00:00:00Z, after 3 tries" in shown


def test_an_event_that_nobody_sees_names_whose_transaction_is_open(
    outbox_dsn: str, where: Where, ask: Ask
) -> None:
    with psycopg.connect(outbox_dsn, application_name="shop") as writer:
        event_id = emit(writer, "orders.placed")
        row = writer.execute("select id, pg_backend_pid() from relay.outbox").fetchone()
        assert row is not None
        found = where(row[0])
        assert (found["given"], found["events"]) == (True, [])
        (line,) = found["open"]
        assert line.startswith(f"pid {row[1]} (postgres, 'shop') is idle in transaction since")
        assert ask("where", str(row[0])).exit_code == 0
        writer.rollback()
    done = ask("where", str(row[0]))
    assert done.exit_code == 1
    assert "rolled back" in done.stderr
    assert "no event has got this id yet" in ask("where", "4711").stderr
    assert ask("where", event_id).exit_code == 1


def test_a_stream_that_the_relay_learnt_is_looked_at_without_being_named(
    delivered_event: str, where: Where
) -> None:
    found = where("mine", RELAY_STREAM=None)
    assert found["streams"] == [STREAM]
    assert found["events"][0]["state"] == "stored"


def test_it_needs_no_more_than_the_relay_s_rights(
    delivered_event: str, outbox_dsn: str, one_role: str, where: Where
) -> None:
    assert where("mine", RELAY_POSTGRES_DSN=one_role)["events"][0]["state"] == "stored"
    assert where("999", RELAY_POSTGRES_DSN=one_role)["given"] is False


@pytest.fixture
def one_role(outbox_dsn: str) -> Any:
    """A connection string of a login with the relay's role alone."""
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    name = f"w_{conninfo_to_dict(outbox_dsn)['dbname']}"
    with psycopg.connect(outbox_dsn, autocommit=True) as admin:
        admin.execute(f"create role {name} login; grant relay_relay to {name}".encode())
        yield make_conninfo(outbox_dsn, user=name)
        admin.execute(f"drop role {name}".encode())


def test_nats_away_is_said_and_the_rest_is_answered(
    delivered_event: str, own_nats: devstack.NatsServer, where: Where, ask: Ask
) -> None:
    own_nats.stop()
    found = where("mine")
    assert found["events"][0]["state"] == "unknown"
    assert STREAM in found["unread"]
    assert f"unknown: settled, and {STREAM} was not read" in ask("where", "mine").stdout
    assert f"{STREAM} was not read" in ask("where", "nobody").stderr


def test_without_a_stream_to_look_at_a_settled_event_is_not_called_missing(
    delivered_event: str, outbox_dsn: str, where: Where, ask: Ask
) -> None:
    with psycopg.connect(outbox_dsn) as connection:
        connection.execute("delete from relay.stream")
    found = where("mine", RELAY_STREAM=None)
    assert (found["streams"], found["events"][0]["state"]) == ([], "unknown")
    assert "no stream was looked at: name --stream" in ask("where", "1", RELAY_STREAM=None).stdout


@pytest.fixture
def purged_event(delivered_event: str, own_nats: devstack.NatsServer) -> str:
    """The same, and its stream was purged."""

    async def purge() -> None:
        async with await nats.connect(own_nats.url) as client:
            await client.jetstream().purge_stream(STREAM)

    asyncio.run(purge())
    return delivered_event


def test_what_the_stream_has_no_more_is_missing_unless_a_person_dropped_it(
    purged_event: str, outbox_dsn: str, one_role: str, where: Where, ask: Ask
) -> None:
    assert where("mine")["events"][0]["state"] == "missing"
    assert f"missing: settled, and not in {STREAM}\n" in ask("where", "mine").stdout
    shown = ask("where", "mine", RELAY_POSTGRES_DSN=one_role).stdout
    assert "or a person dropped it" in shown
    park(outbox_dsn, id_of(outbox_dsn, purged_event), due=None, dead="2026-01-01")
    drop = "select count(*) from relay.drop_dead(array[%s::uuid], now(), 'anna')"
    assert alone(outbox_dsn, drop, purged_event) == 1
    (event,) = where("mine")["events"]
    assert (event["state"], event["dropped"]["by"]) == ("dropped", "postgres (anna)")
    assert "dropped by postgres (anna) at 20" in ask("where", "mine").stdout
    assert where("mine", RELAY_POSTGRES_DSN=one_role)["events"][0]["state"] == "missing"


def test_each_state_is_explained() -> None:
    table = (ROOT / "relay/audit/README.md").read_text().partition("| state | what is so |")[2]
    assert re.findall(r"^\| `([a-z ]+)` \|", table, re.MULTILINE) == list(get_args(State))


def test_each_answer_under_load_is_right_at_some_instant(
    outbox_dsn: str, own_nats: devstack.NatsServer, tmp_path: Path
) -> None:
    report = asyncio.run(run(outbox_dsn, own_nats.url, tmp_path, questions=60, seed=3))
    assert report["wrong"] == []
    assert report["questions"] == 60
