"""What every helper promises, asked of each framework on a real Postgres."""

import json
import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from opentelemetry import trace

from relay import devstack
from relay.producer import Event, EventRefused, JsonText, SchemaError
from tests.producer.adapters import ADAPTERS, Adapter

WRITTEN = (
    "select event_id, subject, payload::text, payload_bytes, key, headers, idempotency_key "
    "from relay.outbox order by id"
)
ODD = 'it\'s "%s" {} :p1 $1 \\ ü☃ %(x)s'


RARE = {"psycopg autocommit", "sqlalchemy async psycopg"}
"""Further ways of what another one has already."""


@pytest.fixture(
    params=[
        pytest.param(name, marks=[pytest.mark.slow] if name in RARE else []) for name in ADAPTERS
    ]
)
def adapter(request: pytest.FixtureRequest) -> Adapter:
    return ADAPTERS[request.param]


@pytest.fixture(scope="module")
def database_of_all(postgres_server: devstack.Postgres, outbox_template: str) -> Iterator[str]:
    name = f"producer_{uuid.uuid4().hex[:12]}"
    dsn = postgres_server.create_database(name, template=outbox_template)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("create table orders (id int primary key, state text)")
        connection.execute("grant all on orders to relay_producer")
    yield dsn
    postgres_server.drop_database(name)


@pytest.fixture
def dsn(database_of_all: str) -> str:
    with psycopg.connect(database_of_all, autocommit=True) as connection:
        connection.execute("delete from relay.outbox")
        connection.execute("delete from orders")
    return database_of_all


