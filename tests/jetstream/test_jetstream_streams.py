"""Streams: found by subject, made on request, checked at start, described."""

import logging

import anyio
import pytest

from relay import devstack
from relay.core.outcome import Fault, Held, Refused, Stored
from relay.core.storage import StreamStorage
from relay.errors import StreamError
from relay.jetstream import BusOptions, describe, routing
from relay.jetstream.api import Api, NoAnswerError

pytestmark = pytest.mark.anyio


async def test_a_subject_that_no_stream_captures_is_refused_until_there_is_one(
    nats_server, look, open_bus, make_event, name, *, monkeypatch
):
    monkeypatch.setattr(routing, "_LOOK_PAUSE_LEAST", 0.05)
    monkeypatch.setattr(routing, "_LOOK_SHARE", 0)
    async with look(nats_server.url) as seen, open_bus(nats_server.url) as bus:
        await seen.make_stream(name, [f"{name}.a.>"])
        claimed, lost = make_event(f"{name}.a.x"), make_event(f"{name}.b.x")
        outcomes = await bus.publish([lost, claimed])
        assert outcomes[0] == Refused(
            f"no stream captures {name}.b.x: create one or set RELAY_STREAM_CREATE",
            fault=Fault.UNCAPTURED,
        )
        assert isinstance(outcomes[1], Stored)
        await seen.make_stream(name + "B", [f"{name}.b.>"])
        with anyio.fail_after(30):
            while not isinstance((await bus.publish([lost]))[0], Stored):
                pass


async def test_many_streams_are_published_to_at_once_each_by_its_own_path(
    nats_server, look, open_bus, make_event, name
):
    async with look(nats_server.url) as seen, open_bus(nats_server.url) as bus:
        for i in range(4):
            await seen.make_stream(f"{name}{i}", [f"{name}.{i}.*"], allow_batched=i % 2 == 0)
        page = [
            make_event(f"{name}.{i % 4}.s{i % 9}", key=f"k{i % 5}", payload=b"%d" % i)
            for i in range(400)
        ]
        assert all(isinstance(outcome, Stored) for outcome in await bus.publish(page))
        assert bus.paths == {f"{name}{i}": "windowed" if i % 2 else "fast ingest" for i in range(4)}
        for i in range(4):
            stored = [int(found[2]) for found in await seen.messages(f"{name}{i}")]
            assert sorted(stored) == list(range(i, 400, 4))
            for key in range(5):
                mine = [each for each in stored if each % 5 == key]
                assert mine == sorted(mine)


async def test_subjects_of_a_known_stream_cost_no_further_question(
    nats_server, look, open_bus, make_event, name, *, monkeypatch
):
    async with look(nats_server.url) as seen, open_bus(nats_server.url) as bus:
        await seen.make_stream(name, [f"{name}.>"])
        await bus.publish([make_event(f"{name}.first")])
        asked = []
        monkeypatch.setattr(Api, "request", lambda *what: asked.append(what))
        outcomes = await bus.publish([make_event(f"{name}.s{i}") for i in range(50)])
        assert all(isinstance(outcome, Stored) for outcome in outcomes)
        assert asked == []


async def test_a_silent_jetstream_is_an_outage_and_asked_once_for_all_subjects(
    nats_server, look, open_bus, make_event, name, *, monkeypatch
):
    asked = []

    async def silence(api, timeout):  # noqa: ASYNC109
        asked.append(timeout)
        raise NoAnswerError("no answer")

    async with look(nats_server.url) as seen, open_bus(nats_server.url) as bus:
        await seen.make_stream(name + "A", [f"{name}A.>"])  # a list of none ends no silence
        await bus.connect()
        monkeypatch.setattr(Api, "streams", silence)
        page = [make_event(f"{name}.s{i}") for i in range(20)]
        await bus.close()
        for closed in ((), (), ["streams"], ["streams"]):
            outcomes = await bus.publish(page, closed=closed)
            assert set(outcomes) == {
                Held("streams", "nobody can say which streams there are: no answer")
            }
        # At the connect, and once for each call that the ledger lets ask.
        assert len(asked) == 3
        assert asked[1:] == [6.0, 0.5]


async def test_a_subject_that_moves_to_another_stream_is_followed(
    nats_server, look, open_bus, make_event, name
):
    async with look(nats_server.url) as seen, open_bus(nats_server.url) as bus:
        await seen.make_stream(name, [f"{name}.a", f"{name}.b"])
        await bus.publish([make_event(f"{name}.a"), make_event(f"{name}.b")])
        await seen.change_stream(name, subjects=[f"{name}.a"])
        await seen.make_stream(name + "B", [f"{name}.b"])
        page = [make_event(f"{name}.{'ab'[i % 2]}", key="k") for i in range(6)]
        for _ in range(3):
            outcomes = await bus.publish(page)
        assert all(isinstance(outcome, Stored) for outcome in outcomes)
        assert await seen.count(name) == 2 + 3
        assert await seen.count(name + "B") == 3


