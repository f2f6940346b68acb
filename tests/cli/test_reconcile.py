"""``relay reconcile``: what it finds, and what the next relay does about it."""

import asyncio
import json

import psycopg
import pytest

from relay.core.checkpoint import Tip
from relay.ports import Settlement
from relay.postgres.outbox import PostgresOutbox
from tests.cli.process import relay, status
from tests.system import streams

STREAM = "SHOP"


@pytest.fixture
def shop(one_dsn, own_nats):
    """Ask the command about one outbox and one server."""
    streams.make(own_nats.url, STREAM, "orders.>")

    def ask(*args, code=0):
        variables = {"RELAY_POSTGRES_DSN": one_dsn, "RELAY_NATS_URL": own_nats.url}
        done = relay("reconcile", *args, RELAY_RETENTION="1h", **variables)
        assert done.returncode == code, done.stdout + done.stderr
        return done

    return ask


def settle(dsn, url, seq, *, events=0):
    """Settle ``events`` new events as if the stream had stored them up to ``seq``."""
    created = streams.ask(url, f"STREAM.INFO.{STREAM}")["created"]

    async def go():
        outbox = PostgresOutbox(dsn, "relay", page_bytes=1 << 20)
        store = await outbox.campaign("tester")
        await store.checkpoints.newest()
        page = await store.read(100)
        assert len(page.events) == events
        tip = Tip(STREAM, created, seq, f"relay-{seq}", sure=True, after=seq)
        top_id = page.events[-1].id if events else 0
        await store.settle(Settlement(page.position, tips=[tip], top_id=top_id))
        await store.close()
        await outbox.close()

    with psycopg.connect(dsn) as producer:
        for _ in range(events):
            producer.execute("select relay.emit('orders.placed', '{}'::json)")
    asyncio.run(go())


def test_without_checkpoints_there_is_nothing_to_compare(shop):
    assert "no checkpoints yet" in shop().stdout
    assert json.loads(shop("--json").stdout) == {"dry_run": False, "streams": []}


def test_a_stream_that_holds_everything_is_left_alone(shop, one_dsn, own_nats):
    streams.publish(own_nats.url, "orders.placed", message_id="relay-1")
    settle(one_dsn, own_nats.url, 1)
    (found,) = json.loads(shop("--json").stdout)["streams"]
    assert (found["state"], found["last_seq"], found["lost"]) == ("holds", 1, None)


def test_a_stream_that_lost_messages_is_named_and_then_the_cursor_goes_back(
    shop, one_dsn, own_nats
):
    streams.publish(own_nats.url, "orders.placed", message_id="relay-1")
    settle(one_dsn, own_nats.url, 1, events=1)
    settle(one_dsn, own_nats.url, 4, events=3)
    done = shop("--dry-run", code=1)
    assert "SHOP: has lost messages behind sequence 1, of events with the ids 2 to 4" in done.stdout
    assert "would be published again" in done.stdout
    assert "run it without --dry-run" in done.stderr
    assert status(one_dsn)["backlog"] == 0
    (found,) = json.loads(shop("--json").stdout)["streams"]
    assert (found["state"], found["held_seq"]) == ("behind", 1)
    assert found["lost"] == {"after_id": 1, "up_to_id": 4, "gone_ids": None}
    report = status(one_dsn)
    assert report["backlog"] == 3
    assert (report["repair"]["stream"], report["repair"]["ended_at"]) == (STREAM, None)
    assert shop().stdout.startswith("SHOP: holds all up to 1")


def test_what_a_relay_only_reported_is_found_behind_newer_checkpoints(shop, one_dsn, own_nats):
    streams.publish(own_nats.url, "orders.placed", message_id="relay-1")
    settle(one_dsn, own_nats.url, 1, events=1)
    settle(one_dsn, own_nats.url, 4, events=3)
    streams.publish(own_nats.url, "orders.placed", message_id="relay-2")
    settle(one_dsn, own_nats.url, 2, events=1)
    (found,) = json.loads(shop("--dry-run", "--json", code=1).stdout)["streams"]
    assert (found["state"], found["held_seq"]) == ("behind", 1)


def test_a_stream_that_is_gone_or_made_anew_is_said(shop, one_dsn, own_nats):
    settle(one_dsn, own_nats.url, 0)
    streams.delete(own_nats.url, STREAM)
    assert "SHOP: is gone" in shop().stdout
    streams.make(own_nats.url, STREAM, "orders.>")
    assert "SHOP: was made anew" in shop().stdout


def test_nats_away_is_said(shop, one_dsn, own_nats):
    settle(one_dsn, own_nats.url, 0)
    own_nats.stop()
    assert "NATS" in shop(code=1).stderr
