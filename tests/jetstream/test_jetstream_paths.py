"""What both publishing paths promise, against a real server."""

import pytest

from relay.core.order import WAITS
from relay.core.outcome import Held, Refused, Stored, Unknown
from tests.jetstream.helpers import back_after, spied, waiting_for_nothing

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["fast ingest", "windowed"])
def path(request):
    return request.param


@pytest.fixture
def world(nats_server, look, open_bus, name, path):
    """A stream of the path's kind, a look and a bus: ``async with world() as (seen, bus)``."""
    from contextlib import asynccontextmanager

    @asynccontextmanager
    async def make(ack_timeout=5.0, **config):
        batched = {"allow_batched": path == "fast ingest"}
        async with (
            look(nats_server.url) as seen,
            open_bus(nats_server.url, ack_timeout=ack_timeout, window=100) as bus,
        ):
            await seen.make_stream(name, [f"{name}.>"], **batched, **config)
            yield seen, bus
            assert bus.paths.get(name, path) == path

    return make


async def test_every_event_is_stored_once_in_the_order_of_its_key(world, make_event, name):
    # R-ORDER
    async with world() as (seen, bus):
        page = [
            make_event(f"{name}.{i % 3}", key=f"k{i % 7}" if i % 5 else None, payload=b"%d" % i)
            for i in range(700)
        ]
        outcomes = await bus.publish(page)
        assert all(isinstance(outcome, Stored) for outcome in outcomes)
        stored = await seen.messages(name)
        assert sorted(int(data) for _, _, data, _ in stored) == list(range(700))
        for key in range(7):
            mine = [int(d) for _, _, d, _ in stored if int(d) % 7 == key and int(d) % 5]
            assert mine == sorted(mine)


async def test_a_message_carries_its_event_and_the_producers_headers(world, make_event, name):
    async with world() as (seen, bus):
        trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        event = make_event(
            f"{name}.a", key="käse 1", payload=b"\x00\xff", headers={"traceparent": trace, "X": ""}
        )
        bare = make_event(f"{name}.b", message_id="order-1")
        await bus.publish([event])
        await bus.publish([bare])
        (_, _, data, headers), (_, _, _, others) = await seen.messages(name)
        assert data == b"\x00\xff"
        assert headers == (
            f"NATS/1.0\r\nNats-Msg-Id: relay-{event.event_id}\r\n"
            f"Relay-Event-Id: {event.event_id}\r\n"
            "Relay-Created-At: 2026-03-14T15:09:26.535897Z\r\nRelay-Key: käse 1\r\n"
            f"traceparent: {trace}\r\nX: \r\n\r\n"
        )
        assert "Nats-Msg-Id: order-1\r\n" in others
        assert "Relay-Key" not in others


async def test_publishing_again_stores_no_second_copy(world, make_event, name):
    # R-ONCE
    async with world() as (seen, bus):
        page = [make_event(f"{name}.a", key="k") for _ in range(30)]
        await bus.publish(page[:20])
        for events in (page, page, page[:1]):
            outcomes = await bus.publish(events)
            assert all(isinstance(outcome, Stored) for outcome in outcomes)
        assert outcomes == [Stored(name, 1, duplicate=True)]
        assert [found[1] for found in await seen.messages(name)] == [e.message_id for e in page]


async def test_the_sequence_of_an_outcome_is_that_very_events(world, make_event, name):
    async with world() as (seen, bus):
        old, *new = (make_event(f"{name}.a") for _ in range(12))
        assert await bus.publish([old]) == [Stored(name, 1, duplicate=False)]
        outcomes = await bus.publish([*new[:5], old])
        outcomes += await bus.publish(new[5:])
        stored = await seen.messages(name)
        told = [
            (event.message_id, outcome.seq)
            for event, outcome in zip([*new[:5], old, *new[5:]], outcomes, strict=True)
            if outcome.seq is not None
        ]
        assert new[-1].message_id in dict(told)
        assert all(stored[seq - 1][1] == message_id for message_id, seq in told)


