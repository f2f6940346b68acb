"""The bell as writers have it: silent while it is free, rung while a relay sleeps. R-FIRST"""

import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from relay import devstack
from relay.postgres.sqlfiles import BELL_CLASS

BELL = f"{BELL_CLASS}, 'relay.outbox'::regclass::oid::int4"
WRITE = "insert into relay.outbox (subject, payload) values ('a.b', '1')"
SENTINEL = "that was all"


@pytest.fixture(scope="module")
def dsn(postgres_server: devstack.Postgres, outbox_template: str) -> Iterator[str]:
    name = f"ring_{uuid.uuid4().hex[:12]}"
    yield postgres_server.create_database(name, template=outbox_template)
    postgres_server.drop_database(name)


@pytest.fixture
def fresh_database(postgres_server: devstack.Postgres) -> Iterator[str]:
    name = f"restored_{uuid.uuid4().hex[:12]}"
    yield postgres_server.create_database(name)
    postgres_server.drop_database(name)


@pytest.fixture
def writer(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(dsn, autocommit=True) as made:
        made.execute("truncate relay.outbox")
        yield made


@pytest.fixture
def listener(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(dsn, autocommit=True) as made:
        made.execute('listen "relay.outbox"')
        yield made


@contextmanager
def asleep(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """A relay that sleeps: it holds the bell exclusively."""
    with psycopg.connect(dsn, autocommit=True) as relay:
        assert relay.execute(f"select pg_try_advisory_lock({BELL})").fetchone() == (True,)
        try:
            yield relay
        finally:
            relay.execute("select pg_advisory_unlock_all()")  # a closed session keeps it a moment


def rings(listener: psycopg.Connection[Any], dsn: str) -> int:
    """How many notifications came until now, each with an empty payload."""
    with psycopg.connect(dsn, autocommit=True) as other:
        other.execute("select pg_notify('relay.outbox', %s)", (SENTINEL,))
    payloads: list[str] = []
    for notification in listener.notifies(timeout=20):
        payloads.append(notification.payload)
        if notification.payload == SENTINEL:
            break
    assert payloads.pop() == SENTINEL
    assert set(payloads) <= {""}
    return len(payloads)


WAYS = [
    WRITE,
    "insert into relay.outbox (subject, payload) select 'a.b', '1' from generate_series(1, 100)",
    "select relay.emit('a.b', '1')",
    r"select relay.emit_bytes('a.b', '\x01')",
]


@pytest.mark.parametrize("statement", WAYS)
def test_no_notify_while_the_relay_is_awake(
    writer: psycopg.Connection[Any],
    listener: psycopg.Connection[Any],
    dsn: str,
    statement: str,
) -> None:
    writer.execute(statement)
    assert rings(listener, dsn) == 0


@pytest.mark.parametrize("statement", WAYS)
def test_one_notify_a_statement_while_the_relay_sleeps(
    writer: psycopg.Connection[Any],
    listener: psycopg.Connection[Any],
    dsn: str,
    statement: str,
) -> None:
    with asleep(dsn):
        writer.execute(statement)
        assert rings(listener, dsn) == 1


def test_a_copy_rings_once(
    writer: psycopg.Connection[Any], listener: psycopg.Connection[Any], dsn: str
) -> None:
    with asleep(dsn):
        with (
            writer.cursor() as cursor,
            cursor.copy("copy relay.outbox (subject, payload) from stdin") as copy,
        ):
            for _ in range(100):
                copy.write_row(("a.b", "1"))
        assert rings(listener, dsn) == 1


def test_a_transaction_of_many_statements_rings_once(
    writer: psycopg.Connection[Any], listener: psycopg.Connection[Any], dsn: str
) -> None:
    with asleep(dsn):
        with writer.transaction():
            for _ in range(10):
                writer.execute(WRITE)
        assert rings(listener, dsn) == 1


def test_what_is_rolled_back_does_not_ring(
    writer: psycopg.Connection[Any], listener: psycopg.Connection[Any], dsn: str
) -> None:
    with asleep(dsn):
        with writer.transaction(force_rollback=True):
            writer.execute(WRITE)
        assert rings(listener, dsn) == 0


def test_a_writer_holds_nothing_until_its_commit(writer: psycopg.Connection[Any], dsn: str) -> None:
    with writer.transaction():
        writer.execute(WRITE)
        with asleep(dsn):
            pass
        locks = writer.execute(
            "select from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()"
        ).fetchall()
        assert locks == []


@pytest.mark.parametrize("share", [0.0, 0.4999, 0.5, 1.0])
def test_a_full_queue_of_notifications_fails_no_commit(
    writer: psycopg.Connection[Any], listener: psycopg.Connection[Any], dsn: str, share: float
) -> None:
    """Filling the real queue takes 8 GB, so the function that is asked is another one here."""
    (body,) = writer.execute("select prosrc from pg_proc where proname = 'notify'").fetchone() or ()
    assert "pg_catalog.pg_notification_queue_usage()" in body
    with asleep(dsn), writer.transaction():
        writer.execute(f"create function public.usage() returns float8 return {share}")
        stubbed = body.replace("pg_catalog.pg_notification_queue_usage", "public.usage")
        writer.execute(
            "create or replace function relay.notify() returns trigger language plpgsql as "
            + psycopg.sql.quote(stubbed)
        )
        writer.execute(WRITE)
        writer.execute("drop function public.usage()")
        writer.execute(
            "create or replace function relay.notify() returns trigger language plpgsql as "
            + psycopg.sql.quote(body)
        )
    assert rings(listener, dsn) == (1 if share < 0.5 else 0)


def test_a_disabled_trigger_keeps_silent(
    writer: psycopg.Connection[Any], listener: psycopg.Connection[Any], dsn: str
) -> None:
    writer.execute("alter table relay.outbox disable trigger relay_notify")
    with asleep(dsn):
        writer.execute(WRITE)
        assert rings(listener, dsn) == 0
    writer.execute("alter table relay.outbox enable trigger relay_notify")


@pytest.mark.parametrize("path", ["mine, pg_catalog", "mine, pg_catalog, relay, public"])
def test_no_search_path_of_a_producer_s_keeps_the_bell_from_ringing(
    writer: psycopg.Connection[Any], listener: psycopg.Connection[Any], dsn: str, path: str
) -> None:
    with asleep(dsn), writer.transaction():
        writer.execute(
            "create schema mine;"
            "create function mine.never(float8, float8) returns boolean return false;"
            "create function mine.never(int, int) returns boolean return false;"
            "create operator mine.< (function = mine.never, leftarg = float8, rightarg = float8);"
            "create operator mine.<= (function = mine.never, leftarg = int, rightarg = int);"
            "create function mine.pg_notify(text, text) returns void language sql as '';"
            "create function mine.concat(text, text) returns text return 'elsewhere';"
            f"set local search_path = {path}"
        )
        writer.execute(WRITE)
        writer.execute("drop schema mine cascade")
    assert rings(listener, dsn) == 1


def test_another_outbox_s_sleep_does_not_ring_this_one(
    writer: psycopg.Connection[Any], listener: psycopg.Connection[Any], dsn: str
) -> None:
    with psycopg.connect(dsn, autocommit=True) as relay:
        relay.execute("select pg_advisory_lock(%s, 17)", (BELL_CLASS,))
        writer.execute(WRITE)
        assert rings(listener, dsn) == 0


def test_the_trigger_uses_the_bell_s_class(writer: psycopg.Connection[Any]) -> None:
    (definition,) = writer.execute(
        "select pg_get_triggerdef(oid) from pg_trigger where tgname = 'relay_notify'"
    ).fetchone() or ("",)
    assert f"pg_try_advisory_lock_shared({BELL_CLASS}, (('relay.outbox'::" in definition
    assert definition.count(str(BELL_CLASS)) == 2


def test_a_restored_dump_rings_by_its_own_bell(
    postgres_server: devstack.Postgres, dsn: str, fresh_database: str
) -> None:
    """The trigger names its own table; its oid is another one after a restore."""
    (found,) = (i for i in devstack.find_postgres() if i.major == postgres_server.major)
    with psycopg.connect(fresh_database, autocommit=True) as connection:
        connection.execute("create table public.other ()")  # so that the oids differ
    dump = subprocess.run(
        [found.bin_dir / "pg_dump", f"--dbname={dsn}"], capture_output=True, check=True
    )
    subprocess.run(
        [found.bin_dir / "psql", "-Xq", "-v", "ON_ERROR_STOP=1", f"--dbname={fresh_database}"],
        input=dump.stdout,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    with psycopg.connect(fresh_database, autocommit=True) as listener:
        listener.execute('listen "relay.outbox"')
        with psycopg.connect(fresh_database, autocommit=True) as writer:
            writer.execute(WRITE)
            assert rings(listener, fresh_database) == 0
            with asleep(fresh_database):
                writer.execute(WRITE)
                assert rings(listener, fresh_database) == 1


def test_a_renamed_schema_keeps_its_bell_and_rings_on_its_new_channel(outbox_dsn: str) -> None:
    with psycopg.connect(outbox_dsn, autocommit=True) as writer:
        writer.execute("alter schema relay rename to moved")
        writer.execute('listen "moved.outbox"')
        with psycopg.connect(outbox_dsn, autocommit=True) as relay:
            relay.execute(BELL.join(("select pg_advisory_lock(", ")")).replace("relay.", "moved."))
            writer.execute("insert into moved.outbox (subject, payload) values ('a.b', '1')")
            (ring,) = writer.notifies(timeout=20, stop_after=1)
    assert ring.payload == ""
