"""What needs a Postgres of its own: a standby, a full queue, a server that freezes."""

import os
import signal
from collections.abc import Iterator

import anyio
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from relay import devstack
from relay.doctor import Finding, connecting, outbox
from relay.postgres import migrations
from tests.devstack.standby import standby
from tests.doctor.examining import (
    FAULT,
    OK,
    SKIPPED,
    WARNING,
    examine_postgres,
    expect,
    shown,
    states,
)
from tests.jetstream.credentials import Certificates
from tests.postgres.tls import encrypt

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

SETTINGS = {
    "fsync": "off",
    "max_prepared_transactions": "2",
    "autovacuum": "off",
    "max_notify_queue_pages": "64",
}


@pytest.fixture(scope="module")
def server() -> Iterator[devstack.Postgres]:
    newest = max(devstack.find_postgres(), key=lambda each: each.major)
    with devstack.postgres(newest, settings=SETTINGS) as running:
        anyio.run(migrations.migrate, running.dsn, "relay")
        yield running


async def test_a_standby_is_named_with_its_primary(server: devstack.Postgres) -> None:
    with standby(server, settings=SETTINGS) as following:
        found = await examine_postgres(postgres_dsn=following.dsn)
    seen = rf"is a standby of 127\.0\.0\.1:{server.port}, and takes no writes"
    expect(found, "primary", FAULT, seen, "name the primary, or all hosts")


async def test_a_prepared_transaction_is_named(
    server: devstack.Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "OLD", 0.0)
    with psycopg.connect(server.dsn, autocommit=True) as person:
        person.execute("begin; select pg_current_xact_id(); prepare transaction 'it''s'")
        found = await examine_postgres(postgres_dsn=server.dsn)
        person.execute("rollback prepared 'it''s'")
    expect(
        found, "transactions", WARNING, "'it''s' of postgres is open", "rollback prepared 'it''s'"
    )


async def test_an_autovacuum_that_is_off_is_named(server: devstack.Postgres) -> None:
    found = await examine_postgres(postgres_dsn=server.dsn)
    remedy = "alter system set autovacuum = on; select pg_reload_conf"
    expect(found, "vacuum", WARNING, "autovacuum is off: the outbox grows", remedy)


async def test_dead_rows_that_nobody_clears_are_named(
    server: devstack.Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "MANY_DEAD_ROWS", 5)
    with psycopg.connect(server.dsn, autocommit=True) as person:
        person.execute("select relay.emit('a.b', '1') from generate_series(1, 10)")
        person.execute("delete from relay.outbox")
        person.execute("select pg_stat_force_next_flush()")
        found = await examine_postgres(postgres_dsn=server.dsn)
    expect(found, "vacuum", WARNING, "relay.outbox has 1[0-9] dead rows", "vacuum relay.outbox")


async def test_a_full_queue_is_named(server: devstack.Postgres) -> None:
    with (
        psycopg.connect(server.dsn) as listener,
        psycopg.connect(server.dsn, autocommit=True) as person,
    ):
        listener.execute("listen other")
        listener.commit()
        listener.execute("select 1")
        usage = "select pg_notification_queue_usage() < 0.6"
        while person.execute(usage).fetchone() == (True,):
            person.execute(
                "select pg_notify('other', i || repeat('x', 7900)) from generate_series(1, 10) as i"
            )
        found = await examine_postgres(postgres_dsn=server.dsn)
        listener.rollback()
    expect(found, "queue", WARNING, "writers do not ring", "end the oldest transaction")


async def test_a_synchronous_standby_that_is_away_is_named_and_not_waited_for(
    server: devstack.Postgres,
) -> None:
    with psycopg.connect(server.dsn, autocommit=True) as person:
        person.execute("alter system set synchronous_standby_names = 'nobody'")
        person.execute("select pg_reload_conf()")
        try:
            found = await examine_postgres(postgres_dsn=server.dsn)
        finally:
            person.execute("set synchronous_commit = off")
            person.execute("alter system reset synchronous_standby_names")
            person.execute("select pg_reload_conf()")
    expect(found, "notify", WARNING, "takes more than 50ms", "synchronous standby that is away")


async def test_a_server_that_freezes_in_the_middle_is_one_fault(
    server: devstack.Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R-BOUND."""
    reasons = outbox.reasons

    async def frozen(session: object, schema: str) -> object:
        os.kill(session.connection.info.backend_pid, signal.SIGSTOP)
        return await reasons(session, schema)

    monkeypatch.setattr(outbox, "reasons", frozen)
    pids: list[int] = []
    kill = os.kill

    def noted(pid: int, number: int) -> None:
        pids.append(pid)
        kill(pid, number)

    monkeypatch.setattr(os, "kill", noted)
    try:
        found = await examine_postgres(postgres_dsn=server.dsn)
    finally:
        for pid in pids:
            kill(pid, signal.SIGCONT)
    expect(found, "parked", FAULT, "no answer within 3.0 s", "frozen, overloaded")
    later = ["dead", "transactions", "vacuum", "cluster", "subjects"]
    assert list(states(found, SKIPPED)) == later, shown(found)


async def test_tls_that_is_not_as_asked_is_named(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    oldest = min(devstack.find_postgres(), key=lambda each: each.major)  # a build with TLS
    monkeypatch.setattr(connecting, "is_loopback", lambda _host: False)
    with devstack.postgres(oldest) as server:
        encrypt(server, certificates)

        async def tls(**how: str) -> list[Finding]:
            return await examine_postgres(postgres_dsn=make_conninfo(server.dsn, **how))

        with anyio.fail_after(10):
            while "nobody checks who answers" not in shown(await tls(sslmode="require")):
                await anyio.sleep(0.05)
        found = await tls(sslmode="verify-full", sslrootcert=certificates.ca)
        assert ("tls", OK) in {(each.check, each.state) for each in found}, shown(found)
        found = await tls(sslmode="verify-full", sslrootcert=certificates.other_ca)
        expect(found, "tls", FAULT, "certificate verify failed", "sslrootcert")