async def test_what_just_fits_is_stored_and_one_byte_more_is_refused(world, make_event, name):
    async with world() as (seen, bus):
        await bus.publish([make_event(f"{name}.first")])
        overhead = len((await seen.messages(name))[0][3].encode())
        limit = seen.client.max_payload
        fits = make_event(f"{name}.a", payload=b"x" * (limit - overhead))
        over = make_event(f"{name}.a", payload=b"x" * (limit - overhead + 1))
        room = 65_535 - overhead - len("big: \r\n")
        long = make_event(f"{name}.a", headers={"big": "h" * room})
        longer = make_event(f"{name}.a", headers={"big": "h" * (room + 1)})
        after = make_event(f"{name}.a")
        outcomes = await bus.publish([fits, over, long, longer, after])
        assert [type(outcome) for outcome in outcomes] == [Stored, Refused, Stored, Refused, Stored]
        assert outcomes[1].reason == (
            f"headers and payload take {overhead} + {limit - overhead + 1} bytes, "
            f"the limit is {limit}, the least of the server's max_payload and the stream's "
            "max_msg_size and max_bytes"
        )
        assert outcomes[3].reason == "the headers take 65536 bytes, the server's limit is 65535"
        assert await seen.count(name) == 4


async def test_the_streams_own_size_limit_is_checked_before_the_wire(world, make_event, name):
    async with world(max_msg_size=1000) as (seen, bus):
        await bus.publish([make_event(f"{name}.first")])
        overhead = len((await seen.messages(name))[0][3].encode())
        events = [make_event(f"{name}.a", payload=b"x" * (1000 - overhead + i)) for i in (0, 1)]
        fits, over = await bus.publish(events)
        assert isinstance(fits, Stored)
        assert over.code == 0
        assert "limit is 1000" in over.reason


async def test_an_event_larger_than_the_whole_stream_is_refused_and_not_taken_for_a_full_one(
    world, make_event, name
):
    async with world(max_bytes=5000, discard="new") as (_, bus):
        page = [make_event(f"{name}.a", payload=b"x" * (6000 if i == 1 else 10)) for i in range(3)]
        outcomes = await bus.publish(page)
        assert [type(outcome) for outcome in outcomes] == [Stored, Refused, Stored]
        assert "the limit is 5000" in outcomes[1].reason


async def test_a_limit_that_was_raised_is_seen_without_a_new_connection(world, make_event, name):
    async with world(max_msg_size=500) as (seen, bus):
        large = make_event(f"{name}.a", payload=b"x" * 600)
        assert isinstance((await bus.publish([large]))[0], Refused)
        await seen.change_stream(name, max_msg_size=1000)
        assert isinstance((await bus.publish([large]))[0], Stored)


async def test_a_limit_that_was_raised_behind_the_bus_s_back_refuses_nothing(
    world, make_event, name
):
    async with world(max_msg_size=500) as (seen, bus):
        await bus.publish([make_event(f"{name}.a")])
        await seen.change_stream(name, max_msg_size=1000)
        large = make_event(f"{name}.a", payload=b"x" * 600)
        (first,) = await bus.publish([large])
        assert isinstance(first, Unknown), first
        assert "its configuration was changed" in first.reason
        assert isinstance((await bus.publish([large]))[0], Stored)


@pytest.mark.parametrize("bad", [{0}, {4}, {9}, {3, 4, 7}, {0, 9}, set(range(10))])
async def test_what_the_server_refuses_costs_the_others_nothing(world, make_event, name, bad):
    # R-FATE
    async with world() as (seen, bus):
        await bus.connect()
        await bus.publish([make_event(f"{name}.first")])
        # Lowered behind the bus's back: only the server can know.
        await seen.change_stream(name, max_msg_size=500)
        page = [
            make_event(f"{name}.a", key=f"k{i}", payload=b"x" * (600 if i in bad else 10))
            for i in range(10)
        ]
        outcomes = await bus.publish(page)
        assert {i for i, outcome in enumerate(outcomes) if isinstance(outcome, Refused)} == bad
        assert {outcomes[i].code for i in bad} <= {10054}
        assert sum(isinstance(outcome, Stored) for outcome in outcomes) == 10 - len(bad)
        good = [event.message_id for i, event in enumerate(page) if i not in bad]
        assert [found[1] for found in await seen.messages(name)][1:] == good


