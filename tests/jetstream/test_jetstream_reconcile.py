"""Streams that are not what they were, on a real server: what the bus says. R-LOSS, R-ONCE."""

import anyio
import pytest

from relay import devstack
from relay.core.checkpoint import Checkpoint, Tip
from relay.core.outcome import Stored
from relay.errors import BusOutage, StreamBehind
from relay.jetstream.tail import Tail
from tests.jetstream.helpers import all_stored, back_after_outage, delivered, older_stream, taken
from tests.system.streams import older_store

pytestmark = pytest.mark.anyio


async def resumed(bus, tips, repairing=()):
    """Begin another term with these tips."""
    await bus.close()
    bus.reconciling.resume(tips, repairing)
    await bus.connect()


async def test_an_older_store_is_behind_and_names_what_it_holds(
    own_nats, kit, name, batched, tmp_path
):
    async with kit.look(own_nats.url) as seen:
        await seen.make_stream(name, [f"{name}.>"], allow_batched=batched)
    pages = [[kit.event(f"{name}.x", key=f"k{n % 2}") for n in range(5)] for _ in range(4)]
    async with kit.bus(own_nats.url, stream=name) as bus:
        await bus.connect()
        ring = [Checkpoint(*taken(bus), number=1)]
        ring.insert(0, Checkpoint(*(await delivered(bus, pages[0])), number=2))
        with older_store(own_nats, tmp_path):
            for number, page in enumerate(pages[1:3], 3):
                with_tip = await bus_delivers(bus, page)
                ring.insert(0, Checkpoint(*with_tip, number=number))
        with pytest.raises(StreamBehind) as caught:
            await bus_delivers(bus, pages[3])
        assert caught.value.streams == [name]
        with pytest.raises(StreamBehind):
            await bus.publish(pages[3])  # again and again, until somebody does something about it
        held = await bus.reconciling.held(name, ring)
        assert held.number == 2
        # the next term: the engine has gone back, and publishes again
        await resumed(bus, [held.tip], [name])
        bus.reconciling.pass_over([event.id for page in pages[1:3] for event in page])
        for page in pages[1:]:
            assert all_stored(await bus.publish(page))
        assert bus.reconciling.repaired() == (10, 0)
    async with kit.look(own_nats.url) as seen:
        ids = [message_id for _, message_id, _, _ in await seen.messages(name)]
    assert sorted(ids) == sorted(event.message_id for page in pages for event in page)


async def bus_delivers(bus, page):
    """Publish as often as the connection is lost, as the engine does."""
    await back_after_outage(bus, page)
    return taken(bus)


async def test_others_may_have_filled_the_place_of_what_is_gone(
    own_nats, kit, name, batched, tmp_path
):
    async with kit.look(own_nats.url) as seen:
        await seen.make_stream(name, [f"{name}.>"], allow_batched=batched)
    async with kit.bus(own_nats.url, stream=name) as bus:
        first = await delivered(bus, [kit.event(f"{name}.x") for _ in range(3)])
        with older_store(own_nats, tmp_path):
            await bus_delivers(bus, [kit.event(f"{name}.x") for _ in range(3)])
        async with kit.look(own_nats.url) as seen:
            for _ in range(9):
                await seen.client.request(f"{name}.other", b"another publisher's")
        with pytest.raises(StreamBehind):
            await bus_delivers(bus, [kit.event(f"{name}.x")])
        held = await bus.reconciling.held(name, [Checkpoint(*first, number=1)])
        assert held.number == 1


async def test_what_stands_behind_the_checkpoint_is_not_sent_again(nats_server, kit, name, batched):
    # the relay before died between the answers and its settlement, longer ago than the window
    async with kit.look(nats_server.url) as seen:
        await seen.make_stream(
            name, [f"{name}.>"], allow_batched=batched, duplicate_window=100_000_000
        )
        settled, unsettled, new = (
            [kit.event(f"{name}.x", key=f"k{n % 3}") for n in range(40)] for _ in range(3)
        )
        async with kit.bus(nats_server.url, stream=name) as bus:
            tips = await delivered(bus, settled)
            assert all_stored(await bus.publish(unsettled[:25]))
        for _ in range(5):
            await seen.client.request(f"{name}.other", b"another publisher's")
        async with kit.bus(nats_server.url, stream=name) as bus:
            bus.reconciling.resume(tips, ())
            await bus.connect()
            for page in (unsettled[:10], unsettled[10:] + new):
                outcomes = await bus.publish(page)
                assert all_stored(outcomes)
                assert [each.sent for each in outcomes] == [
                    event not in unsettled[:25] for event in page
                ]
                assert not any(each.duplicate for each in outcomes)  # JetStream said no such thing
                (tip,) = taken(bus, caught_up=False)
                assert tip.after == tips[0].seq  # a relay that dies here reads the tail again
            (tip,) = taken(bus)
            assert tip.after == tip.seq
        ids = [ids[0] for _, *ids, _, _ in await seen.messages(name) if ids]
    assert len(ids) == len(set(ids)) == 120


