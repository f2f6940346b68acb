"""TLS to Postgres: who is let in under verify-full, and that nothing falls back to plain text."""

from collections.abc import Iterator

import anyio
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from relay import devstack
from relay.errors import StoreLoginRefused
from relay.postgres.session import Session
from tests.jetstream.conftest import certificates  # noqa: F401 - a fixture
from tests.jetstream.credentials import Certificates
from tests.postgres.databases import rules_before
from tests.postgres.tls import encrypt

pytestmark = pytest.mark.anyio

MUST = "hostssl all client 127.0.0.1/32 cert\nhostssl all strict 127.0.0.1/32 cert\n"


@pytest.fixture
def server() -> Iterator[devstack.Postgres]:
    """A build with TLS: Debian's, which is the oldest here."""
    with devstack.postgres(min(devstack.find_postgres(), key=lambda each: each.major)) as running:
        yield running


async def test_verify_full_lets_in_only_where_everything_is_right(
    server: devstack.Postgres,
    certificates: Certificates,  # noqa: F811
) -> None:
    full = {"sslmode": "verify-full", "sslrootcert": certificates.ca}

    async def lets_in(**change: str) -> None:
        async with await Session.connect(
            make_conninfo(server.dsn, **full | change), "x"
        ) as session:
            assert session.connection.pgconn.ssl_in_use

    async def refused(said: str, **change: str) -> None:
        with pytest.raises(StoreLoginRefused, match=said):
            await Session.connect(make_conninfo(server.dsn, **full | change), "tester")

    async def until_refused(said: str) -> None:
        seen = ""
        until = anyio.current_time() + 10
        while said not in seen:
            assert anyio.current_time() < until, seen
            try:
                await lets_in()
            except StoreLoginRefused as error:
                seen = str(error)
            await anyio.sleep(0.02)

    await refused("does not support SSL")
    encrypt(server, certificates)
    with anyio.fail_after(10):
        while True:
            try:
                await lets_in()
                break
            except StoreLoginRefused:
                await anyio.sleep(0.02)
    await refused("does not match host name", host="elsewhere.example", hostaddr="127.0.0.1")
    await refused("certificate verify failed", sslrootcert=certificates.other_ca)
    await refused("root certificate", sslrootcert="/nowhere/ca.pem")

    with psycopg.connect(server.dsn, autocommit=True) as person:
        person.execute("create role client login")
        person.execute("create role strict login")
        with rules_before(person, MUST):
            mine = {"sslcert": certificates.client_cert, "sslkey": certificates.client_key}
            with anyio.fail_after(10):
                while True:
                    try:
                        await lets_in(**mine, user="client")
                        break
                    except StoreLoginRefused:
                        await anyio.sleep(0.02)
            await refused("valid client certificate", user="client", sslcert="/nowhere/my.pem")
            await refused("authentication failed for user", user="strict", **mine)

        certificates.make_leaf("past", "subjectAltName=IP:127.0.0.1", days="-1")
        encrypt(server, certificates, "past")
        await until_refused("certificate verify failed")  # libpq does not say that it has expired
        person.execute("alter system set ssl = off")
        person.execute("select pg_reload_conf()")
        await until_refused("does not support SSL")