@pytest.mark.parametrize("checked", ["here", "by the server"])
@pytest.mark.parametrize("bad", [0, 4, 9])
async def test_nothing_behind_a_refused_event_of_its_key_is_sent(
    world, make_event, name, bad, checked
):
    # R-ORDER
    async with world() as (seen, bus):
        await bus.publish([make_event(f"{name}.first")])
        await seen.change_stream(name, max_msg_size=500)
        poison = {"headers": {"x": "a\nb"}} if checked == "here" else {"payload": b"x" * 600}
        page = [
            make_event(f"{name}.a", key="one", **(poison if i == bad else {})) for i in range(10)
        ]
        others = [make_event(f"{name}.a", key=key) for key in (None, "two") for _ in range(5)]
        mixed = [event for pair in zip(page, others, strict=True) for event in pair]
        outcomes = await bus.publish(mixed)
        mine = outcomes[::2]
        assert all(isinstance(outcome, Stored) for outcome in mine[:bad])
        assert isinstance(mine[bad], Refused)
        assert mine[bad + 1 :] == [WAITS] * (9 - bad)
        assert all(isinstance(outcome, Stored) for outcome in outcomes[1::2])
        stored = {found[1] for found in await seen.messages(name)}
        assert not stored & {event.message_id for event in page[bad:]}
        assert len(stored) == 1 + bad + 10


async def test_a_page_full_of_refusals_ends_soon(world, make_event, name, monkeypatch):
    async with world() as (seen, bus):
        await bus.publish([make_event(f"{name}.first")])
        await seen.change_stream(name, max_msg_size=500)
        page = [make_event(f"{name}.a", payload=b"x" * (600 if i % 2 else 10)) for i in range(2000)]
        chunks = spied(bus, monkeypatch)
        with waiting_for_nothing(bus):
            outcomes = await bus.publish(page)
        assert sum(data.count(b"HPUB ") for data in chunks) <= 2000 + 1000 * 32
        assert [isinstance(outcome, Refused) for outcome in outcomes] == [False, True] * 1000
        assert await seen.count(name) == 1001


async def test_a_full_stream_holds_its_events_and_goes_on_when_there_is_room(
    world, make_event, name
):
    async with world(max_msgs=5, discard="new") as (seen, bus):
        page = [make_event(f"{name}.a", key=f"k{i % 3}") for i in range(8)]
        outcomes = await bus.publish(page)
        assert sum(isinstance(outcome, Stored) for outcome in outcomes) == 5
        held = [outcome for outcome in outcomes if isinstance(outcome, Held)]
        reason = f"stream {name}: maximum messages exceeded (JetStream error 10077)"
        assert set(held) == {Held(f"stream {name}", reason, 10077)}
        assert set(outcomes[5:]) <= {held[0], WAITS}
        await seen.change_stream(name, max_msgs=-1)
        assert await back_after(bus, page) <= 100
        stored = [found[1] for found in await seen.messages(name)]
        for key in ("k0", "k1", "k2"):
            mine = [event.message_id for event in page if event.key == key]
            assert [each for each in stored if each in mine] == mine
        assert len(stored) == 8


async def test_one_full_subject_does_not_hold_up_the_others(world, make_event, name):
    # R-FATE
    limits = {"max_msgs_per_subject": 1, "discard": "new", "discard_new_per_subject": True}
    async with world(**limits) as (seen, bus):
        await bus.publish([make_event(f"{name}.full")])
        page = [
            make_event(f"{name}.full", key="x"),
            make_event(f"{name}.a", key="x"),
            make_event(f"{name}.b", key="y"),
        ]
        full, behind, other = await bus.publish(page)
        assert (full.by, full.code) == (f"full subjects of {name}", 10077)
        assert behind is WAITS
        assert isinstance(other, Stored)
        assert {found[0] for found in await seen.messages(name)} == {f"{name}.full", f"{name}.b"}


