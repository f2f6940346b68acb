"""What counts as proof, and what is noise: answers of every kind and by everybody (R-LOSS)."""

import json
import secrets
from contextlib import asynccontextmanager

import anyio
import pytest

from relay.core.outcome import Stored, Unknown
from relay.jetstream import connection, fast_ingest, windowed
from tests.jetstream.helpers import all_stored, patience, waiting_for_nothing

pytestmark = pytest.mark.anyio


def lies(message):
    """What a stranger who sees a message may answer."""
    token = message.reply.split(".")[-1 if "$FI" not in message.reply else 2]
    return [
        b'{"seq": 1}',
        b'{"seq": 1, "count": 1}',
        b'{"count": 1}',
        b'{"seq": 7, "stream": "ELSEWHERE", "count": 1, "batch": "x"}',
        b'{"type": "ack", "seq": 1, "msgs": 500}',
        json.dumps({"stream": "ELSEWHERE", "seq": 7, "batch": token, "count": 1}).encode(),
        b'{"error": 1}',
        b"[]",
        b"\xff",
    ]


@asynccontextmanager
async def stranger(seen, subject, answer):
    async def reply(message):
        for each in answer(message):
            await message.respond(each)

    subscription = await seen.client.subscribe(subject, cb=reply)
    await seen.client.flush()
    yield
    await subscription.unsubscribe()


async def test_a_service_on_the_subjects_of_a_deleted_stream_stores_nothing(
    nats_server, look, open_bus, make_event, name, *, batched
):
    # R-LOSS
    async with (
        look(nats_server.url) as seen,
        open_bus(nats_server.url) as bus,
    ):
        await seen.make_stream(name, [f"{name}.>"], allow_batched=batched)
        assert all_stored(await bus.publish([make_event(f"{name}.a")]))
        async with stranger(seen, f"{name}.>", lies):
            await seen.ask(f"STREAM.DELETE.{name}")
            page = [make_event(f"{name}.a", key=f"k{i % 3}") for i in range(20)]
            for _ in range(3):
                with patience(bus, 0.5):
                    outcomes = await bus.publish(page)
                assert not any(isinstance(outcome, Stored) for outcome in outcomes)
            assert outcomes[0].by == f"stream {name}"
            await seen.make_stream(name, [f"{name}.>"], allow_batched=batched)
            with anyio.fail_after(30):
                while not all_stored(await bus.publish(page)):
                    pass
            assert await seen.count(name) == 20


@pytest.mark.parametrize(
    "lie",
    [
        {"stream": "ELSEWHERE", "seq": 1},
        {"error": {"code": 500, "err_code": 10999}},
        {"type": "ack", "seq": 1, "msgs": 500},
    ],
    ids=["of another stream", "an error", "a flow ack"],
)
async def test_a_service_that_never_stops_answering_does_not_keep_a_call_for_ever(
    nats_server, look, open_bus, make_event, name, *, batched, lie
):
    # R-BOUND, R-FATE
    async def again_and_again(reply):
        while True:
            await seen.client.publish(reply, json.dumps(lie).encode())
            await anyio.sleep(0.05)

    async def answer(message):
        if message.subject.endswith(".a"):
            answers.start_soon(again_and_again, message.reply)

    async with (
        look(nats_server.url) as seen,
        open_bus(nats_server.url) as bus,
        anyio.create_task_group() as answers,
    ):
        await seen.make_stream(name, [f"{name}.>"], allow_batched=batched)
        assert all_stored(await bus.publish([make_event(f"{name}.a")]))
        subscription = await seen.client.subscribe(f"{name}.>", cb=answer)
        await seen.client.flush()
        await seen.ask(f"STREAM.DELETE.{name}")
        with anyio.fail_after(20), patience(bus, 0.5):
            outcomes = await bus.publish([make_event(f"{name}.a"), make_event(f"{name}.b")])
        assert not any(isinstance(outcome, Stored) for outcome in outcomes)
        await subscription.unsubscribe()
        answers.cancel_scope.cancel()


async def test_a_stranger_who_answers_first_does_not_keep_events_from_being_stored(
    nats_server, look, open_bus, make_event, name, *, batched
):
    # R-LOSS
    async with look(nats_server.url) as seen, open_bus(nats_server.url, ack_timeout=2) as bus:
        await seen.make_stream(name, [f"{name}.>"], allow_batched=batched)
        async with stranger(seen, f"{name}.>", lies):
            for _ in range(5):
                page = [make_event(f"{name}.{i}", key="k") for i in range(20)]
                assert all_stored(await bus.publish(page))
        assert await seen.count(name) == 100


async def test_tokens_are_drawn_from_secrets_and_each_is_new(
    nats_server, open_bus, make_event, look, name, *, monkeypatch
):
    # R-LOSS
    drawn = []

    def draw(size):
        drawn.append(secrets.token_bytes(size).hex()[:22])
        return drawn[-1]

    monkeypatch.setattr(connection.secrets, "token_urlsafe", draw)
    async with look(nats_server.url) as seen, open_bus(nats_server.url) as bus:
        await seen.make_stream(name, [f"{name}.>"])
        replies = []

        async def overhear(message):
            replies.append(message.reply)

        await seen.client.subscribe(f"{name}.>", cb=overhear)
        await seen.client.flush()
        for _ in range(3):
            assert all_stored(await bus.publish([make_event(f"{name}.a")]))
        await seen.client.flush()
        tokens = [reply.split(".")[1:3] for reply in replies]
        assert {inbox for inbox, _ in tokens} == {drawn[0]}
        assert len({token for _, token in tokens}) == 3
        assert {token for _, token in tokens} <= set(drawn)


