"""Servers that die, freeze, shut down or forbid: what is said, and that nothing goes out late."""

import asyncio
import logging
import os
import signal
import time
from contextlib import asynccontextmanager
from dataclasses import replace

import anyio
import pytest

from relay import devstack
from relay.core.order import WAITS
from relay.core.outcome import Held, Stored
from relay.errors import BusLoginRefused, BusOutage
from tests.jetstream.helpers import all_stored, patience, waiting_for_nothing
from tests.jetstream.proxy import proxy_to, until

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["fast ingest", "windowed"])
def batched(request):
    return request.param == "fast ingest"


async def test_a_server_killed_in_mid_page_is_an_outage_and_a_retry_stores_no_second_copy(
    look, open_bus, make_event, name, batched
):
    # R-ONCE, R-ORDER
    with devstack.nats_server() as server:
        async with (
            proxy_to(server.port) as proxy,
            open_bus(f"nats://127.0.0.1:{proxy.port}", ack_timeout=60) as bus,
        ):
            async with look(server.url) as seen:
                await seen.make_stream(name, [f"{name}.>"], allow_batched=batched)
                await bus.publish([make_event(f"{name}.a")])
                proxy.most_received = 1_000_000  # of 8 MB
                page = [
                    make_event(f"{name}.a", key=f"k{i % 500}", payload=b"x" * 800)
                    for i in range(8000)
                ]
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(_kill_when_some, seen, name, server, proxy)
                    with pytest.raises(BusOutage, match="connection lost"):
                        await bus.publish(page)
            with pytest.raises(BusOutage):
                await bus.connect()
            server.start()
            assert all_stored(await bus.publish(page))
            async with look(server.url) as seen:
                assert await seen.count(name) == 1 + len(page)
                await _assert_order(seen, name, page)


async def _kill_when_some(seen, name, server, proxy):
    async def some():
        return not proxy.flows.is_set() and await seen.count(name) > 300

    await until(some, within=30)
    server.kill()
    proxy.flows.set()


async def _assert_order(seen, name, page):
    """Per key, the stream holds the page's events in its order: read through one consumer."""
    js = seen.client.jetstream()
    sub = await js.subscribe(f"{name}.>", ordered_consumer=True)
    position = {event.message_id: i for i, event in enumerate(page)}
    last = {}
    for _ in range(1 + len(page)):
        message = await sub.next_msg(timeout=5)
        place = position.get(message.headers["Nats-Msg-Id"])
        if place is not None:
            assert last.get(message.headers["Relay-Key"], -1) < place
            last[message.headers["Relay-Key"]] = place


async def test_a_server_that_answers_nothing_is_left_within_the_deadline(
    nats_server, look, open_bus, make_event, name, *, batched
):
    async with look(nats_server.url) as seen, proxy_to(nats_server.port) as proxy:
        await seen.make_stream(name, [f"{name}.>"], allow_batched=batched)
        url = f"nats://127.0.0.1:{proxy.port}"
        async with open_bus(url, ping_interval=60) as bus:
            await bus.publish([make_event(f"{name}.a")])
            page = [make_event(f"{name}.a", key=f"k{i % 2}") for i in range(50)]
            proxy.freeze()
            started = time.monotonic()
            silent = pytest.raises(BusOutage, match=r"no answer within 0\.3 s")
            with patience(bus, 0.3), silent:
                await bus.publish(page)
            assert time.monotonic() - started < 30
            proxy.flows.set()
            assert all(isinstance(outcome, Stored) for outcome in await bus.publish(page))
            assert await seen.count(name) == 51


async def test_a_frozen_server_is_noticed_within_six_seconds_idle_and_publishing(
    nats_server, look, open_bus, make_event, name, *, record_property
):
    noticed = {}

    async def freeze(what, page):
        async with (
            proxy_to(nats_server.port) as proxy,
            open_bus(f"nats://127.0.0.1:{proxy.port}") as bus,
        ):
            # Just after the handshake, and so just after a keep-alive: the worst moment.
            await bus.publish([make_event(f"{name}.first")])
            proxy.freeze()
            frozen = time.monotonic()
            with anyio.move_on_after(20):
                while bus._open.connection.lost is None:
                    if page:
                        with pytest.raises(BusOutage):
                            await bus.publish(page)
                    else:
                        await anyio.sleep(0.01)
            noticed[what] = time.monotonic() - frozen

    async with look(nats_server.url) as seen:
        await seen.make_stream(name, [f"{name}.>"])
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(freeze, "idle", [])
            tasks.start_soon(freeze, "publishing little", [make_event(f"{name}.a")])
            large = [make_event(f"{name}.a", payload=b"x" * 900_000) for _ in range(20)]
            tasks.start_soon(freeze, "with a full socket", large)
    record_property("noticed after", noticed)
    assert len(noticed) == 3
    assert max(noticed.values()) < 6, noticed


