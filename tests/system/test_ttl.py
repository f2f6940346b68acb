"""Events with a ttl, from the outbox to the stream and out of it again."""

import base64

import psycopg
import pytest

from relay import devstack
from tests.system import streams
from tests.system.harness import STREAM, Start, alone, delivered, emit, until

pytestmark = pytest.mark.timeout(120)

PENDING = "select count(*) from relay.pending"
LASTING = "select relay.emit('orders.placed', '{}', key => 'k', ttl => %s)::text"


def lasting(dsn: str, ttl: str) -> str:
    """Write one event with a ttl; its event_id."""
    with psycopg.connect(dsn) as connection:
        row = connection.execute(LASTING, (ttl,)).fetchone()
    assert row is not None
    return str(row[0])


def last_seq(url: str) -> int:
    return int(streams.ask(url, f"STREAM.INFO.{STREAM}")["state"]["last_seq"])


def test_it_waits_for_a_stream_that_keeps_it_and_holds_back_its_key_alone(
    one_dsn: str, own_nats: devstack.NatsServer, start: Start
) -> None:
    """R-LOSS, R-ORDER, R-FATE"""
    streams.make(own_nats.url, STREAM, "orders.>")
    relay = start(one_dsn, own_nats.url, max_retry_delay="200ms", max_attempts="1000")
    first = lasting(one_dsn, "1 hour")
    second = emit(one_dsn, "orders.placed", "k")
    other = emit(one_dsn, "orders.placed", "other")
    until(lambda: streams.held(own_nats.url, STREAM) == 1, 20)
    until(lambda: alone(one_dsn, "select count(*) from relay.parked") == 2, 20)
    assert "set allow_msg_ttl on the stream" in alone(
        one_dsn, "select last_error from relay.parked order by id limit 1"
    )
    streams.change(own_nats.url, STREAM, allow_msg_ttl=True)
    until(lambda: streams.held(own_nats.url, STREAM) == 3, 20)
    assert [each.event_id for each in streams.read(own_nats.url, STREAM)] == [other, first, second]
    stored = streams.ask(own_nats.url, f"STREAM.MSG.GET.{STREAM}", {"seq": 2})["message"]["hdrs"]
    assert b"\r\nNats-TTL: 3600\r\n" in base64.b64decode(stored)
    assert relay.terminate() == 0


@pytest.mark.slow
@pytest.mark.parametrize("died", ["after it", "before it"])
def test_what_has_expired_is_neither_lost_nor_published_again(
    one_dsn: str, own_nats: devstack.NatsServer, start: Start, died: str
) -> None:
    """All of the stream has expired, its tip too; server and relay die. R-LOSS, R-ONCE"""
    streams.make(own_nats.url, STREAM, "orders.>", allow_msg_ttl=True)
    relay = start(one_dsn, own_nats.url)
    for _ in range(3):
        lasting(one_dsn, "1 second")
    until(lambda: delivered(one_dsn) == 3, 20)
    until(lambda: alone(one_dsn, PENDING) == 0, 20)
    if died == "after it":
        until(lambda: streams.held(own_nats.url, STREAM) == 0, 20)
    own_nats.kill()
    relay.kill()
    if died == "before it":
        until(lambda: alone(one_dsn, "select now() - max(created_at) > '2 s' from relay.outbox"), 9)
    own_nats.start()
    relay = start(one_dsn, own_nats.url)
    newest = emit(one_dsn, "orders.placed", "k")
    until(lambda: [m.event_id for m in streams.read(own_nats.url, STREAM)] == [newest], 20)
    assert last_seq(own_nats.url) == 4
    assert alone(one_dsn, "select count(*) from relay.repair") == 0
    assert relay.terminate() == 0
