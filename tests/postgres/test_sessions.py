"""Sessions: no setting from outside changes what they mean, and none is left half-open."""

import socket
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import anyio
import anyio.abc
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from relay import devstack
from relay.core import disposition
from relay.core.disposition import Parking
from relay.errors import StoreLoginRefused, StoreOutage
from relay.ports import Report, Settlement, Wake
from relay.postgres import connecting
from relay.postgres.bell import PostgresBell
from relay.postgres.connecting import PINNED, open_connection
from relay.postgres.outbox import PostgresOutbox
from relay.postgres.session import Connection, Session

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

TEXTS = {
    "DateStyle": "German, DMY",
    "TimeZone": "Asia/Tokyo",
    "application_name": "odd",
    "client_encoding": "LATIN1",
    "createrole_self_grant": "inherit",
    "default_text_search_config": "pg_catalog.german",
    "local_preload_libraries": "nowhere",
    "restrict_nonsystem_relation_kind": "view, foreign-table",
    "search_path": "public",
    "timezone_abbreviations": "India",
    "wal_consistency_checking": "heap",
}
"""Odd values for settings that are texts; of the others, "odd" is tried."""

LEFT_OUT = {
    "session_preload_libraries": "a library that is not there lets nobody in, whoever asks",
    "allow_in_place_tablespaces": "for developers",
    "debug_discard_caches": "for developers; makes everything a hundred times slower",
    "zero_damaged_pages": "for people with a damaged disk",
}
GROUP = 16


def odd(row: tuple[Any, ...]) -> str:
    name, kind, now, least, most, words = row
    if kind == "bool":
        return "off" if now == "on" else "on"
    if kind == "enum":
        return next((word for word in reversed(words or []) if word != now), now)
    if kind in ("integer", "real"):
        if float(least) <= 0 and name.endswith(("timeout", "interval")):
            return "1"
        return least if now != least else most
    return TEXTS.get(name, "odd")


