"""Where events go: many subjects, many streams, mappings, permissions; nobody waits for another."""

import time

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay import devstack
from relay.core.outcome import Fault, Held, Refused, Stored, Unknown
from relay.core.subjects import matches
from relay.jetstream.api import Api
from relay.jetstream.streams import Filters
from tests.jetstream.helpers import all_stored, patience, spied, waiting_for_nothing

pytestmark = pytest.mark.anyio


async def soon_stored(bus, page, within=10.0):
    with anyio.fail_after(within):
        while not all_stored(outcomes := await bus.publish(page)):
            await anyio.sleep(0.01)
    return outcomes


TOKENS = st.sampled_from(["a", "b", "c"])
SUBJECTS = st.lists(TOKENS, min_size=1, max_size=4).map(".".join)
PATTERNS = st.builds(
    lambda tokens, rest: ".".join([*tokens, *([">"] if rest else [])]),
    st.lists(TOKENS | st.just("*"), min_size=1, max_size=3),
    st.booleans(),
)


@given(st.lists(PATTERNS, max_size=8), SUBJECTS)
def test_the_trie_finds_a_filter_exactly_if_one_takes_the_subject(patterns, subject):
    found = Filters((each, each) for each in patterns).find(subject)
    wanted = {each for each in patterns if matches(each, subject)}
    assert (found in wanted) if wanted else found is None


# Many subjects, many streams.


@pytest.mark.parametrize("kind", ["subjects that no stream captures", "subjects captured once"])
async def test_many_subjects_without_a_stream_cost_others_no_more_than_good_ones_would(
    own_nats, look, open_bus, make_event, name, *, kind, monkeypatch
):
    # R-FATE, R-BOUND
    asked = []
    ask = Api.request

    async def slow(api, verb, *args):
        asked.append(verb)
        await anyio.sleep(0.005)
        return await ask(api, verb, *args)

    async with look(own_nats.url) as seen, open_bus(own_nats.url) as bus:
        await seen.make_stream(name, [f"{name}.>"])
        if kind == "subjects captured once":
            bus.recall({"GONE": ["nowhere.>"]})
        good = [make_event(f"{name}.{i}") for i in range(20_000)]
        bad = [make_event(f"nowhere.{name}.{i}", key=f"k{i}") for i in range(20_000)]
        last = make_event(f"{name}.last", key="another")
        await bus.connect()
        monkeypatch.setattr(Api, "request", slow)

        async def timed(events):
            began = time.process_time()  # of this process: others are busy as well
            outcomes = []
            for at in range(0, len(events), 2000):
                outcomes += await bus.publish(events[at : at + 2000])
            return outcomes, time.process_time() - began

        stored, good_took = await timed(good)
        assert all_stored(stored)
        asked.clear()
        outcomes, bad_took = await timed([*bad, last])
        assert isinstance(outcomes[-1], Stored)
        if kind == "subjects captured once":
            assert {each.by for each in outcomes[:-1]} == {"stream GONE"}
            assert len(asked) <= 11
        else:
            assert {each.fault for each in outcomes[:-1]} == {Fault.UNCAPTURED}
            assert len(asked) <= 2
        assert bad_took < max(1.0, good_took * 1.5)


async def test_many_streams_are_listed_page_by_page(open_bus, look, make_event, name):
    with devstack.nats_server() as server:
        async with look(server.url) as seen, open_bus(server.url) as bus:
            for i in range(300):
                await seen.make_stream(f"{name}{i}", [f"{name}.{i}"], storage="memory")
            page = [make_event(f"{name}.{i}") for i in range(300)]
            outcomes = await bus.publish(page)
            assert [outcome.stream for outcome in outcomes] == [f"{name}{i}" for i in range(300)]
            assert len(bus.learnt()) == 300


async def test_a_full_stream_does_not_hold_up_one_that_was_not_met_yet(
    nats_server, look, open_bus, make_event, name, *, batched
):
    # R-FATE
    async with look(nats_server.url) as seen, open_bus(nats_server.url) as bus:
        limits = {"max_msgs": 1, "discard": "new"}
        await seen.make_stream(name + "A", [f"{name}.a"], allow_batched=batched, **limits)
        await seen.make_stream(name + "B", [f"{name}.b"], allow_batched=batched)
        assert all_stored(await bus.publish([make_event(f"{name}.a")]))
        page = [make_event(f"{name}.{'ab'[i % 2]}", key=f"k{i}") for i in range(20)]
        outcomes = await bus.publish(page)
        assert {outcome.by for outcome in outcomes[::2]} == {f"stream {name}A"}
        assert all_stored(outcomes[1::2])
        # One that is made only now, beside a closed one.
        await seen.make_stream(name + "C", [f"{name}.c"], allow_batched=batched)
        page = [make_event(f"{name}.a"), make_event(f"{name}.c")]
        closed = [f"stream {name}A"]
        with anyio.fail_after(30):
            while not isinstance((await bus.publish(page, closed=closed))[1], Stored):
                await anyio.sleep(0.05)


