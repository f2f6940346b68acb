"""Streams that take nothing: which of them, why, that the others flow, and when they are back."""

import anyio
import pytest

from relay.core.order import WAITS
from relay.core.outcome import Held, Refused, Stored
from relay.errors import BusLoginRefused, BusOutage
from relay.jetstream import bus as jetstream_bus
from relay.jetstream import fast_ingest, windowed
from tests.jetstream.helpers import all_stored, back_after, spied

pytestmark = pytest.mark.anyio


async def test_a_full_stream_does_not_hold_up_another_and_is_back_within_a_second(
    two_streams, events, name
):
    # R-FATE
    async with two_streams() as (seen, bus):
        assert all_stored(await bus.publish(events("A", 5) + events("B", 5)))
        await seen.change_stream(name + "A", max_msgs=5, discard="new")
        waiting = events("A", 100, key="k")
        for _ in range(10):
            outcomes = await bus.publish([*events("B", 50), *waiting, *events("B", 50)])
            assert all_stored(outcomes[:50] + outcomes[150:])
            held = outcomes[50]
            assert (held.by, held.code) == (f"stream {name}A", 10077)
            assert outcomes[51:150] == [WAITS] * 99
        await seen.change_stream(name + "A", max_msgs=-1)
        assert await back_after(bus, waiting) <= 100
        assert await seen.count(name + "A") == 105
        assert await seen.count(name + "B") == 5 + 1000


async def test_a_stream_that_takes_nothing_is_asked_by_small_probes_and_not_while_it_is_closed(
    two_streams, events, name, monkeypatch
):
    """R-FATE: when to ask again is the engine's decision, told by ``closed``."""
    async with two_streams() as (seen, bus):
        await bus.publish(events("A", 5) + events("B", 5))
        await seen.change_stream(name + "A", max_msgs=5, discard="new")
        waiting = events("A", 500)
        await bus.publish(waiting)
        sent = spied(bus, monkeypatch)
        closed = {f"stream {name}A"}
        for _ in range(3):
            outcomes = await bus.publish(waiting + events("B", 3), closed=closed)
            assert {(outcome.by, outcome.sent) for outcome in outcomes[:500]} == {(*closed, False)}
            assert all_stored(outcomes[500:])
            assert f"{name}.A".encode() not in b"".join(sent)
        for calls in range(1, 4):
            outcomes = await bus.publish(waiting, closed={"stream other"})
            assert {outcome.by for outcome in outcomes} == closed
            assert [each.sent for each in outcomes] == [
                place < jetstream_bus.PROBE for place in range(500)
            ]
            probes = b"".join(sent).count(f"HPUB {name}.A".encode())
            assert calls <= probes <= calls * jetstream_bus.PROBE


async def test_behind_a_probe_a_key_waits_for_what_the_probe_did_not_store(
    two_streams, events, make_event, name
):
    # R-ORDER
    async with two_streams() as (seen, bus):
        await bus.publish(events("A", 5))
        await seen.change_stream(name + "A", max_msgs=5, discard="new")
        await bus.publish(events("A"))
        await seen.change_stream(name + "A", max_msgs=-1)
        poison = make_event(f"{name}.A.x", key="k", headers={"x": "a\nb"})
        page = [poison, *events("A", 50), *events("A", 2, key="k"), *events("A", 50)]
        with anyio.fail_after(5):
            while isinstance((outcomes := await bus.publish(page))[1], Held):
                await anyio.sleep(0.01)
        assert isinstance(outcomes[0], Refused)
        assert outcomes[51:53] == [WAITS, WAITS]
        assert all_stored(outcomes[1:51] + outcomes[53:])
        assert await seen.count(name + "A") == 5 + 100


async def test_only_the_outage_of_a_configured_stream_holds_up_everything(
    two_streams, open_bus, name
):
    async with two_streams() as (_, bus):
        assert bus.sole_hold is None
    async with two_streams(stream=name + "A") as (_, bus):
        assert bus.sole_hold == f"stream {name}A"


async def test_a_full_account_is_an_outage_of_its_streams(look, open_bus, make_event, batched):
    from relay import devstack

    config = """
    accounts { A { jetstream: { max_store: 40000 }, users: [ { user: a, password: a } ] } }
    no_auth_user: a
    """
    with devstack.nats_server(config=config) as server:
        async with look(server.url) as seen, open_bus(server.url) as bus:
            await seen.make_stream("S", ["s.>"], allow_batched=batched)
            page = [make_event("s.a", payload=b"x" * 1000, key=f"k{i % 7}") for i in range(100)]
            with anyio.fail_after(5):
                # What was stored before the account was full is learned, by and by.
                while not any(isinstance(each, Stored) for each in await bus.publish(page)):
                    await anyio.sleep(0.01)
            outcomes = await bus.publish(page)
            held = [each for each in outcomes if isinstance(each, Held)]
            assert {(each.by, each.code) for each in held} == {("stream S", 10002)}
            await seen.ask("STREAM.PURGE.S")
            assert await back_after(bus, page[-30:]) <= 100


