"""The doorbell as writers have it: silent while the bell is free, rings while a relay sleeps."""

import subprocess
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from relay import devstack
from relay.postgres.locks import BELL_CLASS

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
        yield relay


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
    r"select relay.emit('a.b', '\x01'::bytea)",
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


def test_a_relay_that_queues_behind_a_silent_writer_makes_later_writers_ring(
    writer: psycopg.Connection[Any], listener: psycopg.Connection[Any], dsn: str
) -> None:
    relay = psycopg.connect(dsn, autocommit=True)
    with relay, ThreadPoolExecutor(1) as pool, psycopg.connect(dsn) as silent:
        silent.execute(WRITE)
        granted = pool.submit(relay.execute, f"select pg_advisory_lock({BELL})")
        while writer.execute("select from pg_locks where not granted").fetchone() is None:
            pass
        writer.execute(WRITE)
        assert rings(listener, dsn) == 1
        assert not granted.done()

        silent.commit()
        granted.result(timeout=20)
        # Whoever kept silent can be seen by a snapshot that is taken once the bell is granted.
        assert relay.execute("select count(*) from relay.outbox").fetchone() == (2,)


def test_a_writer_that_keeps_silent_holds_the_bell_until_its_end(
    writer: psycopg.Connection[Any], dsn: str
) -> None:
    def free() -> object:
        with psycopg.connect(dsn, autocommit=True) as other:
            row = other.execute(f"select pg_try_advisory_lock({BELL})").fetchone()
            assert row is not None
            return row[0]

    with writer.transaction():
        writer.execute(WRITE)
        assert free() is False
    assert free() is True


def test_another_outbox_s_sleep_does_not_ring_this_one(
    writer: psycopg.Connection[Any], listener: psycopg.Connection[Any], dsn: str
) -> None:
    with psycopg.connect(dsn, autocommit=True) as relay:
        relay.execute("select pg_advisory_lock(%s, 17)", (BELL_CLASS,))
        writer.execute(WRITE)
        assert rings(listener, dsn) == 0


def test_the_default_of_xid_uses_the_bell_s_class(writer: psycopg.Connection[Any]) -> None:
    row = writer.execute(
        "select pg_get_expr(adbin, adrelid) from pg_attrdef "
        "where adrelid = 'relay.outbox'::regclass and pg_get_expr(adbin, adrelid) ~ 'ring_asleep'"
    ).fetchone()
    assert row is not None
    assert f"pg_try_advisory_xact_lock_shared({BELL_CLASS}, (('relay.outbox'::" in row[0]


def test_a_restored_dump_rings_by_its_own_bell(
    postgres_server: devstack.Postgres, dsn: str, fresh_database: str
) -> None:
    """The default names its own table; its oid is another one after a restore."""
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