async def test_switching_batches_off_changes_the_path(
    nats_server, look, open_bus, make_event, name
):
    async with look(nats_server.url) as seen, open_bus(nats_server.url) as bus:
        await seen.make_stream(name, [f"{name}.>"])
        await bus.publish([make_event(f"{name}.a")])
        assert bus.paths[name] == "fast ingest"
        await seen.change_stream(name, allow_batched=False)
        page = [make_event(f"{name}.a") for _ in range(3)]
        assert all(isinstance(outcome, Stored) for outcome in await bus.publish(page))
        assert bus.paths[name] == "windowed"


async def test_the_configured_stream_is_made_once_and_never_altered(
    nats_server, look, open_bus, make_event, name
):
    how = {"stream": name, "stream_subjects": (f"{name}.>",), "stream_create": True}
    async with look(nats_server.url) as seen:
        async with open_bus(nats_server.url, **how) as bus:
            await bus.connect()
        made = (await seen.ask(f"STREAM.INFO.{name}"))["config"]
        assert made["storage"] == "file"
        assert made["duplicate_window"] == 120_000_000_000
        assert made["allow_batched"] is True
        assert made["subjects"] == [f"{name}.>"]
        await seen.change_stream(name, max_msgs=77, allow_batched=False)
        async with open_bus(nats_server.url, **how) as bus:
            await bus.publish([make_event(f"{name}.a")])
            assert bus.paths == {name: "windowed"}
        assert (await seen.ask(f"STREAM.INFO.{name}"))["config"]["max_msgs"] == 77


async def test_a_missing_stream_is_named_with_its_remedy(nats_server, open_bus, name):
    async with open_bus(nats_server.url, stream=name) as bus:
        with pytest.raises(StreamError, match=f"no stream {name}: create it, or set RELAY_STREAM"):
            await bus.connect()
    async with open_bus(nats_server.url, stream=name, stream_create=True) as bus:
        with pytest.raises(StreamError, match="RELAY_STREAM_SUBJECTS"):
            await bus.connect()


NO_CREATE = """
authorization { users = [
  { user: look, password: look }
  { user: relay, password: pw, permissions: { publish: { deny: "$JS.API.STREAM.CREATE.>" } } }
] }
"""


async def test_where_a_stream_is_to_be_made_no_refusal_says_to_set_what_is_set(
    look, open_bus, make_event, name
):
    how = {"user": "relay", "password": "pw", "stream": name, "stream_subjects": (f"{name}.>",)}
    with devstack.nats_server(config=NO_CREATE) as server:
        async with (
            look(server.url, user="look", password="look") as seen,
            open_bus(server.url, stream_create=True, **how) as bus,
        ):
            refusals = []
            with pytest.raises(StreamError, match="can't be made") as refused:
                await bus.connect()
            refusals.append(str(refused.value))
            with pytest.raises(StreamError, match="there is no stream") as refused:
                await describe(BusOptions(urls=(server.url,), stream_create=True, **how), name)
            refusals.append(str(refused.value))
            await seen.make_stream(name, [f"{name}.>"])
            (uncaptured,) = await bus.publish([make_event("elsewhere")])
            assert uncaptured.fault is Fault.UNCAPTURED
            refusals.append(uncaptured.reason)
    assert not [each for each in refusals if "set RELAY_STREAM_CREATE" in each]


async def test_a_stream_that_never_acknowledges_is_an_error_not_a_hang(
    nats_server, look, open_bus, make_event, name
):
    async with look(nats_server.url) as seen:
        await seen.make_stream(name, [f"{name}.>"], no_ack=True)
        async with open_bus(nats_server.url, stream=name) as bus:
            with pytest.raises(StreamError, match="no_ack"):
                await bus.connect()
        async with open_bus(nats_server.url) as bus:
            (outcome,) = await bus.publish([make_event(f"{name}.a")])
            assert "no_ack" in outcome.reason
        assert await seen.count(name) == 0


async def test_a_stream_that_lacks_a_subject_is_an_error(nats_server, look, open_bus, name):
    async with look(nats_server.url) as seen:
        await seen.make_stream(name, [f"{name}.a"])
        how = {"stream": name, "stream_subjects": (f"{name}.a", f"{name}.b")}
        async with open_bus(nats_server.url, **how) as bus:
            with pytest.raises(StreamError, match=rf"but not {name}\.b: add them"):
                await bus.connect()


