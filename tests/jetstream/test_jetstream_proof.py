"""What counts as proof, and what is noise: answers of every kind and by everybody (R-LOSS)."""

import json
import logging
import secrets
from contextlib import asynccontextmanager

import anyio
import pytest

from relay import devstack
from relay.core.order import WAITS
from relay.core.outcome import Held, Refused, Stored, Unknown
from relay.jetstream import connection, fast_ingest, windowed
from relay.jetstream.answers import Meaning
from tests.jetstream.proxy import proxy_to

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[True, False], ids=["fast ingest", "windowed"])
def batched(request):
    return request.param


def all_stored(outcomes):
    return all(isinstance(outcome, Stored) for outcome in outcomes)


# Against a server.


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
        open_bus(nats_server.url, ack_timeout=0.5) as bus,
    ):
        await seen.make_stream(name, [f"{name}.>"], allow_batched=batched)
        assert all_stored(await bus.publish([make_event(f"{name}.a")]))
        async with stranger(seen, f"{name}.>", lies):
            await seen.ask(f"STREAM.DELETE.{name}")
            page = [make_event(f"{name}.a", key=f"k{i % 3}") for i in range(20)]
            for _ in range(3):
                outcomes = await bus.publish(page)
                assert not any(isinstance(outcome, Stored) for outcome in outcomes)
            assert outcomes[0].by == f"stream {name}"
            await seen.make_stream(name, [f"{name}.>"], allow_batched=batched)
            with anyio.fail_after(10):
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
        open_bus(nats_server.url, ack_timeout=0.5) as bus,
        anyio.create_task_group() as answers,
    ):
        await seen.make_stream(name, [f"{name}.>"], allow_batched=batched)
        assert all_stored(await bus.publish([make_event(f"{name}.a")]))
        subscription = await seen.client.subscribe(f"{name}.>", cb=answer)
        await seen.client.flush()
        await seen.ask(f"STREAM.DELETE.{name}")
        with anyio.fail_after(20):
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

    async with look(nats_server.url) as seen, open_bus(nats_server.url, ack_timeout=0.3) as bus:
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
        with anyio.fail_after(1):
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


LEAF = """
server_name: leaf
jetstream {{ domain: leaf }}
leafnodes {{ remotes: [ {{ url: "nats-leaf://127.0.0.1:{port}" }} ] }}
"""
HUB = """
server_name: hub
jetstream {{ domain: hub }}
leafnodes {{ listen: "127.0.0.1:{port}" }}
"""


@pytest.fixture
def two_domains(look):
    """A hub and a leaf with a JetStream domain each, which see each other's messages."""

    @asynccontextmanager
    async def make():
        import socket

        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port = sock.getsockname()[1]
        with (
            devstack.nats_server(config=HUB.format(port=port)) as hub,
            devstack.nats_server(config=LEAF.format(port=port)) as leaf,
        ):
            async with look(hub.url) as at_hub, look(leaf.url) as at_leaf:
                seen = anyio.Event()

                async def connected(message):
                    seen.set()

                await at_hub.client.subscribe("is.there", cb=connected)
                await at_hub.client.flush()
                with anyio.fail_after(10):
                    while not seen.is_set():
                        await at_leaf.client.publish("is.there", b"")
                        await anyio.sleep(0.01)
                yield hub, leaf, at_hub, at_leaf

    return make


