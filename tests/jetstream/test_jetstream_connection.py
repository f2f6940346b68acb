"""Logging in, TLS, dead and silent servers: every connection option against a real server."""

import json
import socket
import time
from contextlib import asynccontextmanager

import anyio
import nkeys
import pytest

from relay import devstack
from relay.core.outcome import Stored
from relay.errors import BusOutage, SettingsError
from relay.jetstream import BusOptions, JetStreamBus
from tests.jetstream.credentials import make_nkey, make_operator

pytestmark = pytest.mark.anyio


@pytest.fixture
def lets_in(open_bus, make_event, name):
    """Prove that these options get an event stored."""

    async def check(url, **how):
        how = {"stream": name, "stream_subjects": (f"{name}.>",), "stream_create": True, **how}
        async with open_bus(url, **how) as bus:
            (outcome,) = await bus.publish([make_event(f"{name}.a")])
            assert isinstance(outcome, Stored)

    return check


@pytest.fixture
def keeps_out(open_bus):
    """Prove that these options are refused soon, and say why."""

    async def check(url, why, **how):
        async with open_bus(url, **how) as bus:
            started = time.monotonic()
            with pytest.raises(BusOutage, match=why):
                await bus.connect()
            assert time.monotonic() - started < 4

    return check


async def test_user_and_password_let_in_and_a_wrong_one_is_named(lets_in, keeps_out):
    with devstack.nats_server('authorization { user: "ann", password: "s3cret" }') as server:
        await lets_in(server.url, user="ann", password="s3cret")
        await lets_in(server.url.replace("//", "//ann:s3cret@"))
        await keeps_out(server.url, "Authorization Violation", user="ann", password="wrong")
        await keeps_out(server.url, "Authorization Violation")


async def test_a_token_lets_in(lets_in, keeps_out):
    with devstack.nats_server('authorization { token: "t0ken" }') as server:
        await lets_in(server.url, token="t0ken")
        await keeps_out(server.url, "Authorization Violation", token="other")


async def test_an_nkey_lets_in_as_a_seed_and_as_a_file(lets_in, keeps_out, tmp_path):
    seed, public = make_nkey(nkeys.PREFIX_BYTE_USER, b"u")
    _, stranger = seed, make_nkey(nkeys.PREFIX_BYTE_USER, b"x")[0]
    (tmp_path / "user.nk").write_text(f"# the relay\n{seed}\n")
    with devstack.nats_server(f"authorization {{ users: [ {{ nkey: {public} }} ] }}") as server:
        await lets_in(server.url, nkey_seed=seed)
        await lets_in(server.url, nkey_seed=str(tmp_path / "user.nk"))
        await keeps_out(server.url, "Authorization Violation", nkey_seed=stranger)


async def test_a_credentials_file_lets_in(lets_in, keeps_out, tmp_path):
    world = make_operator()
    (tmp_path / "good.creds").write_text(world["creds"])
    with devstack.nats_server(world["config"]) as server:
        await lets_in(server.url, creds=str(tmp_path / "good.creds"))
        await keeps_out(server.url, "Authorization Violation")


@pytest.mark.parametrize(
    ("option", "content"),
    [
        ("creds", "nothing of the kind"),
        ("creds", None),
        ("nkey_seed", "no seed"),
        ("nkey_seed", None),
        ("tls_ca", "no certificate"),
        ("tls_ca", None),
        ("tls_cert", "no certificate"),
    ],
)
async def test_a_file_that_is_not_usable_is_named_with_its_option(option, content, tmp_path):
    path = tmp_path / "file"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SettingsError, match=f"nats {option}"):
        await JetStreamBus(BusOptions(**{option: str(path)})).connect()


async def test_a_mistyped_seed_is_not_shown(open_bus):
    async with open_bus("nats://127.0.0.1:1", nkey_seed="SUAMISTYPEDSECRET") as bus:
        with pytest.raises(SettingsError) as error:
            await bus.connect()
    assert "MISTYPED" not in str(error.value)


