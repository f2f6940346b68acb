"""What is no answer of the stream: other domains, denials, bytes that are no protocol (R-LOSS)."""

import json
import logging
from contextlib import asynccontextmanager

import anyio
import pytest

from relay import devstack
from relay.core.order import WAITS
from relay.core.outcome import Held, Refused, Stored
from relay.jetstream import fast_ingest, windowed
from relay.jetstream.answers import Meaning
from tests.jetstream.helpers import all_stored
from tests.jetstream.proxy import proxy_to

pytestmark = pytest.mark.anyio


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
        async with open_bus(leaf.url) as bus:
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

            def named() -> list[str]:
                said = "of another domain answers"
                return [each.stream for each in caplog.records if said in each.getMessage()]

            with anyio.fail_after(10):
                while not named():  # an answer that comes behind the last of ours is not seen
                    await bus.publish(page)
        assert named() == [other]


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
