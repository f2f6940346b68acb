"""Each misconfiguration of NATS is found and named by the right check with the right remedy."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import nats
import pytest

from relay import devstack
from relay.doctor import State
from relay.doctor.postgres import clocks_apart
from tests.doctor.examining import (
    FAULT,
    OK,
    SKIPPED,
    WARNING,
    examine_nats,
    expect,
    shown,
    states,
)
from tests.jetstream.conftest import certificates  # noqa: F401 - a fixture
from tests.jetstream.credentials import Certificates
from tests.postgres.test_sessions import silent_host

pytestmark = pytest.mark.anyio

CONFIG = """
accounts {
  APP {
    jetstream: enabled
    users: [
      { user: relay, password: pw }
      { user: mute, password: pw, permissions: { publish: { deny: ["ok.>"] } } }
      { user: deaf, password: pw, permissions: { subscribe: { deny: ["_INBOX.>"] } } }
      { user: blind, password: pw, permissions: { publish: { deny: ["$JS.API.INFO"] } } }
      { user: lost, password: pw, permissions: { publish: { deny: ["$JS.API.STREAM.LIST"] } } }
    ]
  }
  SMALL { jetstream: { max_store: 4096 }, users: [ { user: small, password: pw } ] }
  EMPTY { jetstream: enabled, users: [ { user: empty, password: pw } ] }
  NOJS { users: [ { user: nojs, password: pw } ] }
  SYS { users: [ { user: sys, password: pw } ] }
}
system_account: SYS
max_payload: 1048576
"""
WHOLE = {"storage": "file", "allow_batched": True, "duplicate_window": 120_000_000_000}
HEALTHY = {"inbox": WARNING, "replicas": WARNING, "publish": SKIPPED}
"""What is not ok on a single server with the default inbox prefix."""

names = (f"D{number}" for number in itertools.count(1))


@pytest.fixture(scope="module")
def server() -> Iterator[devstack.NatsServer]:
    with devstack.nats_server(CONFIG) as running:
        yield running


async def ask(server: devstack.NatsServer, verb: str, body: Any, user: str = "relay") -> Any:
    client = await nats.connect(server.url, user=user, password="pw", allow_reconnect=False)
    answer = await client.request(f"$JS.API.{verb}", json.dumps(body).encode(), timeout=5)
    await client.close()
    read = json.loads(answer.data)
    assert "error" not in read, read
    return read


async def make(server: devstack.NatsServer, user: str = "relay", **config: object) -> str:
    """Make a stream of its own name and subjects, whole but for ``config``."""
    name = next(names)
    subjects = [f"{name}.>"] if "mirror" not in config else []
    whole = WHOLE | {"name": name, "subjects": subjects} | config
    await ask(
        server, f"STREAM.CREATE.{name}", {k: v for k, v in whole.items() if v is not None}, user
    )
    return name


def login(server: devstack.NatsServer, user: str = "relay", **more: object) -> dict[str, object]:
    return {"nats_url": server.url, "nats_user": user, "nats_password": "pw"} | more


async def test_a_healthy_server_has_no_fault(server: devstack.NatsServer) -> None:
    stream = await make(server)
    found = await examine_nats(**login(server, stream=stream), subjects=[f"{stream}.a"])
    assert states(found, WARNING, FAULT, SKIPPED) == HEALTHY, shown(found)
    (path,) = (each.seen for each in found if each.check == "path")
    assert path == f"stream {stream}: fast ingest"


@pytest.mark.parametrize(
    ("given", "check", "state", "seen", "remedy"),
    [
        ({"nats_url": "nats://127.0.0.1:1"}, "nats", FAULT, "refused", "start nats-server there"),
        ({"nats_password": "no"}, "nats-login", FAULT, "Authorization Violation", "mend the login"),
        (
            {"nats_user": None, "nats_password": None},
            "nats-login",
            FAULT,
            "Authorization Violation",
            "RELAY_NATS_CREDS",
        ),
        ({"nats_user": "deaf"}, "inbox", FAULT, "may not subscribe", 'allow subscribe: "_INBOX.>"'),
        (
            {"nats_user": "blind"},
            "jetstream",
            WARNING,
            "API.INFO",
            r'allow publish: "\$JS.API.INFO"',
        ),
        ({"nats_user": "nojs"}, "jetstream", FAULT, "", "jetstream {} in the server's"),
        (
            {"nats_js_domain": "hub"},
            "jetstream",
            FAULT,
            "nobody answers",
            r"RELAY_NATS_JS_DOMAIN \(hub\)",
        ),
        (
            {"nats_user": "lost"},
            "stream",
            FAULT,
            "STREAM.LIST",
            "STREAM.LIST.* or set RELAY_STREAM",
        ),
        ({"nats_user": "empty"}, "stream", FAULT, "account has no stream", "create one, or set"),
        (
            {"stream": "NONE"},
            "stream",
            FAULT,
            "no stream NONE",
            "create it, or set RELAY_STREAM_CREATE",
        ),
        (
            {"stream": "NONE", "stream_subjects": ("a.>",), "stream_create": True},
            "stream",
            WARNING,
            "no stream NONE yet",
            "RELAY_STREAM_CREATE makes it",
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
async def test_what_is_wrong_with_server_login_or_account_is_named(
    server: devstack.NatsServer,
    *,
    given: dict[str, object],
    check: str,
    state: State,
    seen: str,
    remedy: str,
) -> None:
    await make(server)
    settings = {name: value for name, value in login(server, **given).items() if value is not None}
    found = await examine_nats(**settings)
    expect(found, check, state, seen, remedy)


@pytest.mark.parametrize(
    ("config", "check", "state", "seen", "remedy"),
    [
        ({"no_ack": True}, "stream", FAULT, "has no_ack", "Set no_ack to false"),
        ({"sealed": True}, "accepts", FAULT, "it is sealed", "publish to another stream"),
        ({"allow_msg_counter": True}, "accepts", FAULT, "it counts", "publish to another stream"),
        ({"storage": "memory"}, "storage", WARNING, "memory storage", "with file storage"),
        ({}, "replicas", WARNING, "one replica", "set num_replicas to 3"),
        (
            {"max_msgs": 5},
            "limits",
            WARNING,
            r"delete old messages \(max_msgs 5\)",
            "discard to new",
        ),
        ({"max_age": 10**12}, "limits", WARNING, "max_age", "consumers are done by then"),
        (
            {"duplicate_window": 10**9},
            "window",
            WARNING,
            "a duplicate window of 1 s",
            "set duplicate_window to 2 minutes or more",
        ),
        (
            {"max_msgs_per_subject": 1},
            "window",
            WARNING,
            "after a server's restart a repeat may be stored again",
            "have consumers expect repeats",
        ),
        (
            {"retention": "interest"},
            "consumers",
            WARNING,
            "without a consumer",
            "make the consumers",
        ),
        (
            {"retention": "workqueue"},
            "consumers",
            WARNING,
            "without a consumer",
            "make its consumer",
        ),
        ({"allow_batched": False}, "path", OK, "windowed, for allow_batched is off", ""),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
async def test_what_a_stream_puts_at_risk_is_named(
    server: devstack.NatsServer,
    *,
    config: dict[str, object],
    check: str,
    state: State,
    seen: str,
    remedy: str,
) -> None:
    sealed = config.pop("sealed", False)
    if config.get("allow_msg_counter"):
        config["allow_batched"] = None
    stream = await make(server, **config)
    if sealed:
        info = await ask(server, f"STREAM.INFO.{stream}", {})
        await ask(server, f"STREAM.UPDATE.{stream}", info["config"] | {"sealed": True})
    found = await examine_nats(**login(server, stream=stream))
    expect(found, check, state, seen, remedy)


async def test_a_mirror_is_named(server: devstack.NatsServer) -> None:
    stream = await make(
        server, mirror={"name": await make(server)}, subjects=None, allow_batched=None
    )
    found = await examine_nats(**login(server, stream=stream))
    expect(found, "stream", FAULT, "is a mirror and takes no message", "name its origin")


async def test_a_stream_that_lacks_a_subject_is_named(server: devstack.NatsServer) -> None:
    stream = await make(server)
    found = await examine_nats(**login(server, stream=stream, stream_subjects=("pay.>",)))
    expect(found, "stream", FAULT, "but not pay.>", "add them to the stream")


async def test_a_full_stream_is_named(server: devstack.NatsServer) -> None:
    stream = await make(server, max_msgs=1, discard="new")
    client = await nats.connect(server.url, user="relay", password="pw")
    await client.jetstream().publish(f"{stream}.a", b"")
    await client.close()
    found = await examine_nats(**login(server, stream=stream))
    expect(found, "accepts", FAULT, "holds 1 of 1 messages", "raise max_msgs")


async def test_an_account_that_is_full_is_named(server: devstack.NatsServer) -> None:
    stream = await make(server, "small", discard="new", max_bytes=4096)
    found = await examine_nats(**login(server, "small", stream=stream))
    assert states(found, FAULT) == {}, shown(found)
    client = await nats.connect(server.url, user="small", password="pw")
    await client.jetstream().publish(f"{stream}.a", b"x" * 3800)
    await client.close()
    found = await examine_nats(**login(server, "small", stream=stream))
    expect(found, "account", WARNING, "bytes of storage", "raise max_storage")


async def test_a_window_shorter_than_the_longest_retry_is_named(
    server: devstack.NatsServer,
) -> None:
    stream = await make(server)
    found = await examine_nats(**login(server, stream=stream, max_retry_delay=600.0))
    expect(found, "window", WARNING, "forgets message ids after 120 s", "duplicate_window to 10min")


async def test_a_subject_that_no_stream_captures_is_named(server: devstack.NatsServer) -> None:
    stream = await make(server)
    subjects = [f"{stream}.a", "nobody.takes.this"]
    found = await examine_nats(**login(server), subjects=subjects)
    expect(found, "captured", FAULT, "no stream captures nobody.takes.this", "create one")


async def test_a_subject_of_another_stream_is_named(server: devstack.NatsServer) -> None:
    stream, other = await make(server), await make(server)
    found = await examine_nats(**login(server, stream=stream), subjects=[f"{other}.a"])
    expect(found, "captured", FAULT, f"stream {other} captures {other}.a, and RELAY_STREAM", "")


async def test_one_server_of_several_that_is_away_is_a_warning(server: devstack.NatsServer) -> None:
    stream = await make(server)
    urls = ("nats://127.0.0.1:1", server.url)
    found = await examine_nats(**login(server, stream=stream, nats_url=urls))
    expect(found, "nats", WARNING, "127.0.0.1:1: Connection refused", "start nats-server there")


async def test_what_is_no_nats_server_is_named() -> None:
    async def greet(client: anyio.abc.SocketStream) -> None:
        await client.send(b"220 mail.example ESMTP\r\n")
        await client.aclose()

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, greet)
        found = await examine_nats(nats_url=f"nats://127.0.0.1:{port}")
        tasks.cancel_scope.cancel()
    expect(found, "nats", FAULT, str(port), "nats-server runs at this address")


async def test_a_file_of_credentials_that_holds_none_is_named(
    server: devstack.NatsServer, tmp_path: Path
) -> None:
    (tmp_path / "a.creds").write_text("nothing")
    found = await examine_nats(nats_url=server.url, nats_creds=tmp_path / "a.creds")
    expect(found, "nats-login", FAULT, "holds no user JWT", "RELAY_NATS_CREDS")


async def test_a_small_max_payload_is_named() -> None:
    with devstack.nats_server("max_payload: 65536") as small:
        found = await examine_nats(
            nats_url=small.url, stream="S", stream_create=True, stream_subjects=("s.>",)
        )
    expect(found, "nats-version", WARNING, "max_payload is 65536 bytes", "set max_payload: 2097152")


async def test_tls_that_is_not_as_asked_is_named(
    server: devstack.NatsServer,
    certificates: Certificates,  # noqa: F811
) -> None:
    asked = {"nats_url": server.url.replace("nats:", "tls:"), "nats_tls_ca": certificates.ca}
    found = await examine_nats(**asked)
    expect(found, "nats-tls", FAULT, "TLS was asked for", "RELAY_NATS_URL")
    with devstack.nats_server(certificates.server_config()) as encrypted:
        url = encrypted.url.replace("nats:", "tls:")
        found = await examine_nats(nats_url=url, nats_tls_ca=certificates.other_ca)
        expect(found, "nats-tls", FAULT, "certificate verify failed", "RELAY_NATS_TLS_CA")
        found = await examine_nats(
            nats_url=url,
            nats_tls_ca=certificates.ca,
            stream="S",
            stream_create=True,
            stream_subjects=("s.>",),
        )
        assert states(found, FAULT) == {}, shown(found)


async def test_publishing_is_tried_and_nothing_is_stored(server: devstack.NatsServer) -> None:
    stream = await make(server, subjects=[f"ok.{next(names)}.*"])
    found = await examine_nats(**login(server, stream=stream), try_publish=True)
    assert states(found, FAULT) == {}, shown(found)
    (tried,) = (each for each in found if each.check == "publish")
    assert tried.state is OK
    assert "may publish to ok." in tried.seen
    assert (await ask(server, f"STREAM.INFO.{stream}", {}))["state"]["last_seq"] == 0
    found = await examine_nats(**login(server, "mute", stream=stream), try_publish=True)
    expect(found, "publish", FAULT, "(?i)permissions violation", 'allow publish: "ok.')


async def test_an_inbox_of_its_own_is_no_warning(server: devstack.NatsServer) -> None:
    stream = await make(server)
    prefix = {"nats_inbox_prefix": "_INBOX_relay"}
    found = await examine_nats(**login(server, stream=stream, **prefix))
    assert "inbox" not in states(found, WARNING, FAULT)
    found = await examine_nats(**login(server, stream=stream))
    expect(found, "inbox", WARNING, "below _INBOX", 'publish: { deny: "_INBOX_relay.>" }')


def test_clocks_that_differ_are_named() -> None:
    assert clocks_apart("Postgres", 0.9).state is OK
    ahead, behind = clocks_apart("Postgres", 90), clocks_apart("Postgres", -90)
    assert ahead.state is behind.state is WARNING
    assert ahead.seen == "the clock of Postgres is 1min 30s ahead of this host's"
    assert "behind" in behind.seen


@pytest.mark.slow
async def test_a_server_that_accepts_and_says_nothing_is_one_fault() -> None:
    """R-BOUND."""
    with silent_host() as port:
        found = await examine_nats(nats_url=f"nats://127.0.0.1:{port}")
    expect(found, "nats", FAULT, "no connection within", "frozen")
    assert len(states(found, SKIPPED)) > 10