async def test_a_message_whose_event_id_is_no_uuid_is_none_of_ours():
    """Anybody may write that header: what a look at a stream keeps is bounded. R-BOUND"""
    tail = Tail(0)
    for event_id in (b"f" * 60_000, b"7", b"", b"x" * 36):
        tail.add(1, event_id, b"m")
    assert (tail.event_ids, tail.last) == (set(), None)
    tail.add(2, b"0190c8f0-0000-7000-8000-000000000000", b"m")
    assert (len(tail.event_ids), tail.last) == (1, (2, "m"))


@pytest.mark.parametrize("retention", ["workqueue", "interest"])
async def test_a_work_queue_shows_what_nobody_has_consumed_yet(nats_server, kit, name, retention):
    async with kit.look(nats_server.url) as seen:
        await seen.make_stream(
            name, [f"{name}.>"], retention=retention, duplicate_window=100_000_000
        )
        config = {"durable_name": "c", "ack_policy": "explicit"}
        await seen.ask(f"CONSUMER.DURABLE.CREATE.{name}.c", {"stream_name": name, "config": config})
        async with kit.bus(nats_server.url, stream=name) as bus:
            tips = await delivered(bus, [kit.event(f"{name}.x")])
            unsettled = [kit.event(f"{name}.x") for _ in range(10)]
            assert all_stored(await bus.publish(unsettled))
        async with kit.bus(nats_server.url, stream=name) as bus:
            bus.reconciling.resume(tips, ())
            assert all_stored(await bus.publish(unsettled))
        assert await seen.count(name) == 11


async def test_a_stream_that_was_made_anew_is_begun_with_anew(nats_server, kit, name, caplog):
    async with kit.look(nats_server.url) as seen, kit.bus(nats_server.url, stream=name) as bus:
        await seen.make_stream(name, [f"{name}.>"])
        tips = await delivered(bus, [kit.event(f"{name}.x") for _ in range(5)])
        await seen.ask(f"STREAM.DELETE.{name}")
        await seen.make_stream(name, [f"{name}.>"])
        await resumed(bus, tips)
        assert "the stream was made anew" in caplog.text
        (tip,) = taken(bus)
        assert tip.created != tips[0].created
        assert await delivered(bus, [kit.event(f"{name}.x")])
        assert await seen.count(name) == 1


async def test_a_stream_that_the_relay_made_because_it_was_missing_has_lost_everything(
    nats_server, kit, name
):
    how = {"stream": name, "stream_subjects": (f"{name}.>",), "stream_create": True}
    async with kit.look(nats_server.url) as seen, kit.bus(nats_server.url, **how) as bus:
        tips = await delivered(bus, [kit.event(f"{name}.x") for _ in range(5)])
        await seen.ask(f"STREAM.DELETE.{name}")
        with pytest.raises(StreamBehind):
            await resumed(bus, tips)
        held = await bus.reconciling.held(name, [Checkpoint(*tips, number=1)])
        assert (held.tip.seq, held.position) == (0, None)
        await resumed(bus, [held.tip], [name])  # and that is enough
        assert await delivered(bus, [kit.event(f"{name}.x")])