# What was captured once.


async def test_a_subject_that_once_was_captured_is_held_after_a_restart_too(
    nats_server, look, open_bus, make_event, name
):
    # R-LOSS
    async with look(nats_server.url) as seen:
        await seen.make_stream(name, [f"{name}.a.*", f"{name}.b"])
        await seen.make_stream(name + "K", [f"{name}.k.>"])
        async with open_bus(nats_server.url) as bus:
            assert all_stored(await bus.publish([make_event(f"{name}.b")]))
            learnt = {each: list(filters) for each, filters in bus.learnt().items()}
            assert learnt[name] == [f"{name}.a.*", f"{name}.b"]
            assert name not in bus.learnt()
            await seen.change_stream(name + "K", subjects=[f"{name}.k.>", f"{name}.l"])
            await soon_stored(bus, [make_event(f"{name}.l")])
            assert bus.learnt() == {name + "K": [f"{name}.k.>", f"{name}.l"]}
        await seen.ask(f"STREAM.DELETE.{name}")
        await seen.change_stream(name + "K", subjects=[f"{name}.l"])
        learnt[name + "K"] += [f"{name}.l"]
        async with open_bus(nats_server.url) as bus:
            bus.recall(learnt)
            assert name not in bus.learnt()
            page = [make_event(f"{name}.{each}") for each in ("a.x", "b", "k.x", "c", "l")]
            gone, gone_too, lost, never, good = await bus.publish(page)
            reason = f"stream {name} is gone: make it again, with its subjects"
            assert gone == gone_too == Held(f"stream {name}", reason, 10059)
            assert lost.by == f"lost subjects of {name}K"
            assert never.fault is Fault.UNCAPTURED
            assert isinstance(good, Stored)
            await seen.make_stream(name, [f"{name}.a.*", f"{name}.b", f"{name}.c"])
            await seen.change_stream(name + "K", subjects=[f"{name}.l", f"{name}.k.x"])
            outcomes = await soon_stored(bus, page)
            assert [outcome.stream[len(name) :] for outcome in outcomes] == ["", "", "K", "", "K"]


# Mappings of the account.

MAPPED = """
accounts {{ A {{ jetstream: enabled, users: [ {{ user: a, password: a }} ]
  mappings: {{ "s.map": "{target}" }} }} }}
no_auth_user: a
"""


@pytest.mark.parametrize("alone", [True, False])
async def test_a_subject_mapped_into_another_stream_is_stored_there_and_believed(
    look, open_bus, make_event, *, batched, alone
):
    with devstack.nats_server(config=MAPPED.format(target="else.x")) as server:
        async with look(server.url) as seen, open_bus(server.url) as bus:
            await seen.make_stream("S", ["s.>"], allow_batched=batched)
            await seen.make_stream("E", ["else.>"], allow_batched=batched)
            page = [
                make_event("s.map" if alone or i % 5 == 2 else f"s.{i}", key=f"k{i % 3}")
                for i in range(30)
            ]
            outcomes = await bus.publish(page)
            assert not any(isinstance(outcome, Refused) for outcome in outcomes)
            outcomes = await soon_stored(bus, page, within=30)
            for event, outcome in zip(page, outcomes, strict=True):
                assert outcome.stream == ("E" if event.subject == "s.map" else "S")
            more = [make_event("s.map"), make_event("s.a")]
            with waiting_for_nothing(bus):
                assert all_stored(await bus.publish(more))
            mapped = sum(event.subject == "s.map" for event in page)
            assert await seen.count("E") == mapped + 1
            assert await seen.count("S") == 30 - mapped + 1


