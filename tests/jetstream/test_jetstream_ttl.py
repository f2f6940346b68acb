"""Events with a ttl: to streams that keep it, refused elsewhere, never sent without it."""

import pytest

from relay import devstack
from relay.core.outcome import Refused, Stored, Unknown
from relay.jetstream.api import Account
from relay.jetstream.frames import TTL
from tests.jetstream.test_jetstream_hidden import HIDING, NO_LIST, NOTHING

pytestmark = pytest.mark.anyio


@pytest.fixture
def world(nats_server, look, open_bus, name, batched):
    """Make a stream; a look and a bus: ``async with world(allow_msg_ttl=True) as (seen, bus)``."""
    from contextlib import asynccontextmanager

    @asynccontextmanager
    async def make(**config):
        async with look(nats_server.url) as seen, open_bus(nats_server.url) as bus:
            await seen.make_stream(name, [f"{name}.>"], allow_batched=batched, **config)
            yield seen, bus

    return make


@pytest.fixture
def page(make_event, name):
    """Make events of which those at ``lasting`` have a ttl, each with a key of its own."""

    def make(many, lasting):
        ttl = {"a": "before", TTL: "3600", "traceparent": "behind"}
        return [
            make_event(f"{name}.x", key=f"k{i}", headers=ttl if i in lasting else None)
            for i in range(many)
        ]

    return make


async def test_the_messages_of_these_events_alone_carry_it(world, page, name):
    async with world(allow_msg_ttl=True) as (seen, bus):
        for each in (page(6, {0, 3}), page(6, {1, 4})):
            assert {type(outcome) for outcome in await bus.publish(each)} == {Stored}
        carried = [f"\r\n{TTL}: " in headers for *_, headers in await seen.messages(name)]
        assert [i for i, has in enumerate(carried) if has] == [0, 3, 7, 10]


@pytest.mark.parametrize("lasting", [{0}, {2, 3}, {5}, set(range(5))])
async def test_a_stream_that_keeps_none_refuses_these_events_alone(world, page, name, lasting):
    # R-FATE
    async with world() as (seen, bus):
        events = page(6, lasting)
        outcomes = await bus.publish(events)
        refused = {i for i, each in enumerate(outcomes) if isinstance(each, Refused)}
        assert refused == lasting
        reason = outcomes[min(lasting)].reason
        assert f"stream {name}" in reason
        assert "set allow_msg_ttl on the stream (nats-server 2.11" in reason
        stored = [message_id for _, message_id, *_ in await seen.messages(name)]
        assert stored == [e.message_id for i, e in enumerate(events) if i not in lasting]
        # A person allows it: seen without a new connection.
        await seen.change_stream(name, allow_msg_ttl=True)
        outcomes = await bus.publish([events[i] for i in lasting])
        assert {type(outcome) for outcome in outcomes} == {Stored}


async def test_what_was_allowed_behind_the_bus_s_back_refuses_nothing(world, page, name):
    async with world() as (seen, bus):
        await bus.publish(page(1, ()))
        await seen.change_stream(name, allow_msg_ttl=True)
        (first,) = events = page(1, {0})
        assert isinstance((await bus.publish(events))[0], Unknown), first
        assert isinstance((await bus.publish(events))[0], Stored)


@pytest.mark.parametrize("lasting", [{0}, {2, 3}, {5}, set(range(6))])
async def test_what_only_the_server_knows_it_refuses_by_its_code(
    world, page, name, lasting, monkeypatch
):
    """A stream that is not described yet: R-FATE."""
    monkeypatch.setattr("relay.jetstream.streams.NO_TTL", "")
    async with world() as (seen, bus):
        events = page(6, lasting)
        outcomes = await bus.publish(events)
        codes = {i: each.code for i, each in enumerate(outcomes) if isinstance(each, Refused)}
        assert codes == dict.fromkeys(lasting, 10166)
        assert await seen.count(name) == 6 - len(lasting)


@pytest.mark.parametrize("rule", [NO_LIST, NOTHING])
async def test_where_nobody_may_see_whether_it_is_kept_it_is_refused(
    look, open_bus, page, name, rule
):
    how = {"user": "relay", "password": "pw", "stream_subjects": (f"{name}.>",)}
    with devstack.nats_server(config=HIDING.format(rule=rule)) as server:
        async with (
            look(server.url, user="look", password="look") as seen,
            open_bus(server.url, **how) as bus,
        ):
            await seen.make_stream(name, [f"{name}.>"], allow_msg_ttl=True)
            for _ in range(2):
                refused, good = await bus.publish(page(2, {0}))
                assert "allow $JS.API.INFO" in refused.reason
                assert isinstance(good, Stored)


async def test_a_stream_that_is_away_gets_none_where_an_old_server_would_pass_over_its_ttl(
    world, nats_server, open_bus, page, monkeypatch
):
    """The list of streams lacks it, though it takes messages: it has just come back."""

    (event,) = page(1, {0})
    name = event.subject.partition(".")[0]

    async def nothing(*_):
        return [], {name}

    monkeypatch.setattr("relay.jetstream.api.Api.streams", nothing)
    async with world(allow_msg_ttl=True):
        for level, expected in ((0, Refused), (1, Stored)):
            monkeypatch.setattr(Account, "read", lambda _, level=level: Account(level, ""))
            async with open_bus(nats_server.url) as bus:
                bus.recall({name: [f"{name}.>"]})
                (outcome,) = await bus.publish([event])
                assert isinstance(outcome, expected), outcome
