"""One stream alone is published to: the configured one, or where permissions hide the others."""

import anyio
import pytest

from relay import devstack
from relay.core.outcome import Fault, Refused, Stored
from tests.jetstream.helpers import all_stored

pytestmark = pytest.mark.anyio


async def soon_stored(bus, page, within=10.0):
    with anyio.fail_after(within):
        while not all_stored(outcomes := await bus.publish(page)):
            await anyio.sleep(0.01)
    return outcomes


async def test_with_a_configured_stream_only_that_one_is_published_to(
    nats_server, look, open_bus, make_event, name
):
    async with look(nats_server.url) as seen:
        await seen.make_stream(name, [f"{name}.a"])
        await seen.make_stream(name + "B", [f"{name}.b", f"{name}.c"])
        async with open_bus(nats_server.url, stream=name) as bus:
            page = [make_event(f"{name}.{each}", key=each) for each in "abd"]
            good, other, nobody = await bus.publish(page)
            assert isinstance(good, Stored)
            assert other == Refused(
                f"stream {name}B captures {name}.b, and RELAY_STREAM lets the relay publish to "
                f"{name} only"
            )
            assert nobody.fault is Fault.UNCAPTURED
            assert await seen.count(name + "B") == 0
            await seen.change_stream(name + "B", subjects=[f"{name}.c"])
            await seen.change_stream(name, subjects=[f"{name}.a", f"{name}.b"])
            await soon_stored(bus, page[:2])
            assert await seen.count(name + "B") == 0
            assert list(bus.paths) == [name]


HIDING = """
authorization {{ users = [
  {{ user: look, password: look }}
  {{ user: relay, password: pw, permissions: {{ publish: {{ {rule} }} }} }}
] }}
"""
NO_LIST = 'deny: ["$JS.API.STREAM.LIST"]'
NOTHING = 'deny: ["$JS.API.>"]'


@pytest.mark.parametrize("rule", [NO_LIST, NOTHING])
async def test_where_streams_are_hidden_nothing_goes_to_a_service_that_was_not_named(
    look, open_bus, make_event, name, rule
):
    with devstack.nats_server(config=HIDING.format(rule=rule)) as server:
        who = {"user": "relay", "password": "pw", "ack_timeout": 0.5}
        async with look(server.url, user="look", password="look") as seen:
            served = []

            async def serve(message):
                served.append(message.subject)
                await message.respond(b'{"stream": "SERVICE", "seq": 1}')

            await seen.client.subscribe("service.>", cb=serve)
            await seen.client.flush()
            await seen.make_stream(name, [f"{name}.>"])
            page = [make_event(f"{name}.a", key="a"), make_event("service.drop", key="b")]
            async with open_bus(server.url, **who) as bus:
                outcomes = await bus.publish(page)
                assert {outcome.by for outcome in outcomes} == {"streams"}
                assert "RELAY_STREAM_SUBJECTS" in outcomes[0].reason
            async with open_bus(server.url, stream_subjects=(f"{name}.>",), **who) as bus:
                good, other = await bus.publish(page)
                assert good.stream == name
                assert other.fault is Fault.UNCAPTURED
            how = {"stream": name, "stream_subjects": (f"{name}.>",), **who}
            async with open_bus(server.url, **how) as bus:
                good, other = await bus.publish([make_event(f"{name}.b"), page[1]])
                assert good.stream == name
                assert isinstance(other, Refused)
            assert served == []
            assert await seen.count(name) == 2


async def test_where_streams_are_hidden_an_outage_is_its_subject_s_and_duplicates_are_looked_into(
    look, open_bus, make_event, name
):
    with devstack.nats_server(config=HIDING.format(rule='deny: ["$JS.API.STREAM.LIST"]')) as server:
        who = {"user": "relay", "password": "pw", "stream_subjects": (f"{name}.>",)}
        async with (
            look(server.url, user="look", password="look") as seen,
            open_bus(server.url, **who) as bus,
        ):
            limits = {"max_msgs": 1, "discard": "new"}
            await seen.make_stream(name + "A", [f"{name}.a"], **limits)
            await seen.make_stream(name + "B", [f"{name}.b"], allow_direct=True)
            first = [make_event(f"{name}.{each}", message_id=f"id-{each}") for each in "ab"]
            assert all_stored(await bus.publish(first))
            page = [make_event(f"{name}.{each}") for each in "abc"]
            full, good, nobody = await bus.publish(page)
            assert full.by == f"stream {name}A"
            assert isinstance(good, Stored)
            assert nobody.by == "silent subjects"
            (taken,) = await bus.publish([make_event(f"{name}.b", message_id="id-b")])
            assert taken.fault is Fault.COLLISION
