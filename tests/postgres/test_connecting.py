"""Connecting: what is refused, and that no session is left half-open."""

import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import anyio
import anyio.abc
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from relay import devstack
from relay.errors import StoreLoginRefused, StoreOutage
from relay.postgres import connecting
from relay.postgres.connecting import open_connection
from relay.postgres.outbox import PostgresOutbox
from relay.postgres.session import Connection, Session
from tests.postgres.deaf_proxy import in_front

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]


@asynccontextmanager
async def pooler_in_front(
    dsn: str, *, refuse: bytes = b"", own_pid: bool = False
) -> AsyncIterator[str]:
    """A server that refuses what we send, or passes it on under a process id of its own."""
    server = conninfo_to_dict(dsn)

    async def serve(client: anyio.abc.SocketStream) -> None:
        async with client:
            if refuse:
                await client.receive()
                body = b"SFATAL\0VFATAL\0C08P01\0M" + refuse + b"\0\0"
                await client.send(b"E" + (len(body) + 4).to_bytes(4) + body)
                return
            host, port = str(server["host"]), int(str(server["port"]))
            async with (
                await anyio.connect_tcp(host, port) as upstream,
                anyio.create_task_group() as tasks,
            ):
                tasks.start_soon(copy, client, upstream, tasks.cancel_scope)
                tasks.start_soon(copy, upstream, client, tasks.cancel_scope)

    async def copy(
        source: anyio.abc.ByteStream, target: anyio.abc.ByteStream, both: anyio.CancelScope
    ) -> None:
        with suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            while True:
                data = await source.receive()
                at = data.find(b"K\0\0\0\x0c")
                if own_pid and at >= 0:  # BackendKeyData, right behind the login
                    data = data[: at + 5] + b"\0\1\2\3" + data[at + 9 :]
                await target.send(data)
        both.cancel()

    async with in_front(dsn, serve) as through:
        yield through


@pytest.mark.parametrize(
    "pooler",
    [
        {"refuse": b"unsupported startup parameter: options"},
        {"refuse": b"unsupported startup parameter in options: search_path"},
        {"own_pid": True},
    ],
    ids=str,
)
async def test_a_pooler_is_refused_at_the_first_try_and_in_one_line(
    outbox_dsn: str, pooler: dict[str, Any]
) -> None:
    async with pooler_in_front(outbox_dsn, **pooler) as dsn:
        outbox = PostgresOutbox(dsn, "relay", page_bytes=1024)
        with pytest.raises(StoreLoginRefused, match=r"pooler.*name Postgres itself") as refused:
            await outbox.campaign("tester")
        assert "\n" not in str(refused.value)
        await outbox.close()


@pytest.mark.parametrize(
    "change",
    [
        {"sslmode": "require"},
        {"sslmode": "verify-full", "sslrootcert": "/dev/null/nowhere"},
        {"service": "nobody_made_it"},
        {"channel_binding": "require"},
    ],
    ids=str,
)
async def test_what_a_person_has_to_change_is_no_outage(
    outbox_dsn: str, change: dict[str, str]
) -> None:
    with pytest.raises(StoreLoginRefused):
        await Session.connect(make_conninfo(outbox_dsn, **change), "tester")


@contextmanager
def silent_host() -> Iterator[int]:
    """A host that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


@pytest.mark.parametrize("hosts", [1, 6])
async def test_connecting_to_silent_hosts_is_left_at_once(outbox_dsn: str, hosts: int) -> None:
    with silent_host() as port:
        several = {"host": ",".join(["127.0.0.1"] * hosts), "port": ",".join([str(port)] * hosts)}
        outbox = PostgresOutbox(make_conninfo(outbox_dsn, **several), "relay", page_bytes=1024)
        began = time.monotonic()
        with anyio.move_on_after(0.3):
            await outbox.campaign("tester")
        await outbox.close()
        assert time.monotonic() - began < connecting.CONNECT_DEADLINE
        for task in set(connecting._under_way):  # as the end of the process does
            task.cancel()


async def test_a_connect_that_nobody_waits_for_finishes_and_is_closed(
    outbox_dsn: str, admin: psycopg.Connection
) -> None:
    for pause in (0.0, 0.001, 0.002, 0.003, 0.005, 0.01):
        for _ in range(5):
            with anyio.move_on_after(pause):
                connection = await open_connection(outbox_dsn, "left alone", {}, Connection)
                await connection.close()
    with anyio.fail_after(10):
        while connecting._under_way:
            await anyio.sleep(0.02)
        while True:
            row = admin.execute(
                "select count(*) from pg_stat_activity where datname = current_database()"
                " and pid <> pg_backend_pid()"
            ).fetchone()
            if row == (0,):
                break
            await anyio.sleep(0.02)


async def test_a_statement_whose_task_is_cancelled_leaves_no_error_in_the_server_s_log(
    outbox_dsn: str, postgres_server: devstack.Postgres
) -> None:
    began = postgres_server.log_path.stat().st_size
    session = await Session.connect(outbox_dsn, "sleeper")
    started = time.monotonic()
    with anyio.move_on_after(0.2):
        await session.rows(psycopg.sql.SQL("select pg_sleep(60)").format())
    assert time.monotonic() - started < 10
    assert session.connection.closed
    said = postgres_server.log_path.read_bytes()[began:].decode()
    assert "ERROR" not in said


async def test_an_immediate_stop_of_postgres_is_not_held_up(
    postgres_server: devstack.Postgres,
) -> None:
    """Relays that come and go, and are cut off in the middle of connecting, while it stops."""
    with devstack.postgres(postgres_server.installation, settings={"fsync": "off"}) as server:
        dsn = server.create_database("stopped")
        ended = False

        async def come_and_go() -> None:
            while not ended:
                with anyio.move_on_after(0.004):
                    try:
                        connection = await open_connection(dsn, "comes", {}, Connection)
                        await connection.close()
                    except (psycopg.Error, StoreOutage):
                        await anyio.sleep(0.001)

        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(come_and_go)
            await anyio.sleep(0.5)
            began = time.monotonic()
            await anyio.to_thread.run_sync(server.stop, "immediate")
            assert time.monotonic() - began < 5  # then Postgres kills its processes
            ended = True
        while connecting._under_way:
            await anyio.sleep(0.02)