@pytest.mark.parametrize("same_name", [True, False])
async def test_another_domains_answers_prove_nothing_and_it_is_named(
    two_domains, open_bus, make_event, *, batched, same_name, caplog
):
    # R-LOSS
    caplog.set_level(logging.WARNING)
    async with two_domains() as (_, leaf, at_hub, at_leaf):
        other = "ORDERS" if same_name else "HUB_ORDERS"
        await at_hub.make_stream(other, ["orders.>"], allow_batched=batched)
        limits = {"max_msgs": 10, "discard": "new"}
        await at_leaf.make_stream("ORDERS", ["orders.>"], allow_batched=batched, **limits)
        async with open_bus(leaf.url, ack_timeout=0.5) as bus:
            page = [make_event(f"orders.{i % 3}", key=f"k{i % 7}") for i in range(30)]
            believed = set()
            for _ in range(4):
                outcomes = await bus.publish(page)
                believed |= {i for i, each in enumerate(outcomes) if isinstance(each, Stored)}
            stored = {found[1] for found in await at_leaf.messages("ORDERS")}
            assert {page[i].message_id for i in believed} <= stored
            assert len(stored) == 10
            assert {outcome.by for outcome in outcomes if isinstance(outcome, Held)} == {
                "stream ORDERS"
            }
            await at_leaf.change_stream("ORDERS", max_msgs=-1)
            with anyio.fail_after(10):
                while not all_stored(await bus.publish(page)):
                    pass
            assert await at_leaf.count("ORDERS") == 30
        warned = [r for r in caplog.records if "of another domain answers" in r.getMessage()]
        assert [record.stream for record in warned] == [other]


@pytest.mark.parametrize("domain", ["hub", "$JS.hub.API", "$JS.hub.API."])
async def test_a_domain_can_be_named_or_its_api(
    two_domains, open_bus, make_event, domain, *, batched
):
    async with two_domains() as (_, leaf, at_hub, at_leaf):
        await at_hub.make_stream("H", ["h.>"], allow_batched=batched)
        await at_leaf.make_stream("L", ["l.>"], allow_batched=batched)
        async with open_bus(leaf.url, js_domain=domain) as bus:
            outcomes = await bus.publish([make_event("h.a", key="k") for _ in range(5)])
            assert [outcome.stream for outcome in outcomes] == ["H"] * 5
            assert isinstance((await bus.publish([make_event("l.a")]))[0], Refused)
            again = make_event("h.b", message_id="mine")
            for _ in range(2):
                (outcome,) = await bus.publish([again])
            assert (outcome.duplicate, outcome.unverified) == (True, False)
        assert (await at_hub.count("H"), await at_leaf.count("L")) == (6, 0)


# Permission errors.

FORBIDDING = """
authorization {{ users = [
  {{ user: look, password: look }}
  {{ user: relay, password: pw, permissions: {{ publish: {{ {rule} }} }} }}
] }}
"""


@pytest.mark.parametrize(
    ("allowed", "forbidden"),
    [
        ("orders.placed", "ORDERS.placed"),
        ("orders.placed", "Orders.Placed"),
        ("orders.q", 'orders."q"'),
        ("orders.q", "orders.back\\slash"),
        ("orders.u", "orders.ü\u00ad"),
    ],
)
async def test_a_forbidden_subject_is_told_from_one_that_looks_like_it(
    look, open_bus, make_event, batched, allowed, *, forbidden
):
    quoted = json.dumps(forbidden, ensure_ascii=False)
    config = FORBIDDING.format(rule=f"deny: [{quoted}]")
    with devstack.nats_server(config=config) as server:
        async with (
            look(server.url, user="look", password="look") as seen,
            open_bus(server.url, user="relay", password="pw", ack_timeout=1) as bus,
        ):
            subjects = ["orders.>", "ORDERS.>", "Orders.>"]
            await seen.make_stream("S", subjects, allow_batched=batched)
            page = [
                make_event(forbidden if i % 10 == 3 else allowed, key=f"k{i}") for i in range(100)
            ]
            with anyio.fail_after(5):
                outcomes = await bus.publish(page)
            for i, outcome in enumerate(outcomes):
                if i % 10 == 3:
                    assert outcome.by == "forbidden subjects"
                else:
                    assert isinstance(outcome, Stored)
            assert await seen.count("S") == 90
            # R-ORDER: what stands behind a forbidden one of its key waits.
            last = [make_event(each, key="k") for each in (allowed, forbidden, allowed)]
            outcomes = await bus.publish(last)
            assert isinstance(outcomes[0], Stored)
            assert outcomes[1].by == "forbidden subjects"
            assert outcomes[2] is WAITS
            # What the ledger has closed costs no byte.
            held = await bus.publish([last[1]], closed=["forbidden subjects"])
            assert held[0].by == "forbidden subjects"


