"""Sessions: no setting from outside changes what they mean."""

import uuid
from collections.abc import Iterator
from typing import Any

import anyio
import anyio.abc
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from relay.core import disposition
from relay.core.disposition import Parking
from relay.ports import Report, Settlement, Wake
from relay.postgres.bell import PostgresBell
from relay.postgres.connecting import PINNED
from relay.postgres.outbox import PostgresOutbox
from relay.postgres.session import Session
from tests.postgres.bells import TRIAL_MAY_TAKE

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
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("relay.postgres.trial.TOO_LONG", TRIAL_MAY_TAKE)
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