async def test_a_stream_that_is_behind_and_then_gone_waits_alone(own_nats, kit, name, tmp_path):
    async with kit.look(own_nats.url) as seen:
        for each in "AB":
            await seen.make_stream(name + each, [f"{name}.{each}.>"])
    pages = [[kit.event(f"{name}.{each}.x") for each in "AB"] for _ in range(4)]
    async with kit.bus(own_nats.url) as bus:
        await bus.connect()
        await delivered(bus, pages[0])
        with older_store(own_nats, tmp_path):
            await bus_delivers(bus, pages[1])
        with pytest.raises(StreamBehind):
            await bus_delivers(bus, pages[2])
        async with kit.look(own_nats.url) as seen:
            await seen.ask(f"STREAM.DELETE.{name}A")
        with pytest.raises(BusOutage):
            await bus.reconciling.held(name + "A", [])
        with pytest.raises(StreamBehind) as caught:
            await bus.connect()
        assert caught.value.streams == [name + "B"]
        bus.reconciling.accept()
        await bus.connect()
        first, second = await bus.publish(pages[3])
    assert not isinstance(first, Stored)
    assert isinstance(second, Stored)


async def test_a_stream_made_anew_below_a_lasting_connection_is_noticed(
    nats_server, kit, name, batched, caplog
):
    async with kit.look(nats_server.url) as seen, kit.bus(nats_server.url, stream=name) as bus:
        await seen.make_stream(name, [f"{name}.>"], allow_batched=batched)
        await delivered(bus, [kit.event(f"{name}.x") for _ in range(5)])
        await seen.ask(f"STREAM.DELETE.{name}")
        await seen.make_stream(name, [f"{name}.>"], allow_batched=batched)
        await delivered(bus, [kit.event(f"{name}.x") for _ in range(2)])
        assert "the stream was made anew" in caplog.text


@pytest.mark.parametrize("how", ["purged", "deleted", "limited", "expired"])
async def test_what_a_person_or_a_limit_deleted_is_no_evidence(nats_server, kit, name, how):
    async with kit.look(nats_server.url) as seen, kit.bus(nats_server.url, stream=name) as bus:
        await seen.make_stream(name, [f"{name}.>"], max_msgs=1000, allow_msg_ttl=True)
        ttl = {"Nats-TTL": "1"} if how == "expired" else None
        tips = await delivered(bus, [kit.event(f"{name}.x", headers=ttl) for _ in range(5)])
        if how == "expired":
            with anyio.fail_after(10):
                while await seen.count(name):
                    await anyio.sleep(0.05)
        elif how == "purged":
            await seen.ask(f"STREAM.PURGE.{name}")
        elif how == "deleted":
            for seq in (4, 5):
                await seen.ask(f"STREAM.MSG.DELETE.{name}", {"seq": seq})
        else:
            await seen.change_stream(name, max_msgs=2)
            for _ in range(4):
                await seen.client.request(f"{name}.other", b"another publisher's")
        await resumed(bus, tips)
        assert await delivered(bus, [kit.event(f"{name}.x")])


async def test_when_nothing_happened_a_stream_costs_one_request(nats_server, kit, name):
    asked = []
    async with kit.look(nats_server.url) as seen, kit.bus(nats_server.url, stream=name) as bus:
        await seen.make_stream(name, [f"{name}.>"])
        tips = await delivered(bus, [kit.event(f"{name}.x") for _ in range(5)])

        async def note(message):
            asked.append(message.subject)

        await seen.client.subscribe("$JS.API.>", cb=note)
        await seen.client.flush()
        await resumed(bus, tips)
        assert taken(bus) == []
        await seen.client.flush()
    assert [each for each in asked if ".MSG.GET." in each] == [f"$JS.API.STREAM.MSG.GET.{name}"]
    assert [each for each in asked if "CONSUMER" in each] == []


async def test_the_end_of_a_batch_on_a_shared_stream_is_no_certainty(nats_server, kit, name):
    async with kit.look(nats_server.url) as seen, kit.bus(nats_server.url, stream=name) as bus:
        await seen.make_stream(name, [f"{name}.>"])
        (tip,) = await delivered(bus, [kit.event(f"{name}.x") for _ in range(5)])
        assert tip.sure
        await seen.client.request(f"{name}.other", b"another publisher's")
        page = [kit.event(f"{name}.x") for _ in range(5)]
        (tip,) = await delivered(bus, page)
        assert not tip.sure
        assert (tip.seq, tip.message_id) == (11, page[-1].message_id)


async def test_a_repair_that_the_stream_remembers_is_counted_apart(nats_server, kit, name, batched):
    async with kit.look(nats_server.url) as seen, kit.bus(nats_server.url, stream=name) as bus:
        await seen.make_stream(name, [f"{name}.>"], allow_batched=batched)
        page = [kit.event(f"{name}.x") for _ in range(3)]
        tips = await delivered(bus, page)
        await seen.ask(f"STREAM.PURGE.{name}")
        await resumed(bus, tips, [name])
        bus.reconciling.pass_over([event.id for event in page])
        outcomes = await bus.publish([*page, kit.event(f"{name}.x")])
        assert all(isinstance(each, Stored) for each in outcomes)
        assert bus.reconciling.repaired() == (0, 3)