def written(dsn: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        return connection.execute(WRITTEN).fetchall()


def test_the_event_and_the_change_are_committed_together(adapter: Adapter, dsn: str) -> None:
    with adapter(dsn) as writer:
        writer.execute("insert into orders values (7, 'placed')")
        event_id = writer.emit("orders.placed", {"order": 7}, key="order-7", headers={"a": "b"})
        assert written(dsn) == []
    assert written(dsn) == [
        (event_id, "orders.placed", '{"order":7}', None, "order-7", {"a": "b"}, None)
    ]
    assert isinstance(event_id, uuid.UUID)


def test_the_event_goes_with_a_transaction_that_is_rolled_back(adapter: Adapter, dsn: str) -> None:
    """R-PHANTOM"""
    with pytest.raises(LookupError), adapter(dsn) as writer:
        writer.emit("orders.placed", {"order": 7})
        writer.emit_many([Event("orders.placed", {"order": 8})])
        raise LookupError
    assert written(dsn) == []


def test_the_transaction_goes_on_behind_an_event(adapter: Adapter, dsn: str) -> None:
    with adapter(dsn) as writer:
        for number in range(8):  # drivers prepare what comes often
            writer.emit("orders.placed", number)
            writer.emit_many([Event("orders.placed", b"x")] * number)
        writer.execute("insert into orders values (7, 'placed')")
    assert len(written(dsn)) == 8 + 28


def test_bytes_are_written_as_they_are(adapter: Adapter, dsn: str) -> None:
    with adapter(dsn) as writer:
        for payload in (b"", b"\x00\xff", b'{"n": 1}', bytearray(b"\\x00"), memoryview(b"'%s'")):
            writer.emit("a.b", payload)
    rows = written(dsn)
    assert [row[3] for row in rows] == [b"", b"\x00\xff", b'{"n": 1}', b"\\x00", b"'%s'"]
    assert {row[2] for row in rows} == {None}


def test_odd_characters_arrive_as_they_were_given(adapter: Adapter, dsn: str) -> None:
    with adapter(dsn) as writer:
        writer.emit("a.b", JsonText('{"b" :  2}'), key=ODD, headers={"h": ODD}, idempotency_key=ODD)
        writer.emit_many([Event("a.b", [ODD], ODD, {"h": ODD}, ODD + "2")])
    first, second = written(dsn)
    assert first[2:] == ('{"b" :  2}', None, ODD, {"h": ODD}, ODD)
    assert second[4:] == (ODD, {"h": ODD}, ODD + "2")
    assert "☃" in second[2]


def test_many_are_written_in_their_order_whatever_each_holds(adapter: Adapter, dsn: str) -> None:
    """R-ORDER"""
    events = [
        Event("a.b", {"n": n} if n % 3 else b"%d" % n, key=f"k{n % 7}" if n % 2 else None)
        for n in range(500)
    ]
    with adapter(dsn) as writer:
        ids = writer.emit_many(iter(events))
    rows = written(dsn)
    assert [row[0] for row in rows] == ids
    assert [row[2] or row[3] for row in rows] == [
        f'{{"n":{n}}}' if n % 3 else b"%d" % n for n in range(500)
    ]
    assert [row[4] for row in rows] == [event.key for event in events]


def test_a_ttl_is_written_by_each_way(adapter: Adapter, dsn: str) -> None:
    hour, odd = timedelta(hours=1), timedelta(days=36_525)
    with adapter(dsn) as writer:
        writer.emit("a.b", {}, ttl=hour)
        writer.emit("a.b", b"", ttl=odd)
        writer.emit_many([Event("a.b", {}), Event("a.b", {}, ttl=odd)])
        writer.emit_many([Event("a.b", {}, idempotency_key="ttl", ttl=hour)])
    with psycopg.connect(dsn) as look:
        found = look.execute("select extract(epoch from ttl)::bigint from relay.outbox order by id")
        assert [seconds for (seconds,) in found] == [3600, 3155760000, None, 3155760000, 3600]


def test_both_ways_write_the_same(dsn: str) -> None:
    payloads = ['\x00 \x7f \u2028 \U0001f600 \\u0000 "', {"\\": "/"}, 1e300, 10**30, [[]], {}]
    with ADAPTERS["psycopg"](dsn) as writer:
        for payload in payloads:
            writer.emit("a.b", [payload])
        writer.emit_many([Event("a.b", [payload]) for payload in payloads])
    texts = [row[2] for row in written(dsn)]
    assert texts[:6] == texts[6:]
    assert [json.loads(text) for text in texts[6:]] == [[payload] for payload in payloads]


def test_none_at_all_are_no_statement(adapter: Adapter, dsn: str) -> None:
    with adapter(dsn) as writer:
        assert writer.emit_many([]) == []


def test_an_idempotency_key_is_written_once(adapter: Adapter, dsn: str) -> None:
    """R-ONCE"""
    with adapter(dsn) as writer:
        first = writer.emit("a.b", 1, idempotency_key="i")
        assert writer.emit("a.b", 2, idempotency_key="i") == first
        assert writer.emit("a.b", b"3", idempotency_key="i") == first
        keys = ("i", "j", "j", None)
        made = writer.emit_many([Event("a.b", n, idempotency_key=k) for n, k in enumerate(keys)])
    rows = written(dsn)
    assert [row[0] for row in rows] == [first, *made]
    assert [(row[2], row[6]) for row in rows] == [("1", "i"), ("1", "j"), ("3", None)]


REFUSED = [
    (Event("orders..placed", 1), "outbox_subject_has_no_empty_token", "'orders..placed'"),
    (Event("a.>", 1), "outbox_subject_has_no_wildcard", "'a.>'"),
    (Event("a.b", 1, key="k\n"), "outbox_key_has_no_control_character_or_outer_space", "'k\n'"),
    (Event("a.b", None, "k-9"), "outbox_one_of_payload_and_payload_bytes_is_given", "'k-9'"),
    (Event("a.b", b"x" * (1 << 20) + b"x"), "outbox_payload_bytes_are_at_most_1_mib", "'a.b'"),
    (Event("a.b", 1, None, {"Nats-X": ""}), "outbox_header_names_do_not_begin_with", "'a.b'"),
    (Event("a.b", 1, None, {"n": 3}), "outbox_header_values_are_strings", "JSON string"),  # type: ignore[dict-item]
    (Event("a.b", 1, None, None, "relay-1"), "outbox_idempotency_key_does_not", "'relay-1'"),
]


@pytest.mark.parametrize("many", [False, True])
def test_a_refusal_is_told_from_other_errors(adapter: Adapter, dsn: str, many: bool) -> None:
    """R-FATE"""
    event = Event("orders..placed", {"x": 1}, "k-9")
    told = r"'orders\.\.placed', key 'k-9'"
    with pytest.raises(EventRefused, match=told) as caught, adapter(dsn) as writer:
        writer.execute("insert into orders values (7, 'placed')")
        events = [Event("a.b", 1), event]
        writer.emit_many(events) if many else writer.emit("orders..placed", 1, key="k-9")
    assert caught.value.rule == "outbox_subject_has_no_empty_token"
    assert written(dsn) == []


@pytest.mark.parametrize(("event", "rule", "value"), REFUSED, ids=[rule for _, rule, _ in REFUSED])
def test_a_rule_of_the_table_refuses_in_its_own_words(
    dsn: str, event: Event, rule: str, value: str
) -> None:
    """R-FATE"""
    adapter = ADAPTERS["psycopg"]
    fields = ("subject", "payload", "key", "headers", "idempotency_key")
    given = {name: getattr(event, name) for name in fields}
    for many in (False, True):
        with pytest.raises(EventRefused) as caught, adapter(dsn) as writer:
            writer.execute("insert into orders values (7, 'placed')")
            writer.emit_many([Event("a.b", 1), event]) if many else writer.emit(**given)
        assert caught.value.rule.startswith(rule)
        message = str(caught.value)
        assert message.startswith("the outbox refuses this event: ")
        assert caught.value.rule in message
        assert value in message
        assert "xxx" not in message
    assert written(dsn) == []


def test_a_producer_s_login_may_do_all_of_it(adapter: Adapter, dsn: str) -> None:
    with adapter(dsn) as writer:
        writer.execute("set role relay_producer")
        writer.emit("a.b", 1, key="k", headers={"a": "b"}, idempotency_key="i")
        writer.emit("a.b", b"1")
        writer.emit_many([Event("a.b", 1, idempotency_key="i"), Event("a.b", b"1", headers={})])
    assert len(written(dsn)) == 3


@pytest.mark.parametrize("many", [False, True])
def test_another_login_is_told_what_to_be_granted(adapter: Adapter, dsn: str, many: bool) -> None:
    with (
        pytest.raises(SchemaError, match="grant relay_producer to this login"),
        adapter(dsn) as writer,
    ):
        writer.execute("set role relay_monitor")
        writer.emit_many([Event("a.b", 1)]) if many else writer.emit("a.b", 1)


def test_a_database_without_an_outbox_is_told_to_be_migrated(
    adapter: Adapter, database: str
) -> None:
    with pytest.raises(SchemaError, match="run `relay migrate`"), adapter(database) as writer:
        writer.emit("a.b", 1)


@pytest.mark.parametrize("many", [False, True])
def test_other_errors_of_the_driver_pass_as_they_are(
    adapter: Adapter, dsn: str, many: bool
) -> None:
    no_json = JsonText('1"},{"subject":"a.b","payload":"2')
    with pytest.raises(Exception, match=r"(?i)json") as caught, adapter(dsn) as writer:
        writer.emit_many([Event("a.b", no_json)]) if many else writer.emit("a.b", no_json)
    assert not type(caught.value).__module__.startswith("relay")
    assert written(dsn) == []


def test_the_event_carries_the_span_that_is_current(adapter: Adapter, dsn: str) -> None:
    trace_id, span_id = 0x4BF92F3577B34DA6A3CE929D0E0E4736, 0x00F067AA0BA902B7
    flags = trace.TraceFlags(trace.TraceFlags.SAMPLED)
    span = trace.NonRecordingSpan(trace.SpanContext(trace_id, span_id, False, flags))
    given = "00-11111111111111111111111111111111-2222222222222222-01"
    with adapter(dsn) as writer, trace.use_span(span):
        writer.emit("a.b", 1, headers={"a": "b"})
        writer.emit_many([Event("a.b", 1), Event("a.b", 1, headers={"traceparent": given})])
    ours = {"traceparent": f"00-{trace_id:032x}-{span_id:016x}-01"}
    assert [row[5] for row in written(dsn)] == [{"a": "b"} | ours, ours, {"traceparent": given}]