async def test_a_batch_of_duplicates_alone_is_stored(nats_server, look, open_bus, make_event, name):
    # R-LOSS
    async with look(nats_server.url) as seen, open_bus(nats_server.url) as bus:
        await seen.make_stream(name, [f"{name}.>"])
        page = [make_event(f"{name}.a", key="k") for _ in range(300)]
        for _ in range(3):
            assert all_stored(await bus.publish(page))
        assert await seen.count(name) == 300


@pytest.mark.parametrize("what", ["no final answer", "flow acks only", "another batch's"])
async def test_a_batch_without_its_final_answer_proves_nothing_and_is_asked_about_one_by_one(
    nats_server, look, open_bus, make_event, name, *, what, monkeypatch
):
    # R-LOSS
    flow = b'{"type":"ack","seq":50,"msgs":500}'
    fakes = {"no final answer": [], "flow acks only": [flow] * 3, "another batch's": None}
    hear = fast_ingest.Batch.answered

    def overhear(self, rest, payload, headers):
        if b'"count"' not in payload:
            hear(self, rest, payload, headers)
        elif fakes[what] is None:
            hear(self, rest, payload.replace(b'"batch":"', b'"batch":"x'), headers)
        else:
            for fake in fakes[what]:
                hear(self, rest, fake, headers)

    async with look(nats_server.url) as seen, open_bus(nats_server.url) as bus:
        await seen.make_stream(name, [f"{name}.>"])
        await bus.publish([make_event(f"{name}.a")])
        page = [make_event(f"{name}.a", key=f"k{i % 3}") for i in range(50)]
        paths = []
        by_window = windowed._Window.__init__
        with monkeypatch.context() as patched:
            patched.setattr(fast_ingest.Batch, "answered", overhear)
            patched.setattr(
                windowed._Window,
                "__init__",
                lambda *args: (paths.append("windowed"), by_window(*args))[1],
            )
            with patience(bus, 0.3):
                outcomes = await bus.publish(page)
            assert {type(outcome) for outcome in outcomes} == {Unknown}
            assert paths == []
            assert all_stored(await bus.publish(page))
            assert paths == ["windowed"]
        assert all_stored(await bus.publish(page))
        assert await seen.count(name) == 51


async def test_a_commit_that_is_refused_costs_the_others_of_its_batch_nothing(
    nats_server, look, open_bus, make_event, name
):
    """The refused event would have ended the batch: a message that is not stored ends the next."""
    # R-LOSS
    async with look(nats_server.url) as seen, open_bus(nats_server.url, ack_timeout=2) as bus:
        await seen.make_stream(name, [f"{name}.>"])
        await bus.publish([make_event(f"{name}.first")])
        await seen.change_stream(name, max_msg_size=500)
        page = [make_event(f"{name}.a", payload=b"x" * (600 if i == 9 else 10)) for i in range(10)]
        with waiting_for_nothing(bus):
            outcomes = await bus.publish(page)
        assert all_stored(outcomes[:9])
        assert outcomes[9].code == 10054
        assert await seen.count(name) == 10


async def test_two_answers_that_can_not_both_be_true_prove_nothing_and_are_named(
    nats_server, look, open_bus, make_event, name, *, batched, caplog, monkeypatch
):
    """Two accounts with the same stream name, as seen from one that gets both answers."""
    # R-LOSS
    exchange = fast_ingest.Batch if batched else windowed._Window
    twice = {}

    def again(payload):
        answer = json.loads(payload)
        return json.dumps({**answer, "seq": answer["seq"] + 1000}).encode()

    def doubled(make):
        def init(self, *args, **how):
            make(self, *args, **how)
            hear = self.answered

            def both(rest, payload, headers):
                hear = getattr(self, "_answer", None) or type(self).answered.__get__(self)
                hear(rest, payload, headers)
                if b'"seq":' in payload and b'"type"' not in payload:
                    twice[rest] = payload
                    hear(rest, again(payload), headers)

            del hear
            self.answered = both

        return init

    async with look(nats_server.url) as seen, open_bus(nats_server.url) as bus:
        await seen.make_stream(name, [f"{name}.>"], allow_batched=batched)
        await bus.publish([make_event(f"{name}.a")])
        page = [make_event(f"{name}.a", key=f"k{i}") for i in range(5)]
        with monkeypatch.context() as patched:
            patched.setattr(exchange, "__init__", doubled(exchange.__init__))
            outcomes = await bus.publish(page)
        assert twice
        assert {type(outcome) for outcome in outcomes} == {Unknown}
        assert name in [getattr(record, "stream", "") for record in caplog.records[-1:]]
        assert all_stored(await bus.publish(page))