async def test_what_went_to_a_stream_that_holds_everything_is_not_sent_again(
    two_streams, events, name
):
    async with two_streams() as (seen, bus):
        page = [*events("A", 3), *events("B", 3)]
        tips = await delivered(bus, page)
        assert {tip.stream for tip in tips} == {f"{name}A", f"{name}B"}
        for each in "AB":
            await seen.ask(f"STREAM.PURGE.{name}{each}")
        await resumed(bus, tips, [f"{name}A"])
        again = [event._replace(message_id=f"{event.message_id}-again") for event in page]
        bus.reconciling.pass_over([event.id for event in page])
        outcomes = await bus.publish(again)
        assert all_stored(outcomes)
        assert [each.sent for each in outcomes] == [True] * 3 + [False] * 3
        assert bus.reconciling.repaired() == (3, 0)
        assert await seen.count(f"{name}A") == 3
        assert await seen.count(f"{name}B") == 0


async def test_a_copy_in_a_stream_that_sources_the_lost_one_does_not_stand_in_for_it(
    own_nats, kit, name, batched, tmp_path
):
    orders, everything = f"{name}A", f"{name}B"
    async with kit.look(own_nats.url) as seen:
        await seen.make_stream(orders, [f"{orders}.>"], allow_batched=batched)
        how = {"sources": [{"name": orders}], "allow_batched": batched}
        await seen.make_stream(everything, [f"{everything}.>"], **how)
    settled, lost = ([kit.event(f"{orders}.x", key="k") for _ in range(5)] for _ in range(2))
    async with kit.bus(own_nats.url) as bus:
        tips = await delivered(bus, [*settled, kit.event(f"{everything}.x")])
        with older_stream(own_nats, tmp_path, orders):
            await bus_delivers(bus, lost)
            async with kit.look(own_nats.url) as seen:
                with anyio.fail_after(20):
                    while await seen.count(everything) < 11:
                        await anyio.sleep(0.02)
        with pytest.raises(StreamBehind) as caught:
            await bus_delivers(bus, [kit.event(f"{orders}.x")])
        assert caught.value.streams == [orders]
        await resumed(bus, tips, [orders])
        bus.reconciling.pass_over([event.id for event in lost])
        assert all_stored(await bus.publish(lost))
        assert bus.reconciling.repaired() == (5, 0)
    async with kit.look(own_nats.url) as seen:
        ids = [message_id for _, message_id, _, _ in await seen.messages(orders)]
    assert ids == [event.message_id for event in settled + lost]


NARROW = """
authorization {{ users = [
  {{ user: look, password: look }}
  {{ user: relay, password: relay, permissions: {{
     publish: {{ allow: ["{name}.>", {allowed}] }}, subscribe: "_INBOX.>" }} }}
] }}
"""


@pytest.mark.parametrize(
    "allowed",
    ['"$JS.API.INFO"', '"$JS.API.INFO", "$JS.API.STREAM.INFO.*", "$JS.API.STREAM.LIST"'],
    ids=["nothing may be asked", "no message may be read"],
)
async def test_a_login_that_may_not_look_publishes_and_is_told_so_once(kit, name, caplog, allowed):
    with devstack.nats_server(NARROW.format(name=name, allowed=allowed)) as server:
        async with kit.look(server.url, user="look", password="look") as seen:
            await seen.make_stream(name, [f"{name}.>"])
            how = {"user": "relay", "password": "relay", "stream": name}
            async with kit.bus(server.url, stream_subjects=(f"{name}.>",), **how) as bus:
                await bus.connect()
                tips = taken(bus) or [Tip(name, "monday", 0)]
                for _ in range(3):
                    assert all_stored(await bus.publish([kit.event(f"{name}.x")]))
                await resumed(bus, tips)
                for _ in range(3):
                    assert all_stored(await bus.publish([kit.event(f"{name}.x")]))
            assert await seen.count(name) == 6
    told = [line for line in caplog.messages if "whether a stream still holds" in line]
    assert len(told) == 1