async def test_a_page_of_one_full_subject_ends_soon_and_the_others_flow(
    world, make_event, name, monkeypatch
):
    limits = {"max_msgs_per_subject": 1, "discard": "new", "discard_new_per_subject": True}
    async with world(**limits) as (seen, bus):
        await bus.publish([make_event(f"{name}.full")])
        page = [make_event(f"{name}.{f's{i}' if i % 2 else 'full'}") for i in range(2000)]
        chunks = spied(bus, monkeypatch)
        with waiting_for_nothing(bus):
            outcomes = await bus.publish(page)
        assert sum(data.count(b"HPUB ") for data in chunks) <= 2 * 2000
        assert {outcome.by for outcome in outcomes[::2]} == {f"full subjects of {name}"}
        assert all(isinstance(outcome, Stored) for outcome in outcomes[1::2])
        assert await seen.count(name) == 1001


async def test_somebody_else_who_replies_is_not_taken_for_the_stream(world, make_event, name):
    # R-LOSS
    async with world(ack_timeout=2) as (seen, bus):

        async def butt_in(message):
            await message.respond(b"OK")

        await seen.client.subscribe(f"{name}.>", cb=butt_in)
        await seen.client.flush()
        for _ in range(5):
            page = [make_event(f"{name}.a", key="k") for _ in range(20)]
            assert all(isinstance(outcome, Stored) for outcome in await bus.publish(page))
        assert await seen.count(name) == 100


async def test_a_sealed_stream_refuses_no_event_for_good(world, make_event, name):
    async with world() as (seen, bus):
        await bus.publish([make_event(f"{name}.a")])
        await seen.change_stream(name, sealed=True)
        outcomes = await bus.publish([make_event(f"{name}.a") for _ in range(3)])
        assert {(outcome.by, outcome.code) for outcome in outcomes} == {(f"stream {name}", 10109)}


async def test_poison_is_refused_here_even_if_it_passed_the_door(world, make_event, name):
    async with world() as (seen, bus):
        poison = [
            make_event(f"{name}.a", message_id="x\r\nNats-Rollup: all"),
            make_event(f"{name}.a", key="a\nb"),
            make_event(f"{name}.a", key="a\0b"),
            make_event(f"{name}.a", key="\ud800"),
            make_event(f"{name}.a", headers={"nats-rollup": "all"}),
            make_event(f"{name}.a", headers={"a": "b\r\nc: d"}),
            make_event(f"{name}.a", headers={"a: b\r\nc": "d"}),
            make_event(f"{name}.a", headers={"a": 1}),
            make_event(f"{name}.a", payload=None),  # as a row is that has none of both
            make_event(f"{name}.*"),
            make_event(f"{name}..a"),
            make_event("$JS.API.STREAM.PURGE." + name),
            make_event(f"{name}.a\r\nPUB x 0"),
            make_event(f"{name}." + "t" * 4090),
        ]
        good = [make_event(f"{name}.a", key=f"k{i}") for i in range(len(poison))]
        outcomes = await bus.publish([e for pair in zip(poison, good, strict=True) for e in pair])
        assert all(isinstance(outcome, Refused) for outcome in outcomes[::2])
        assert all(isinstance(outcome, Stored) for outcome in outcomes[1::2])
        assert [found[1] for found in await seen.messages(name)] == [e.message_id for e in good]


@pytest.mark.parametrize("bound", ["MOST_EVENTS", "MOST_BYTES"])
async def test_a_page_over_the_servers_bounds_goes_in_several_batches(
    world, make_event, name, bound, *, monkeypatch
):
    from relay.jetstream import fast_ingest

    bounds = {"MOST_EVENTS": (fast_ingest, 7), "MOST_BYTES": (fast_ingest, 3000)}
    monkeypatch.setattr(bounds[bound][0], bound, bounds[bound][1])
    monkeypatch.setattr(fast_ingest, "CHUNK_EVENTS", 3)
    async with world() as (seen, bus):
        page = [make_event(f"{name}.a", key="k", payload=b"x" * 400) for _ in range(30)]
        assert all(isinstance(outcome, Stored) for outcome in await bus.publish(page))
        assert [found[1] for found in await seen.messages(name)] == [e.message_id for e in page]


async def test_a_page_of_nothing_but_refusals_needs_no_answer(world, make_event, name):
    async with world() as (seen, bus):
        outcomes = await bus.publish([make_event(f"{name}.a", key=f"a\n{i}") for i in range(3)])
        assert all(isinstance(outcome, Refused) for outcome in outcomes)
        assert await bus.publish([]) == []
        assert await seen.count(name) == 0
