"""What is refused at the first try, and which secrets others can read."""

import shutil
import socket

import nkeys
import pytest

from relay import devstack
from relay.errors import BusLoginRefused, BusOutage, SettingsError
from relay.jetstream import BusOptions, servers
from tests.jetstream.credentials import make_nkey, make_operator

pytestmark = pytest.mark.anyio


def unused_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


async def test_what_a_person_has_to_change_is_told_from_an_outage(open_bus, certificates):
    config = certificates.server_config(f'ca_file: "{certificates.ca}", verify: true')
    tls = {"tls_ca": certificates.ca}
    with devstack.nats_server(certificates.server_config()) as server:
        for how in ({"tls_ca": certificates.other_ca}, {}):
            async with open_bus(server.url, **how) as bus:
                with pytest.raises(BusLoginRefused, match="certificate verify failed"):
                    await bus.connect()
    with devstack.nats_server() as server:
        for url in (server.url, server.url.replace("nats://", "tls://")):
            async with open_bus(url, **tls) as bus:
                with pytest.raises(BusLoginRefused, match="TLS was asked for"):
                    await bus.connect()
    with devstack.nats_server(config) as server:
        async with open_bus(server.url, **tls) as bus:
            with pytest.raises(BusOutage, match=str(server.port)):
                await bus.connect()
    async with open_bus(f"tls://127.0.0.1:{unused_port()}", **tls) as bus:
        with pytest.raises(BusOutage) as outage:
            await bus.connect()
        assert not isinstance(outage.value, BusLoginRefused)


@pytest.mark.parametrize(
    ("how", "user", "warned"),
    [
        ({"password": "pw"}, "", True),
        ({"token": "t"}, "", True),
        ({}, "ann:pw@", True),
        ({}, "", False),
        ({"user": "ann"}, "", False),
    ],
)
@pytest.mark.parametrize("host", ["192.0.2.7", "nats.example", "127.0.0.1", "localhost", "[::1]"])
@pytest.mark.parametrize("encrypted", [True, False])
def test_a_password_in_the_clear_is_warned_of_once_but_not_on_loopback(
    how, user, warned, *, host, encrypted, caplog, monkeypatch
):
    monkeypatch.setattr(servers, "_warned", set())
    url = f"nats://{user}{host}:4222"
    for _ in range(2):
        servers.warn_of_plaintext(BusOptions(**how), url, encrypted=encrypted)
    here = host in {"127.0.0.1", "localhost", "[::1]"}
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == (warned and not here and not encrypted)
    assert all("in the clear" in each for each in told)
    assert "pw" not in caplog.text


async def test_secret_files_that_everybody_may_read_are_warned_of_once_each(
    open_bus, certificates, tmp_path, caplog
):
    world = make_operator()
    seed, public = make_nkey(nkeys.PREFIX_BYTE_USER, b"u")
    creds, nkey, key = tmp_path / "my.creds", tmp_path / "my.nk", tmp_path / "my.key"
    creds.write_text(world["creds"])
    nkey.write_text(seed)
    shutil.copy(certificates.client_key, key)
    cert = {"tls_ca": certificates.ca, "tls_cert": certificates.client_cert, "tls_key": str(key)}
    config = f"authorization {{ users: [ {{ nkey: {public} }} ] }}"
    for mode in (0o600, 0o640, 0o644):
        for path in (creds, nkey, key):
            path.chmod(mode)
        with devstack.nats_server(world["config"]) as server:
            async with open_bus(server.url, creds=str(creds)) as bus:
                await bus.connect()
                await bus.close()
                await bus.connect()
        with devstack.nats_server(config) as server:
            async with open_bus(server.url, nkey_seed=str(nkey)) as bus:
                await bus.connect()
        with devstack.nats_server(certificates.server_config()) as server:
            async with open_bus(server.url, **cert) as bus:
                await bus.connect()
        told = [each.getMessage() for each in caplog.records if "may read" in each.getMessage()]
        assert len(told) == (3 if mode & 0o004 else 0)


@pytest.mark.parametrize("option", ["token", "password", "nkey_seed"])
async def test_a_secret_that_is_changed_while_we_run_is_read_anew_from_its_file(
    open_bus, tmp_path, option
):
    file = tmp_path / "secret"
    seeds = [make_nkey(nkeys.PREFIX_BYTE_USER, letter) for letter in (b"u", b"v")]
    if option == "nkey_seed":
        secrets = [seed for seed, _ in seeds]
        rules = [f"authorization {{ users: [ {{ nkey: {public} }} ] }}" for _, public in seeds]
    else:
        secrets = ["first s3cret", "second s3cret"]
        who = 'user: "ann", ' if option == "password" else ""
        rules = [f'authorization {{ {who}{option}: "{secret}" }}' for secret in secrets]
    user = {"user": "ann"} if option == "password" else {}
    file.write_text(secrets[0])
    with devstack.nats_server(rules[0]) as server:
        files = ((option, str(file)),)
        async with open_bus(server.url, secret_files=files, **user) as bus:
            await bus.connect()
            server.stop()
            server._config.write_text(rules[1])
            server.start()
            await bus.close()
            with pytest.raises(BusLoginRefused, match="Authorization Violation"):
                await bus.connect()
            file.write_text(f"{secrets[1]}\n")
            await bus.connect()
            await bus.close()
            file.unlink()
            with pytest.raises(SettingsError, match=f"nats {option}: {file}: No such file") as gone:
                await bus.connect()
            assert "s3cret" not in str(gone.value)


async def test_a_certificate_that_has_expired_is_refused_by_either_side(open_bus, certificates):
    certificates.make_leaf("expired", "subjectAltName=IP:127.0.0.1", days="-1")
    old = {"leaf": "expired"}
    with devstack.nats_server(certificates.server_config(**old)) as server:
        async with open_bus(server.url, tls_ca=certificates.ca) as bus:
            with pytest.raises(BusLoginRefused, match="certificate has expired"):
                await bus.connect()
    verify = f'ca_file: "{certificates.ca}", verify: true'
    with devstack.nats_server(certificates.server_config(verify)) as server:
        mine = {"tls_cert": str(certificates.folder / "expired.pem")}
        mine["tls_key"] = str(certificates.folder / "expired.key")
        async with open_bus(server.url, tls_ca=certificates.ca, **mine) as bus:
            with pytest.raises(BusOutage):
                await bus.connect()