async def test_an_idle_connection_to_a_frozen_server_is_given_up(nats_server, open_bus):
    async with proxy_to(nats_server.port) as proxy:
        url = f"nats://127.0.0.1:{proxy.port}"
        async with open_bus(url, ping_interval=0.3) as bus:
            await bus.connect()
            connection = bus._open.connection
            proxy.freeze()

            async def lost():
                return connection.lost is not None

            await until(lost)
            assert "stale" in connection.lost
            bus._servers._options = replace(bus._options, connect_timeout=0.3)
            with pytest.raises(BusOutage, match="no connection within"):
                await bus.connect()


def test_a_transport_that_closed_before_anybody_was_told_loses_the_connection(
    nats_server, look, open_bus, make_event, name
):
    # R-FATE: by uvloop, which says so by a RuntimeError at the next write
    async def work():
        async with look(nats_server.url) as seen, open_bus(nats_server.url) as bus:
            await seen.make_stream(name, [f"{name}.>"])
            await bus.publish([make_event(f"{name}.a")])
            connection = bus._open.connection
            connection.wire._writer().transport.abort()
            await asyncio.sleep(0)
            assert connection.lost is None
            connection.wire.write(b"PING\r\n")
            assert "closed" in connection.lost
            (outcome,) = await bus.publish([make_event(f"{name}.a")])
            assert isinstance(outcome, Stored)
            assert await seen.count(name) == 2

    anyio.run(work, backend_options={"use_uvloop": True})


async def test_nothing_is_sent_after_close(
    nats_server, look, open_bus, make_event, name, *, batched
):
    # R-TERM
    async with look(nats_server.url) as seen, proxy_to(nats_server.port) as proxy:
        await seen.make_stream(name, [f"{name}.>"], allow_batched=batched)
        async with open_bus(f"nats://127.0.0.1:{proxy.port}", ack_timeout=60) as bus:
            await bus.publish([make_event(f"{name}.a")])
            page = [make_event(f"{name}.b", payload=b"x" * 100_000) for _ in range(600)]
            proxy.freeze()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_expect_outage, bus, page)
                transport = bus._open.connection.wire._writer().transport

                async def stuck():
                    return transport.get_write_buffer_size() > 0

                await until(stuck)
                await bus.close()
                # A close that flushes would keep it, for the peer to have when it thaws.
                assert transport.get_write_buffer_size() == 0
            proxy.flows.set()
            with anyio.fail_after(5):
                await proxy.closed.wait()
            assert proxy.received < 30_000_000  # of 60 MB: what the kernels held
            assert await seen.count(name) < 300


async def _expect_outage(bus, page):
    with pytest.raises(BusOutage, match="closed"):
        await bus.publish(page)


async def test_a_server_that_shuts_down_slowly_is_left_at_once(look, open_bus, make_event, name):
    config = 'lame_duck_duration: "30s"\nlame_duck_grace_period: "20s"'
    with devstack.nats_server(config=config) as server:
        async with open_bus(server.url) as bus:
            await bus.connect()
            connection = bus._open.connection
            os.kill(server.pid, signal.SIGUSR2)

            async def lost():
                return connection.lost is not None

            await until(lost)
            assert "lame duck" in connection.lost
        server.kill()


async def test_after_an_outage_the_next_server_is_tried(look, open_bus, make_event, name):
    with devstack.nats_server() as first, devstack.nats_server() as second:
        async with open_bus(first.url, second.url) as bus:
            await bus.connect()
            first.kill()
            with anyio.fail_after(5):
                while True:
                    try:
                        await bus.connect()
                        if bus._open.connection.url == second.url:
                            break
                    except BusOutage:
                        pass
                    await anyio.sleep(0.01)


FORBIDDING = """
authorization {{ users = [
  {{ user: look, password: look }}
  {{ user: relay, password: pw, permissions: {{
     publish: {{ allow: {publish} }}, subscribe: {{ allow: {subscribe} }} }} }}
] }}
"""


@asynccontextmanager
async def forbidding(look, publish, subscribe='["_INBOX.>"]'):
    config = FORBIDDING.format(publish=publish, subscribe=subscribe)
    with devstack.nats_server(config=config) as server:
        async with look(server.url, user="look", password="look") as seen:
            yield server, seen