async def test_each_weakness_and_each_path_is_logged_once_over_all_connections(
    nats_server, look, open_bus, make_event, name, *, caplog
):
    caplog.set_level(logging.INFO, logger="relay.jetstream")
    async with look(nats_server.url) as seen, open_bus(nats_server.url, stream=name) as bus:
        await seen.make_stream(name, [f"{name}.>"], storage="memory", max_age=60_000_000_000)
        for _ in range(3):
            await bus.publish([make_event(f"{name}.a")])
            await bus.close()
    warned = [r.weakness for r in caplog.records if r.levelno == logging.WARNING]
    assert [text.split(":")[0].split(" (")[0] for text in warned] == [
        "memory storage",
        "one replica",
        "limits that delete old messages",
        "a duplicate window of 60 s",
    ]
    paths = [r for r in caplog.records if r.getMessage() == "publishing by fast ingest"]
    assert [(r.stream, r.path) for r in paths] == [(name, "fast ingest")]


async def test_a_stream_is_described_for_people(nats_server, look, make_event, open_bus, name):
    async with look(nats_server.url) as seen, open_bus(nats_server.url) as bus:
        await seen.make_stream(name, [f"{name}.>"])
        await bus.publish([make_event(f"{name}.a") for _ in range(3)])
    found = await describe(BusOptions(urls=(nats_server.url,)), name)
    assert found["name"] == name
    assert found["path"] == "fast ingest"
    assert (found["messages"], found["first_seq"], found["last_seq"]) == (3, 1, 3)
    with pytest.raises(StreamError, match="there is no stream"):
        await describe(BusOptions(urls=(nats_server.url,)), name + "X")


async def test_it_names_the_stream_of_what_it_published_and_what_each_stream_holds(
    nats_server, look, open_bus, make_event, name
):
    async with look(nats_server.url) as seen, open_bus(nats_server.url) as bus:
        assert await bus.storage() == []
        await seen.make_stream(name, [f"{name}.a.>"])
        stored, _ = await bus.publish([make_event(f"{name}.a.x"), make_event(f"{name}.b.x")])
        assert stored.stream == name
        assert "{}:{}".format(*bus.server) == nats_server.url.removeprefix("nats://")
        state = (await seen.ask(f"STREAM.INFO.{name}"))["state"]
        assert await bus.storage() == [StreamStorage(name, 1, state["bytes"])]
        await seen.ask(f"STREAM.DELETE.{name}")
        assert await bus.storage() == []
        await bus.close()
        assert await bus.storage() == []


async def test_a_stream_of_counters_is_warned_of_and_held(
    nats_server, look, open_bus, make_event, name, *, batched, caplog
):
    async with look(nats_server.url) as seen, open_bus(nats_server.url) as bus:
        await seen.make_stream(name, [f"{name}.>"], allow_batched=batched, allow_msg_counter=True)
        for count in (1, 40):
            outcomes = await bus.publish([make_event(f"{name}.{i}") for i in range(count)])
            assert {outcome.by for outcome in outcomes} == {f"stream {name}"}
        assert any("allow_msg_counter" in record.getMessage() for record in caplog.records)
        assert await seen.count(name) == 0


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"retention": "workqueue"}, "workqueue retention: after a server's restart"),
        ({"retention": "interest"}, "interest retention: after a server's restart"),
        ({"max_msgs_per_subject": 5}, "max_msgs_per_subject: after a server's restart"),
    ],
)
async def test_a_stream_whose_restart_forgets_message_ids_is_warned_of(
    nats_server, look, open_bus, make_event, name, *, config, named, caplog
):
    caplog.set_level(logging.WARNING, logger="relay.jetstream")
    async with look(nats_server.url) as seen, open_bus(nats_server.url, stream=name) as bus:
        await seen.make_stream(name, [f"{name}.>"], **config)
        await bus.connect()
    assert any(named in record.getMessage() for record in caplog.records)


async def test_the_shortest_duplicate_window_of_the_streams_met_is_told(
    nats_server, look, open_bus, make_event, name
):
    async with look(nats_server.url) as seen, open_bus(nats_server.url) as bus:
        for each, seconds in (("A", 60), ("B", 30), ("C", 10)):
            window = seconds * 1_000_000_000
            await seen.make_stream(name + each, [f"{name}.{each}"], duplicate_window=window)
        assert bus.duplicate_window is None
        await bus.publish([make_event(f"{name}.A")])
        assert bus.duplicate_window == 60
        await bus.publish([make_event(f"{name}.B")])
        assert bus.duplicate_window == 30