def test_options_show_no_secret():
    shown = repr(
        BusOptions(
            urls=("nats://u:URLPW@h",), password="PW", token="TOK", nkey_seed="SEED", user="u"
        )
    )
    assert shown == "BusOptions(urls=***, nkey_seed=***, user='u', password=***, token=***)"


@pytest.mark.parametrize("url", ["http://host", "ws://host:80", "nats://", "tls://"])
def test_a_url_of_another_kind_is_refused_at_once(url):
    with pytest.raises(SettingsError, match="must be nats://host or tls://host"):
        JetStreamBus(BusOptions(urls=(url,)))


async def test_tls_with_an_own_ca_lets_in(lets_in, keeps_out, certificates):
    with devstack.nats_server(certificates.server_config()) as server:
        tls = server.url.replace("nats://", "tls://").replace("127.0.0.1", "localhost")
        await lets_in(tls, tls_ca=certificates.ca)
        await lets_in(server.url, tls_ca=certificates.ca)
        await keeps_out(tls, "certificate verify failed")
        await keeps_out(tls, "certificate verify failed", tls_ca=certificates.other_ca)


async def test_tls_checks_the_servers_name(keeps_out, certificates):
    with devstack.nats_server(certificates.server_config()) as server:
        url = server.url.replace("nats://127.0.0.1", "tls://127.0.0.2")
        with socket_forward("127.0.0.2", server.port):
            await keeps_out(url, "certificate verify failed", tls_ca=certificates.ca)


async def test_a_client_certificate_lets_in(lets_in, keeps_out, certificates):
    config = certificates.server_config(f'ca_file: "{certificates.ca}", verify: true')
    mine = {"tls_ca": certificates.ca, "tls_cert": certificates.client_cert}
    with devstack.nats_server(config) as server:
        await lets_in(server.url, tls_key=certificates.client_key, **mine)
        await keeps_out(server.url, "127.0.0.1", tls_ca=certificates.ca)


@pytest.mark.parametrize("scheme", ["tls", "nats"])
async def test_no_credential_is_sent_in_the_clear_where_tls_was_asked_for(
    open_bus, certificates, scheme
):
    async with fake_server('{"server_id":"x","version":"2.15.1","max_payload":1048576}') as fake:
        url = f"{scheme}://127.0.0.1:{fake.port}"
        how = {"tls_ca": certificates.ca} if scheme == "nats" else {}
        async with open_bus(url, user="ann", password="s3cret", **how) as bus:
            with pytest.raises(BusOutage, match="TLS was asked for, but the server offers none"):
                await bus.connect()
        await fake.closed.wait()
        assert bytes(fake.heard) == b""


async def test_a_server_that_merely_offers_tls_is_spoken_to_by_tls(lets_in, certificates):
    with devstack.nats_server(certificates.server_config() + "\nallow_non_tls: true") as server:
        await lets_in(server.url.replace("nats://", "tls://"), tls_ca=certificates.ca)


async def test_a_dead_server_is_an_outage_at_once_and_the_next_one_is_tried(
    nats_server, lets_in, keeps_out
):
    dead = f"nats://127.0.0.1:{unused_port()}"
    await keeps_out(dead, "127.0.0.1")
    async with JetStreamBusOf(dead, nats_server.url) as bus:
        await bus.connect()
        assert bus._open.connection.url == nats_server.url


async def test_a_silent_server_is_an_outage_within_the_deadline(keeps_out):
    async with fake_server("") as fake:
        await keeps_out(
            f"nats://127.0.0.1:{fake.port}", "no connection within 0.3 s", connect_timeout=0.3
        )


