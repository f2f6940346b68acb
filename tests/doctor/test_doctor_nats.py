"""What is wrong with servers, login or account is named by the right check, with its remedy."""

import dataclasses
import os
import signal
from pathlib import Path

import anyio
import anyio.abc
import nats
import pytest

import relay.doctor.nats
from relay import devstack
from relay.doctor import SIDES, State
from relay.doctor.postgres import clocks_apart
from relay.doctor.streams import Publishing
from tests.doctor.broker import login, make
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
from tests.jetstream.credentials import Certificates
from tests.postgres.test_connecting import silent_host

pytestmark = pytest.mark.anyio


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
            SKIPPED,
            "no stream NONE yet",
            "RELAY_STREAM_CREATE makes it",
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
async def test_what_is_wrong_with_server_login_or_account_is_named(
    accounts: devstack.NatsServer,
    *,
    given: dict[str, object],
    check: str,
    state: State,
    seen: str,
    remedy: str,
) -> None:
    await make(accounts)
    settings = {
        name: value for name, value in login(accounts, **given).items() if value is not None
    }
    found = await examine_nats(**settings)
    expect(found, check, state, seen, remedy)


async def test_an_account_that_is_full_is_named(accounts: devstack.NatsServer) -> None:
    stream = await make(accounts, "small", discard="new", max_bytes=4096)
    found = await examine_nats(**login(accounts, "small", stream=stream))
    assert states(found, FAULT) == {}, shown(found)
    client = await nats.connect(accounts.url, user="small", password="pw")
    await client.jetstream().publish(f"{stream}.a", b"x" * 3800)
    await client.close()
    found = await examine_nats(**login(accounts, "small", stream=stream))
    expect(found, "account", WARNING, "bytes of storage", "raise max_storage")


async def test_one_server_of_several_that_is_away_is_a_warning(
    accounts: devstack.NatsServer,
) -> None:
    stream = await make(accounts)
    urls = ("nats://127.0.0.1:1", accounts.url)
    found = await examine_nats(**login(accounts, stream=stream, nats_url=urls))
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
    accounts: devstack.NatsServer, tmp_path: Path
) -> None:
    (tmp_path / "a.creds").write_text("nothing")
    found = await examine_nats(nats_url=accounts.url, nats_creds=tmp_path / "a.creds")
    expect(found, "nats-login", FAULT, "holds no user JWT", "RELAY_NATS_CREDS")


async def test_a_small_max_payload_is_named() -> None:
    with devstack.nats_server("max_payload: 65536") as small:
        found = await examine_nats(
            nats_url=small.url, stream="S", stream_create=True, stream_subjects=("s.>",)
        )
    expect(found, "nats-version", WARNING, "max_payload is 65536 bytes", "set max_payload: 2097152")


async def test_tls_that_is_not_as_asked_is_named(
    accounts: devstack.NatsServer,
    certificates: Certificates,
) -> None:
    asked = {"nats_url": accounts.url.replace("nats:", "tls:"), "nats_tls_ca": certificates.ca}
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


async def test_what_is_sent_in_the_clear_is_named(
    accounts: devstack.NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay.doctor.nats, "is_loopback", lambda _host: False)
    found = await examine_nats(**login(accounts, stream=await make(accounts)))
    expect(found, "nats-tls", WARNING, "what is sent to 127.0.0.1 is not encrypted", "tls://")


async def test_an_inbox_of_its_own_is_no_warning(accounts: devstack.NatsServer) -> None:
    stream = await make(accounts)
    prefix = {"nats_inbox_prefix": "_INBOX_relay"}
    found = await examine_nats(**login(accounts, stream=stream, **prefix))
    assert "inbox" not in states(found, WARNING, FAULT)
    found = await examine_nats(**login(accounts, stream=stream))
    expect(found, "inbox", WARNING, "below _INBOX", 'publish: { deny: "_INBOX_relay.>" }')


def test_clocks_that_differ_are_named() -> None:
    assert clocks_apart("Postgres", 0.9).state is OK
    ahead, behind = clocks_apart("Postgres", 90), clocks_apart("Postgres", -90)
    assert ahead.state is behind.state is WARNING
    assert ahead.seen == "the clock of Postgres is 1min 30s ahead of this host's"
    assert "behind" in behind.seen


@pytest.mark.slow
async def test_a_server_that_freezes_in_the_middle_is_one_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """R-BOUND."""
    with devstack.nats_server() as frozen:
        tls = Publishing._tls

        async def freeze(broker: Publishing) -> object:
            os.kill(frozen.pid, signal.SIGSTOP)
            # The signal is sent, not taken: wait until all its threads stand still.
            await anyio.to_thread.run_sync(os.waitpid, frozen.pid, os.WUNTRACED)
            return await tls(broker)

        at = next(n for n, each in enumerate(SIDES["nats"]) if each.name == "nats-tls")
        checks = list(SIDES["nats"])
        checks[at] = dataclasses.replace(checks[at], run=freeze)
        monkeypatch.setitem(SIDES, "nats", checks)
        try:
            found = await examine_nats(nats_url=frozen.url)
        finally:
            os.kill(frozen.pid, signal.SIGCONT)
    expect(found, "jetstream", FAULT, "no answer to", "frozen")


@pytest.mark.slow
async def test_a_server_that_accepts_and_says_nothing_is_one_fault() -> None:
    """R-BOUND."""
    with silent_host() as port:
        found = await examine_nats(nats_url=f"nats://127.0.0.1:{port}")
    expect(found, "nats", FAULT, "no connection within", "frozen")
    assert len(states(found, SKIPPED)) > 10