async def test_a_puback_beats_a_denial_of_the_same_subject(
    nats_server, look, open_bus, make_event, name, *, monkeypatch
):
    """The permission came back in mid-call: the denial is of an earlier message."""
    # R-LOSS
    async with look(nats_server.url) as seen, open_bus(nats_server.url) as bus:
        await seen.make_stream(name, [f"{name}.>"], allow_batched=False)
        await bus.publish([make_event(f"{name}.a")])
        first = windowed._Window._first_answer

        def denied_first(window, *answer):
            window.denied(f"{name}.a", "forbidden for a moment")
            first(window, *answer)

        monkeypatch.setattr(windowed._Window, "_first_answer", denied_first)
        page = [make_event(f"{name}.{each}", key=each) for each in "abab"]
        outcomes = await bus.publish(page)
        assert all_stored(outcomes[:2])
        assert outcomes[2] is WAITS
        assert await seen.count(name) == 4


# What breaks nats-py.


@pytest.mark.parametrize(
    "garbage",
    [
        b"INFO []\r\n",
        b"INFO 7\r\n",
        b"INFO \xff\r\n",
        b'INFO {"connect_urls": ["[::1"]}\r\n',
        b'INFO {"connect_urls": 7, "max_payload": "x"}\r\n',
        b"INFO " + b"[" * 90_000 + b"\r\n",
    ],
)
async def test_an_info_that_can_not_be_read_changes_nothing(
    nats_server, look, open_bus, make_event, name, *, garbage, monkeypatch
):
    async with look(nats_server.url) as seen, proxy_to(nats_server.port) as proxy:
        await seen.make_stream(name, [f"{name}.>"])
        async with open_bus(f"nats://127.0.0.1:{proxy.port}") as bus:
            await bus.connect()
            connection = bus._open.connection
            await connection.wire._ps.parse(garbage)
            assert all_stored(await bus.publish([make_event(f"{name}.a") for _ in range(50)]))
            assert connection.lost is None


@pytest.mark.parametrize(
    "garbage",
    [
        b"MSG a 1 999999999\r\n",
        b"HMSG a 1 5 999999999\r\n",
        b"WAT\r\n",
        b"MSG a\r\n",
        b"x" * 1_100_000,
    ],
)
async def test_bytes_that_are_no_protocol_end_the_connection(nats_server, open_bus, garbage):
    from nats import errors

    async with open_bus(nats_server.url) as bus:
        await bus.connect()
        with pytest.raises(errors.ProtocolError):
            await bus._open.connection.wire._ps.parse(garbage)


@pytest.mark.parametrize(
    "rest", [b"", b"x", b".", b"1.2.3", b"-1", b"1.look", b"x.look", b"9" * 99]
)
@pytest.mark.parametrize("tail", [b"", b".500.fail.1.0.$FI", b".500.fail.x.0.$FI", b".5.5.5.5.5.5"])
async def test_garbage_on_a_reply_subject_is_noise(
    nats_server, look, open_bus, make_event, name, *, batched, rest, tail, monkeypatch
):
    # R-LOSS
    exchange = fast_ingest.Batch if batched else windowed._Window
    made = exchange.__init__

    def noisy(self, *args, **how):
        made(self, *args, **how)
        hear = self.answered

        def both(at, payload, headers):
            for fake in (b"", b"{}", b'{"stream":"%b","seq":1}' % name.encode()):
                hear(rest + tail, fake, None)
                hear(rest + tail, fake, b"NATS/1.0 503\r\n\r\n" if not fake else None)
            hear(at, payload, headers)

        self.answered = both

    async with look(nats_server.url) as seen, open_bus(nats_server.url, ack_timeout=1) as bus:
        await seen.make_stream(name, [f"{name}.>"], allow_batched=batched)
        await bus.publish([make_event(f"{name}.a")])
        with monkeypatch.context() as patched:
            patched.setattr(exchange, "__init__", noisy)
            page = [make_event(f"{name}.a", key="k") for _ in range(20)]
            outcomes = await bus.publish(page)
        assert not any(isinstance(outcome, Meaning) for outcome in outcomes)
        stored = {found[1] for found in await seen.messages(name)}
        for event, outcome in zip(page, outcomes, strict=True):
            assert not isinstance(outcome, Stored) or event.message_id in stored