async def test_a_deleted_stream_is_called_gone_and_found_within_a_second_when_made_again(
    two_streams, events, name, batched
):
    async with two_streams() as (seen, bus):
        await bus.publish(events("A", 5) + events("B", 5))
        await seen.ask(f"STREAM.DELETE.{name}A")
        page = events("A", 3, key="k")
        for _ in range(5):
            outcomes = await bus.publish([*page, *events("B", 5)])
            gone = f"stream {name}A is gone: make it again, with its subjects"
            assert outcomes[0] == Held(f"stream {name}A", gone, 10059)
            assert all_stored(outcomes[3:])
        # Neither another subject of it nor a new connection makes its events refusable.
        (other,) = events("A")
        other = other._replace(subject=f"{name}.A.never.seen")
        assert (await bus.publish([other]))[0].by == f"stream {name}A"
        await bus.close()
        assert (await bus.publish([other]))[0].by == f"stream {name}A"
        assert all_stored(await bus.publish(events("B")))
        await seen.make_stream(name + "A", [f"{name}.A.>"], allow_batched=not batched)
        assert await back_after(bus, [*page, other]) <= 100
        assert await seen.count(name + "A") == 4
        await bus.publish(page)
        assert bus.paths[name + "A"] == ("windowed" if batched else "fast ingest")


async def test_a_subject_taken_out_of_its_stream_waits_and_the_streams_other_subjects_flow(
    two_streams, events, name
):
    async with two_streams() as (seen, bus):
        await seen.change_stream(name + "A", subjects=[f"{name}.A.>", f"{name}.extra"])
        extra = [event._replace(subject=f"{name}.extra") for event in events("A", 3)]
        assert all_stored(await bus.publish(events("A") + extra))
        await seen.change_stream(name + "A", subjects=[f"{name}.A.>"])
        await bus.publish(extra)
        for _ in range(5):
            outcomes = await bus.publish(events("A", 2) + extra)
            assert all_stored(outcomes[:2])
            assert {outcome.by for outcome in outcomes[2:]} == {f"lost subjects of {name}A"}
            assert "add it to its subjects again" in outcomes[2].reason
        await seen.change_stream(name + "A", subjects=[f"{name}.A.>", f"{name}.extra"])
        assert await back_after(bus, extra) <= 100


async def test_the_configured_stream_may_be_missing_at_a_later_connection(
    two_streams, events, name, batched, caplog
):
    options = {"stream": name + "A", "stream_subjects": (f"{name}.A.>",)}
    async with two_streams(**options) as (seen, bus):
        await bus.connect()
        await bus.close()
        await seen.ask(f"STREAM.DELETE.{name}A")
        await bus.connect()
        outcomes = await bus.publish(events("A", 3))
        assert {outcome.by for outcome in outcomes} == {f"stream {name}A"}
        reasons = [record.reason for record in caplog.records if hasattr(record, "reason")]
        assert reasons == [f"there is no stream {name}A: create it, or set RELAY_STREAM_CREATE"]
        await seen.make_stream(name + "A", [f"{name}.A.>"], allow_batched=batched)
        assert await back_after(bus, events("A", 3)) <= 100


async def test_a_key_keeps_its_order_across_streams(two_streams, events, name):
    # R-ORDER
    async with two_streams() as (seen, bus):
        both = [events(each, key="k")[0] for each in "ABBAB"]
        free = events("A", 3) + events("B", 3)
        assert all_stored(await bus.publish(both + free))
        assert (await seen.count(name + "A"), await seen.count(name + "B")) == (2 + 3, 3 + 3)
        await seen.change_stream(name + "B", max_msgs=6, discard="new")
        outcomes = await bus.publish(
            [*(events(each, key="k")[0] for each in "ABAB"), *events("A", key="other")]
        )
        assert isinstance(outcomes[0], Stored)
        assert outcomes[1].by == f"stream {name}B"
        assert outcomes[2:4] == [WAITS, WAITS]
        assert isinstance(outcomes[4], Stored)
        assert await seen.count(name + "A") == 5 + 2


async def test_the_failpoints_are_passed_a_few_times_a_page(two_streams, events, monkeypatch):
    passed = []
    monkeypatch.setattr(fast_ingest, "reach", passed.append)
    monkeypatch.setattr(windowed, "reach", passed.append)
    async with two_streams() as (_, bus):
        assert all_stored(await bus.publish(events("A", 1000, key="k") + events("A", 1000)))
        assert sorted(passed) == ["after send", "before ack"]


@pytest.mark.parametrize("how", [{}, {"user": "ann", "password": "wrong"}, {"token": "x"}])
async def test_credentials_that_every_server_refuses_are_told_from_an_outage(open_bus, how):
    from relay import devstack

    dead = "nats://127.0.0.1:1"
    with devstack.nats_server('authorization { user: "ann", password: "s3cret" }') as server:
        async with open_bus(server.url, server.url, **how) as bus:
            with pytest.raises(BusLoginRefused, match="Authorization Violation"):
                await bus.connect()
        async with open_bus(server.url, dead, **how) as bus:
            with pytest.raises(BusOutage) as outage:
                await bus.connect()
            assert not isinstance(outage.value, BusLoginRefused)
