"""Streams that answer nothing, late, or never: which of them, why, and that the others flow."""

import asyncio
import time
from statistics import median

import pytest

from relay.core.order import WAITS
from relay.core.outcome import Held, Stored
from relay.jetstream import connection, fast_ingest, windowed
from relay.jetstream.api import Api, NoAnswerError
from tests.jetstream.helpers import all_stored, back_after, patience

pytestmark = pytest.mark.anyio


async def test_a_stream_without_a_leader_is_told_from_one_that_is_gone(
    two_streams, events, name, monkeypatch
):
    """A real 503, for the stream is gone; that it still has a name and no leader is made up."""
    info, listed = Api.stream_info, Api.streams

    async def silent(api, stream, timeout):  # noqa: ASYNC109
        if stream == name + "A":
            raise NoAnswerError("no answer")
        return await info(api, stream, timeout)

    async def missing(api, timeout):  # noqa: ASYNC109
        return (await listed(api, timeout))[0], {name + "A"}

    async with two_streams() as (seen, bus):
        assert all_stored(await bus.publish(events("A") + events("B")))
        await seen.ask(f"STREAM.DELETE.{name}A")
        with monkeypatch.context() as patched:
            patched.setattr(Api, "stream_info", silent)
            patched.setattr(Api, "streams", missing)
            leaderless = Held(f"stream {name}A", f"stream {name}A has no leader: no answer", 503)
            for _ in range(3):
                outcomes = await bus.publish(events("A", 50) + events("B", 5))
                assert set(outcomes[:50]) == {leaderless}
                assert all_stored(outcomes[50:])
                # A new connection believes what is known of it.
                await bus.close()
        await seen.make_stream(name + "A", [f"{name}.A.>"])
        assert await back_after(bus, events("A", 50)) <= 100


async def test_a_stream_that_no_leader_describes_holds_what_it_may_capture(
    nats_server, look, open_bus, make_event, name, *, batched, monkeypatch
):
    listed = Api.streams

    async def missing(api, timeout):  # noqa: ASYNC109
        found, _ = await listed(api, timeout)
        return [info for info in found if info.name != name], {name}

    async with look(nats_server.url) as seen, open_bus(nats_server.url) as bus:
        await seen.make_stream(name, [f"{name}.>"], allow_batched=batched)
        page = [make_event(f"{name}.{i % 3}") for i in range(100)]
        with monkeypatch.context() as patched:
            patched.setattr(Api, "streams", missing)
            outcomes = await bus.publish(page)
            assert {outcome.by for outcome in outcomes} == {"streams"}
            assert name in outcomes[0].reason
        assert await back_after(bus, page) <= 100
        await bus.publish(page)
        assert bus.paths == {name: "fast ingest" if batched else "windowed"}
        assert await seen.count(name) == 100


async def test_a_stream_that_does_not_answer_leaves_the_others_their_connection(
    two_streams, events, name, batched, monkeypatch
):
    """A stream that is stuck answers nothing; here its answers are overheard on the way."""
    # R-FATE
    overheard = []
    exchanges = [fast_ingest.Batch, windowed._Window]

    def deaf(make):
        def init(exchange, *args, **how):
            make(exchange, *args, **how)
            if exchange._stream.name == name + "A":
                exchange.answered = lambda *answer: overheard.append(answer)

        return init

    async with two_streams() as (seen, bus):
        assert all_stored(await bus.publish(events("A") + events("B")))
        connection = bus._open.connection
        with monkeypatch.context() as patched:
            for exchange in exchanges:
                patched.setattr(exchange, "__init__", deaf(exchange.__init__))
            page = [event for key in "kl" for event in events("A", 20, key=key)]
            page = [each._replace(subject=f"{each.subject}.{each.key}") for each in page]
            for _ in range(3):
                with patience(bus, 0.8):
                    outcomes = await bus.publish(page + events("B", 5))
                assert outcomes[0].by == f"stream {name}A"
                assert "no answer within 0.8 s" in outcomes[0].reason
                assert outcomes[1:20] == [WAITS] * 19
                assert all_stored(outcomes[40:])
        assert overheard
        assert bus._open.connection is connection
        assert connection.lost is None
        await back_after(bus, page)
        assert await seen.count(name + "A") == 1 + 40


@pytest.mark.slow
async def test_a_stream_that_was_silent_holds_no_later_call_for_the_whole_time_out(
    two_streams, events, name, monkeypatch
):
    """Its answers are lost, then late: a late one makes the next try wait for all of them."""
    # R-FATE
    deliver, delay = connection.Connection.deliver, None

    def late(self, subject, payload, headers):
        if name.encode() + b"A" not in payload or b'"seq":' not in payload:
            deliver(self, subject, payload, headers)
        elif delay is not None:
            loop = asyncio.get_running_loop()
            loop.call_later(delay, deliver, self, subject, payload, headers)

    monkeypatch.setattr(connection.Connection, "deliver", late)
    async with two_streams(ack_timeout=4.0) as (seen, bus):
        page = [e._replace(subject=f"{e.subject}.{i % 2}") for i, e in enumerate(events("A", 20))]
        silent = f"stream {name}A"
        outcomes = await bus.publish(page + events("B"))
        took = []
        for _ in range(4):
            began = time.monotonic()
            outcomes = await bus.publish(page + events("B"))
            took.append(time.monotonic() - began)
            assert {outcome.by for outcome in outcomes[:-1]} == {silent}
            assert isinstance(outcomes[-1], Stored)
        assert median(took) < 2
        assert max(took) < 4
        delay = 1.3
        assert await back_after(bus, page) <= 5
        assert await seen.count(name + "A") == 20


@pytest.mark.parametrize("batched", [False], indirect=True)
async def test_a_stream_that_is_told_never_to_acknowledge_is_held_with_the_reason(
    two_streams, events, name
):
    async with two_streams() as (seen, bus):
        assert all_stored(await bus.publish(events("A") + events("B")))
        await seen.change_stream(name + "A", no_ack=True)
        page = events("A", 40, key="k")
        for _ in range(3):
            with patience(bus, 0.8):
                outcomes = await bus.publish(page + events("B", 5))
            assert not any(isinstance(outcome, Stored) for outcome in outcomes[:40])
            assert all_stored(outcomes[40:])
        assert outcomes[0].by == f"stream {name}A"
        assert "no_ack" in outcomes[0].reason
        await seen.change_stream(name + "A", no_ack=False)
        await back_after(bus, page)
        assert await seen.count(name + "A") == 1 + 40