@pytest.fixture
def admin(outbox_dsn: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(outbox_dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def login(outbox_dsn: str, admin: psycopg.Connection) -> Iterator[str]:
    name = f"walker_{uuid.uuid4().hex[:8]}"
    admin.execute(f"create role {name} login in role relay_relay")
    yield name
    admin.execute(f"drop owned by {name}")
    admin.execute(f"drop role {name}")


@pytest.mark.parametrize("where", ["role", "database"])
async def test_no_setting_of_role_or_database_changes_what_the_relay_does(
    outbox_dsn: str, admin: psycopg.Connection, login: str, where: str
) -> None:
    settings = [
        row
        for row in admin.execute(
            "select name, vartype, setting, min_val, max_val, enumvals from pg_settings"
            " where context in ('user', 'superuser') order by name"
        ).fetchall()
        if row[0] not in LEFT_OUT
    ]
    target = f"role {login}" if where == "role" else f"database {admin.info.dbname}"
    dsn = make_conninfo(outbox_dsn, user=login)
    walked = 0
    for start in range(0, len(settings), GROUP):
        group = {row[0]: odd(row) for row in settings[start : start + GROUP]}
        for name, value in group.items():
            try:
                admin.execute(
                    psycopg.sql.SQL("alter {} set {} = {}").format(
                        psycopg.sql.SQL(target),
                        psycopg.sql.Identifier(name),
                        psycopg.sql.Literal(value),
                    )
                )
                walked += 1
            except psycopg.Error:  # nobody can set it so for a role
                continue
        try:
            await everything(dsn, admin)
        except BaseException as error:
            error.add_note(f"with {group}")
            raise
        finally:
            admin.execute(f"alter {target} reset all")
    assert walked > 150


async def everything(dsn: str, admin: psycopg.Connection) -> None:
    """Deliver, be refused, be tried again, look, keep house, ring."""
    admin.execute("delete from relay.parked")
    outbox = PostgresOutbox(dsn, "relay", page_bytes=1 << 20)
    store = None
    while store is None:
        store = await outbox.campaign(uuid.uuid4().hex)
    before = len((await store.read(100)).events)
    assert before == 0
    admin.execute(
        "insert into relay.outbox (subject, key, payload, headers, created_at)"
        """ select 'a.b', 'ключ\\', '{"é": "ü"}', '{"h": "ö"}', '2026-01-02 03:04:05.6+00'"""
        " from generate_series(1, 3)"
    )
    page = await store.read(100)
    for event in page.events:
        assert (event.key, event.payload) == ("ключ\\", '{"é": "ü"}'.encode())
        assert event.headers == {"h": "ö"}
        assert event.created_at.isoformat() == "2026-01-02T03:04:05.600000+00:00"
    first, *others = page.events
    no = Parking(first.id, first.event_id, 1, 0.0, error="nein, ü\\")
    await store.settle(Settlement(page.position, [no, *map(disposition.behind, others)]))
    assert await store.parked.blocked(["ключ\\", "NULL"]) == {"ключ\\"}
    due = await store.parked.due(10)
    assert [each.event for each in due] == list(page.events)
    await store.settle(Settlement(None, [Parking(first.id, first.event_id, 2, 0.0, error="no")]))
    assert (await store.look(None)).parked == 3
    await store.settle(Settlement(None, (), [event.event_id for event in page.events]))
    await store.report(Report("closed", "closed", 1, 1, {Wake.BELL: 1}))
    await store.keep_streams({"A": ["a.>", "NULL"]})
    assert set((await store.streams())["A"]) == {"a.>", "NULL"}
    assert await store.tend(0.0) == 3
    assert (await outbox.storage()).size_bytes > 0
    await store.renew()
    await ring(outbox, admin)
    assert len((await store.read(100)).events) == 1
    await store.close()
    await outbox.close()
    admin.execute("delete from relay.outbox")
    admin.execute("update relay.cursor set base = pg_current_snapshot()")


async def ring(outbox: PostgresOutbox, admin: psycopg.Connection) -> None:
    bell = PostgresBell(outbox)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bell.run)
        with anyio.fail_after(20):
            while await bell.arm() is None:
                await anyio.sleep(0.01)
        admin.execute("insert into relay.outbox (subject, payload) values ('a.b', '{}')")
        with anyio.fail_after(10):
            assert await bell.wait(60) is Wake.BELL
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
async def test_no_variable_of_the_environment_changes_what_the_relay_does(
    outbox_dsn: str,
    admin: psycopg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Any,
    encoding: str,
) -> None:
    monkeypatch.setenv("PGTZ", "Asia/Tokyo")
    monkeypatch.setenv("PGDATESTYLE", "German, DMY")
    monkeypatch.setenv("PGOPTIONS", "-c search_path=public -c statement_timeout=1")
    monkeypatch.setenv("PGCLIENTENCODING", encoding)
    await everything(outbox_dsn, admin)
    monkeypatch.delenv("PGCLIENTENCODING")
    service = tmp_path / "service.conf"
    service.write_text(f"[odd]\nclient_encoding={encoding}\noptions=-c array_nulls=off\n")
    monkeypatch.setenv("PGSERVICEFILE", str(service))
    await everything(make_conninfo(outbox_dsn, service="odd"), admin)


async def test_every_pinned_setting_is_in_force(outbox_dsn: str) -> None:
    async with await Session.connect(outbox_dsn, "tester") as session:
        known = await session.rows(psycopg.sql.SQL("select name from pg_settings").format())
        for name, value in PINNED.items():
            if (name,) not in known:
                continue  # of a later major
            shown = await session.rows(
                psycopg.sql.SQL(
                    "select current_setting({}, true), set_config({}, {}, false)"
                ).format(name, name, value)
            )
            assert shown[0][0] == shown[0][1], name


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

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        yield make_conninfo(dsn, port=port, sslmode="disable", gssencmode="disable")
        tasks.cancel_scope.cancel()


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
        assert time.monotonic() - began < 2
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
        await session.rows(psycopg.sql.SQL("select pg_sleep(3)").format())
    assert time.monotonic() - started < 1
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
            assert time.monotonic() - began < 3
            ended = True
        while connecting._under_way:
            await anyio.sleep(0.02)