@pytest.mark.parametrize("target", ["nowhere.x", "service.x"])
async def test_a_subject_mapped_to_where_no_stream_is_is_its_own_hold(
    look, open_bus, make_event, batched, target, *, monkeypatch
):
    # R-FATE
    with devstack.nats_server(config=MAPPED.format(target=target)) as server:
        async with look(server.url) as seen, open_bus(server.url) as bus:

            async def serve(message):
                if message.reply:
                    await message.respond(b'{"seq": 1}')

            await seen.client.subscribe("service.>", cb=serve)
            await seen.client.flush()
            await seen.make_stream("S", ["s.>"], allow_batched=batched)
            page = [
                make_event("s.map" if i % 10 == 4 else f"s.{i}", key=f"k{i}") for i in range(50)
            ]
            with patience(bus, 1):
                outcomes = await bus.publish(page)
                alone = await bus.publish(page[4:5])
            for i, outcome in enumerate(outcomes):
                if i % 10 == 4:
                    assert outcome.by == "silent subjects of S"
                else:
                    assert isinstance(outcome, Stored)
            # Alone in a call, it is still not the stream's silence.
            assert alone[0].by == "silent subjects of S"
            assert all_stored(await bus.publish(page[5:14]))
            # Closed, it costs nothing.
            chunks = spied(bus, monkeypatch)
            with waiting_for_nothing(bus):
                outcomes = await bus.publish(page[:10], closed=["silent subjects of S"])
            assert outcomes[4].by == "silent subjects of S"
            assert b" s.map " not in b"".join(chunks)
            assert all_stored(outcomes[:4] + outcomes[5:])


async def test_many_mapped_subjects_hold_up_neither_the_stream_nor_what_stands_behind_them(
    look, open_bus, make_event, batched
):
    # R-FATE
    config = MAPPED.format(target="nowhere.x").replace('"s.map"', '"s.map.*"')
    with devstack.nats_server(config=config) as server:
        async with look(server.url) as seen, open_bus(server.url) as bus:
            await seen.make_stream("S", ["s.>"], allow_batched=batched)
            page = [make_event(f"s.{'map.' if i < 30 else ''}{i}", key=f"k{i}") for i in range(60)]
            for _ in range(5):
                outcomes = await bus.publish(page)
            assert {outcome.by for outcome in outcomes[:30]} == {"silent subjects of S"}
            assert all_stored(outcomes[30:])
            assert bus.paths == {"S": "fast ingest" if batched else "windowed"}


async def test_a_deleted_stream_of_many_subjects_is_called_gone_at_once(
    nats_server, look, open_bus, make_event, name, *, batched
):
    async with look(nats_server.url) as seen, open_bus(nats_server.url) as bus:
        await seen.make_stream(name, [f"{name}.>"], allow_batched=batched)
        page = [make_event(f"{name}.{i}", key=f"k{i}") for i in range(100)]
        assert all_stored(await bus.publish(page[:50]))
        await seen.ask(f"STREAM.DELETE.{name}")
        outcomes = await bus.publish(page)
        assert {outcome.by for outcome in outcomes} == {f"stream {name}"}
        assert "is gone" in outcomes[0].reason


async def test_one_silent_event_of_a_subject_that_answers_is_unknown_and_alone(
    nats_server, look, open_bus, make_event, name, *, batched, monkeypatch
):
    """Nats-Trace-Only withholds a message: neither stored nor answered."""
    # R-FATE
    monkeypatch.setattr("relay.jetstream.frames._fault_in", lambda _headers, _no_ttl: None)
    async with look(nats_server.url) as seen, open_bus(nats_server.url) as bus:
        await seen.make_stream(name, [f"{name}.>"], allow_batched=batched)
        quiet = {"Nats-Trace-Dest": "trace", "Nats-Trace-Only": "true"}
        page = [
            make_event(f"{name}.a", key=f"k{i}", headers=quiet if i in {7, 19} else None)
            for i in range(20)
        ]
        with patience(bus, 1):
            await bus.publish(page)
            outcomes = await bus.publish(page)
        assert isinstance(outcomes[7], Unknown)
        assert isinstance(outcomes[19], Unknown)
        assert all_stored(outcomes[:7] + outcomes[8:19])
        assert await seen.count(name) == 18


async def test_with_a_configured_stream_a_mapped_subject_is_refused_with_the_reason(
    look, open_bus, make_event, batched
):
    with devstack.nats_server(config=MAPPED.format(target="else.x")) as server:
        async with look(server.url) as seen:
            await seen.make_stream("S", ["s.>"], allow_batched=batched)
            await seen.make_stream("E", ["else.>"])
            async with open_bus(server.url, stream="S", ack_timeout=2) as bus:
                page = [make_event("s.map"), make_event("s.a")]
                refused, good = await bus.publish(page)
                assert "leads to stream E" in refused.reason
                assert isinstance(good, Stored)
