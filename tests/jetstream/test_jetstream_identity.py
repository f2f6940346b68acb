"""Whose message a duplicate is: ours, or another's that took the id first (R-ONCE)."""

import json

import pytest

from relay import devstack
from relay.core.order import WAITS
from relay.core.outcome import Fault, Refused, Stored
from relay.jetstream.duplicates import Duplicates, Found, read_message
from tests.jetstream.helpers import patience, waiting_for_nothing

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[True, False], ids=["direct get", "asked of the leader"])
def direct(request):
    return request.param


async def test_our_own_duplicates_of_a_producers_key_are_stored_and_verified(
    nats_server, look, open_bus, make_event, name, *, batched, direct
):
    # R-ONCE
    async with look(nats_server.url) as seen, open_bus(nats_server.url) as bus:
        await seen.make_stream(name, [f"{name}.>"], allow_batched=batched, allow_direct=direct)
        page = [
            make_event(f"{name}.a", key=f"k{i % 7}", message_id=f"order-{i}" if i % 3 else None)
            for i in range(300)
        ]
        for duplicate in (False, True, True):
            outcomes = await bus.publish(page)
            assert all(isinstance(outcome, Stored) for outcome in outcomes)
            assert not any(outcome.unverified for outcome in outcomes)
            keyed = {outcome.duplicate for i, outcome in enumerate(outcomes) if i % 3}
            assert keyed == {duplicate}
        assert await seen.count(name) == 300
        stored = [found[1] for found in await seen.messages(name)]
        for key in range(7):
            mine = [event.message_id for event in page[key::7]]
            assert [each for each in stored if each in mine] == mine


@pytest.mark.parametrize("who", ["another outbox", "another client", "another event of ours"])
async def test_an_id_that_somebody_else_used_first_is_a_collision_and_names_the_other(
    nats_server, look, open_bus, make_event, name, *, batched, direct, who
):
    # R-ONCE
    async with look(nats_server.url) as seen, open_bus(nats_server.url) as bus:
        await seen.make_stream(name, [f"{name}.>"], allow_batched=batched, allow_direct=direct)
        await bus.publish([make_event(f"{name}.a") for _ in range(5)])
        ids = [f"order-{i}-created" for i in range(0, 50, 5)]
        if who == "another outbox":
            async with open_bus(nats_server.url) as other:
                await other.publish([make_event(f"{name}.b", message_id=each) for each in ids])
        elif who == "another client":
            js = seen.client.jetstream()
            for each in ids:
                await js.publish(f"{name}.c", b"", headers={"Nats-Msg-Id": each})
        else:
            await bus.publish([make_event(f"{name}.a", message_id=each) for each in ids])
        page = [
            make_event(f"{name}.a", key=f"k{i}", message_id=f"order-{i}-created") for i in range(50)
        ]
        outcomes = await bus.publish(page)
        for i, outcome in enumerate(outcomes):
            if i % 5:
                assert isinstance(outcome, Stored)
            else:
                assert isinstance(outcome, Refused)
                assert outcome.fault is Fault.COLLISION
                assert f"order-{i}-created is taken" in outcome.reason
                assert f"stream {name}, sequence {6 + i // 5}" in outcome.reason
                assert ("another client" in outcome.reason) == (who == "another client")
        assert await seen.count(name) == 5 + 10 + 40


async def test_nothing_of_its_key_passes_a_collision_before_it_is_known(
    nats_server, look, open_bus, make_event, name, *, batched
):
    # R-ORDER
    async with look(nats_server.url) as seen, open_bus(nats_server.url) as bus:
        await seen.make_stream(name, [f"{name}.>"], allow_batched=batched)
        await bus.publish([make_event(f"{name}.a", message_id="taken")])
        page = [
            make_event(f"{name}.a", key="k"),
            make_event(f"{name}.a", key="k", message_id="taken"),
            make_event(f"{name}.a", key="k"),
            make_event(f"{name}.a", key="k", message_id="free"),
            make_event(f"{name}.a", key="l", message_id="also-free"),
        ]
        outcomes = await bus.publish(page)
        assert isinstance(outcomes[0], Stored)
        assert outcomes[1].fault is Fault.COLLISION
        assert outcomes[2:4] == [WAITS, WAITS]
        assert isinstance(outcomes[4], Stored)
        assert await seen.count(name) == 3