async def test_servers_that_the_cluster_tells_of_are_learned(open_bus):
    info = {"server_id": "x", "max_payload": 1048576, "connect_urls": ["127.0.0.9:4333"]}
    async with fake_server(json.dumps(info), answers=True) as fake:
        url = f"nats://u:p@127.0.0.1:{fake.port}"
        async with open_bus(url, ack_timeout=0.2, connect_timeout=1) as bus:
            with pytest.raises(BusOutage, match="JetStream does not answer"):
                await bus.connect()
            assert ("nats://u:p@127.0.0.9:4333", "127.0.0.1") in bus._servers.in_turn()


@pytest.mark.parametrize(
    "info",
    [
        "[]",
        "7",
        "{",
        "{}",
        "x" * 70_000,
        '{"server_id": "x", "connect_urls": "' + "y" * 70_000 + '"}',
        '{"connect_urls": ["[::1"], "max_payload": "large", "tls_required": [], "version": 7}',
        '{"nonce": 5, "auth_required": {}}',
    ],
)
async def test_whatever_a_server_says_of_itself_is_an_outage_at_worst(open_bus, info):
    async with (
        fake_server(info) as fake,
        open_bus(f"nats://127.0.0.1:{fake.port}", connect_timeout=0.3) as bus,
    ):
        for _ in range(2):
            with pytest.raises(BusOutage, match=str(fake.port)):
                await bus.connect()


async def test_addresses_that_are_none_are_left_out_of_what_a_server_says(open_bus):
    urls = ["[::1", 7, None, "", ":4222", "host:x", "127.0.0.9:4333", "h:99999"]
    info = {"server_id": "x", "max_payload": "7", "connect_urls": urls}
    async with fake_server(json.dumps(info), answers=True) as fake:
        url = f"nats://127.0.0.1:{fake.port}"
        async with open_bus(url, ack_timeout=0.2, connect_timeout=1) as bus:
            with pytest.raises(BusOutage, match="JetStream does not answer"):
                await bus.connect()
            assert [each for each, _ in bus._servers.in_turn()] == ["nats://127.0.0.9:4333", url]


async def test_close_may_come_at_any_time_and_connect_may_follow(nats_server, open_bus):
    async with open_bus(nats_server.url) as bus:
        await bus.close()
        await bus.connect()
        await bus.close()
        await bus.close()
        await bus.connect()
        assert bus._open.connection.lost is None


@asynccontextmanager
async def JetStreamBusOf(*urls):  # noqa: N802 - reads like the class
    bus = JetStreamBus(BusOptions(urls=urls))
    try:
        yield bus
    finally:
        await bus.close()


class Fake:
    def __init__(self):
        self.heard = bytearray()
        self.closed = anyio.Event()
        self.port = 0


@asynccontextmanager
async def fake_server(info, *, answers=False):
    """A server that says INFO (or nothing), listens, and at most answers PING."""
    fake = Fake()

    async def handle(stream):
        async with stream:
            if info:
                await stream.send(f"INFO {info}\r\n".encode())
            try:
                while True:
                    data = await stream.receive()
                    fake.heard += data
                    if answers and b"PING" in data:
                        await stream.send(b"PONG\r\n")
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                fake.closed.set()

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    fake.port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, handle)
        yield fake
        tasks.cancel_scope.cancel()


def unused_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class socket_forward:  # noqa: N801 - a context manager
    """Let 127.0.0.2 lead to the server as well; it listens on 127.0.0.1 only."""

    def __init__(self, host, port):
        self.host, self.port = host, port

    def __enter__(self):
        import threading

        self.listener = socket.create_server((self.host, self.port))
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        import selectors

        try:
            client, _ = self.listener.accept()
        except OSError:
            return
        server = socket.create_connection(("127.0.0.1", self.port))
        with client, server, selectors.DefaultSelector() as selector:
            selector.register(client, selectors.EVENT_READ, server)
            selector.register(server, selectors.EVENT_READ, client)
            while True:
                for key, _ in selector.select(timeout=5):
                    try:
                        data = key.fileobj.recv(65536)
                    except OSError:
                        return
                    if not data:
                        return
                    key.data.sendall(data)

    def __exit__(self, *exc):
        self.listener.close()
        self.thread.join(timeout=10)