async def test_a_forbidden_subject_is_named_and_the_others_flow(
    look, open_bus, make_event, name, batched, *, caplog
):
    caplog.set_level(logging.WARNING, logger="relay.jetstream")
    async with forbidding(look, f'["$JS.API.>", "{name}.ok.>"]') as (server, seen):
        await seen.make_stream(name, [f"{name}.>"], allow_batched=batched)
        async with open_bus(server.url, user="relay", password="pw") as bus:
            page = [
                make_event(f"{name}.{'Bad' if i % 3 == 1 else 'ok.a'}", key=f"k{i % 2}")
                for i in range(6)
            ]
            page += [make_event(f"{name}.ok.b") for _ in range(500)]
            page += [make_event(f"{name}.Bad") for _ in range(500)]
            await bus.connect()
            with waiting_for_nothing(bus):
                outcomes = await bus.publish(page)
            said = f'Permissions Violation for Publish to "{name}.Bad"'
            held = Held("forbidden subjects", said)
            assert outcomes[1] == held
            assert all(isinstance(outcomes[i], Stored) for i in (0, 2))
            assert outcomes[3:6] == [WAITS, held, WAITS]
            assert all(isinstance(outcome, Stored) for outcome in outcomes[6:506])
            assert set(outcomes[506:]) == {held}
            assert await bus.publish(page[1:2]) == [held]
            assert bus._open.connection.lost is None
            assert await seen.count(name) == 2 + 500
        assert [record.reason for record in caplog.records if "forbids" in record.msg] == [said]


async def test_a_permission_that_is_given_back_is_used_soon(
    look, open_bus, make_event, name, batched
):
    async with forbidding(look, '["$JS.API.>"]') as (server, seen):
        await seen.make_stream(name, [f"{name}.>"], allow_batched=batched)
        async with open_bus(server.url, user="relay", password="pw") as bus:
            page = [make_event(f"{name}.a", key="k") for _ in range(3)]
            assert (await bus.publish(page))[0].by == "forbidden subjects"
            reload(server, '[">"]')

            async def stored():
                try:
                    return all_stored(await bus.publish(page))
                except BusOutage:
                    return False  # a reload may end the connection

            await until(stored)
            assert [found[1] for found in await seen.messages(name)] == [e.message_id for e in page]


def reload(server, publish, subscribe='["_INBOX.>"]'):
    """Give the relay's user other permissions, as an operator does."""
    config = server.log_path.parent / "server.conf"
    config.write_text(FORBIDDING.format(publish=publish, subscribe=subscribe))
    os.kill(server.pid, signal.SIGHUP)


async def test_an_inbox_that_is_forbidden_is_refused_with_its_remedy(
    look, open_bus, make_event, name
):
    async with forbidding(look, '[">"]', '["_MINE.>"]') as (server, seen):
        await seen.make_stream(name, [f"{name}.>"])
        who = {"user": "relay", "password": "pw"}
        async with open_bus(server.url, ack_timeout=60, **who) as bus:
            refused = pytest.raises(BusLoginRefused, match="set RELAY_NATS_INBOX_PREFIX")
            with anyio.fail_after(30), refused:
                await bus.connect()
        async with open_bus(server.url, inbox_prefix="_MINE", **who) as bus:
            assert all_stored(await bus.publish([make_event(f"{name}.a") for _ in range(3)]))


async def test_where_the_streams_are_hidden_events_still_flow_by_the_windowed_path(
    look, open_bus, make_event, name
):
    async with forbidding(look, f'["{name}.>"]') as (server, seen):
        await seen.make_stream(name, [f"{name}.>"])
        how = {"user": "relay", "password": "pw", "stream_subjects": (f"{name}.>",)}
        async with open_bus(server.url, **how) as bus:
            outcomes = await bus.publish([make_event(f"{name}.a") for _ in range(3)])
            assert [outcome.stream for outcome in outcomes] == [name] * 3
            assert bus.paths == {"?": "windowed"}


async def test_a_server_without_jetstream_is_an_outage(open_bus):
    config = (
        "accounts { NOJS { users [ { user: a, password: a } ] }, "
        "SYS { users [ { user: s, password: s } ] } }\nsystem_account: SYS"
    )
    with devstack.nats_server(config=config) as server:
        async with open_bus(server.url, user="a", password="a", ack_timeout=1) as bus:
            with pytest.raises(BusOutage, match="JetStream does not answer"):
                await bus.connect()