async def test_ids_of_the_relay_s_own_are_not_looked_into(
    nats_server, look, open_bus, make_event, name, *, monkeypatch
):
    # R-ONCE
    asked = []
    monkeypatch.setattr(Duplicates, "add", lambda *what: asked.append(what))
    async with look(nats_server.url) as seen:
        await seen.make_stream(name, [f"{name}.>"], allow_batched=False)
        for prefix in ("", "shop:"):
            async with open_bus(nats_server.url, message_id_prefix=prefix) as bus:
                page = [make_event(f"{name}.a") for _ in range(20)]
                page = [e._replace(message_id=f"{prefix}relay-{e.event_id}") for e in page]
                for _ in range(2):
                    outcomes = await bus.publish(page)
                assert {outcome.duplicate for outcome in outcomes} == {True}
        assert asked == []


async def test_with_a_prefix_an_id_that_begins_with_relay_is_a_producers(
    nats_server, look, open_bus, make_event, name, *, batched
):
    # R-ONCE
    async with (
        look(nats_server.url) as seen,
        open_bus(nats_server.url) as first,
        open_bus(nats_server.url, message_id_prefix="shop:") as bus,
    ):
        await seen.make_stream(name, [f"{name}.>"], allow_batched=batched)
        event = make_event(f"{name}.a")
        await first.publish([event])
        (outcome,) = await bus.publish([make_event(f"{name}.a", message_id=event.message_id)])
        assert outcome.fault is Fault.COLLISION


@pytest.mark.parametrize("gone", ["purged", "deleted"])
async def test_a_duplicate_of_a_message_that_is_gone_is_stored_and_called_unverified(
    nats_server, look, open_bus, make_event, name, *, gone, direct
):
    # R-ONCE
    async with look(nats_server.url) as seen, open_bus(nats_server.url) as bus:
        await seen.make_stream(name, [f"{name}.>"], allow_direct=direct)
        page = [make_event(f"{name}.a", message_id=f"order-{i}") for i in range(20)]
        await bus.publish(page)
        if gone == "purged":
            await seen.ask(f"STREAM.PURGE.{name}")
        else:
            for seq in range(1, 21):
                await seen.ask(f"STREAM.MSG.DELETE.{name}", {"seq": seq})
        outcomes = await bus.publish(page)
        assert {(each.duplicate, each.unverified) for each in outcomes} == {(True, True)}
        assert await seen.count(name) == 0


BLIND = """
authorization {{ users = [
  {{ user: look, password: look }}
  {{ user: relay, password: pw, permissions: {{ publish: {{ deny: {deny} }} }} }}
] }}
"""


@pytest.mark.parametrize(
    ("deny", "unverified"),
    [
        ('["$JS.API.DIRECT.GET.>"]', False),
        ('["$JS.API.STREAM.MSG.GET.>"]', False),
        ('["$JS.API.DIRECT.GET.>", "$JS.API.STREAM.MSG.GET.>"]', True),
    ],
)
async def test_where_we_may_not_look_a_duplicate_is_stored_and_called_unverified(
    look, open_bus, make_event, name, *, deny, unverified
):
    # R-ONCE
    with devstack.nats_server(config=BLIND.format(deny=deny)) as server:
        async with (
            look(server.url, user="look", password="look") as seen,
            open_bus(server.url, user="relay", password="pw") as bus,
        ):
            await seen.make_stream(name, [f"{name}.>"], allow_direct=True)
            page = [make_event(f"{name}.a", message_id=f"order-{i}") for i in range(150)]
            for _ in range(3):
                with waiting_for_nothing(bus):
                    outcomes = await bus.publish(page)
            assert {each.duplicate for each in outcomes} == {True}
            assert {each.unverified for each in outcomes} == {unverified}


@pytest.mark.parametrize("code", [10008, 10059, 10167, None])
def test_an_error_instead_of_a_stored_message_is_not_waited_out(code):
    # R-BOUND, R-ONCE
    error = {"error": {"code": 500, "err_code": code}}
    assert read_message(json.dumps(error).encode(), None) is Found.NOBODY


async def test_a_question_that_nobody_answers_leaves_the_event_undecided(
    nats_server, look, open_bus, make_event, name, *, monkeypatch
):
    # R-ONCE
    async with look(nats_server.url) as seen, open_bus(nats_server.url) as bus:
        await seen.make_stream(name, [f"{name}.>"])
        page = [make_event(f"{name}.a", message_id=f"order-{i}") for i in range(3)]
        await bus.publish(page)
        with monkeypatch.context() as patched:
            patched.setattr(Duplicates, "questions", lambda *_inbox: [])
            with patience(bus, 1):
                outcomes = await bus.publish([*page, make_event(f"{name}.a")])
        assert [type(each).__name__ for each in outcomes] == ["Unknown"] * 3 + ["Stored"]
        assert "nobody says of which event" in outcomes[0].reason
        outcomes = await bus.publish(page)
        assert {each.unverified for each in outcomes} == {False}
