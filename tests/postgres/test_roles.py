"""What Postgres says of every role's rights: every cell of ``rights`` asserted."""

import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import errors

from relay import devstack
from tests.postgres.rights import (
    COLUMN_RIGHTS,
    COLUMN_VERBS,
    FUNCTIONS,
    OUTBOX_COLUMNS,
    ROLES,
    SCHEMA_RIGHTS,
    SEQUENCE_VERBS,
    TABLE_RIGHTS,
    TABLES,
    VERBS,
    expected,
)


@pytest.fixture(scope="module")
def dsn(postgres_server: devstack.Postgres, outbox_template: str) -> Iterator[str]:
    name = f"roles_{uuid.uuid4().hex[:12]}"
    made = postgres_server.create_database(name, template=outbox_template)
    with psycopg.connect(made, autocommit=True) as connection:
        connection.execute("create role relay_stranger nologin")
    yield made
    postgres_server.drop_database(name)
    with psycopg.connect(postgres_server.dsn, autocommit=True) as connection:
        connection.execute("drop role relay_stranger")


@pytest.fixture
def connection(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(dsn) as made:
        yield made
        made.rollback()


def may(connection: psycopg.Connection[Any], kind: str, role: str, *what: str) -> object:
    places = ", ".join(["%s::text"] * (len(what) + 1))
    row = connection.execute(
        f"select has_{kind}_privilege({places})",
        (f"relay_{role}", *what),
    ).fetchone()
    assert row is not None
    return row[0]


@pytest.mark.parametrize("role", ROLES)
def test_tables_and_views(connection: psycopg.Connection[Any], role: str) -> None:
    cells = [(table, verb) for table in TABLES for verb in VERBS]
    got = {cell: may(connection, "table", role, f"relay.{cell[0]}", cell[1]) for cell in cells}
    assert got == {cell: expected(role, TABLE_RIGHTS.get(cell, "")) for cell in cells}


@pytest.mark.parametrize("role", ROLES)
def test_the_outbox_s_columns(connection: psycopg.Connection[Any], role: str) -> None:
    cells = [(column, verb) for column in OUTBOX_COLUMNS for verb in COLUMN_VERBS]
    got = {cell: may(connection, "column", role, "relay.outbox", *cell) for cell in cells}
    assert got == {cell: expected(role, COLUMN_RIGHTS.get(cell, "")) for cell in cells}


@pytest.mark.parametrize("role", ROLES)
def test_functions(connection: psycopg.Connection[Any], role: str) -> None:
    got = {f: may(connection, "function", role, f"relay.{f}", "execute") for f in FUNCTIONS}
    assert got == {f: expected(role, others) for f, others in FUNCTIONS.items()}


@pytest.mark.parametrize("role", ROLES)
def test_the_schema_and_its_sequence(connection: psycopg.Connection[Any], role: str) -> None:
    got = {verb: may(connection, "schema", role, "relay", verb) for verb in SCHEMA_RIGHTS}
    assert got == {verb: expected(role, others) for verb, others in SCHEMA_RIGHTS.items()}
    for verb in SEQUENCE_VERBS:
        others = "relay" if verb == "select" else ""
        got_it = may(connection, "sequence", role, "relay.outbox_id_seq", verb)
        assert got_it is expected(role, others)


def test_the_matrix_names_every_object_there_is(connection: psycopg.Connection[Any]) -> None:
    relations = connection.execute(
        "select relname from pg_class "
        "where relnamespace = 'relay'::regnamespace and relkind not in ('i', 'S')"
    ).fetchall()
    assert {name for (name,) in relations} == set(TABLES)
    columns = connection.execute(
        "select attname from pg_attribute "
        "where attrelid = 'relay.outbox'::regclass and attnum > 0 order by attnum"
    ).fetchall()
    assert tuple(name for (name,) in columns) == OUTBOX_COLUMNS
    functions = connection.execute(
        "select count(*) from pg_proc where pronamespace = 'relay'::regnamespace"
    ).fetchone()
    assert functions == (len(FUNCTIONS),)


def test_none_of_the_roles_can_log_in_or_do_more_than_their_grants(
    connection: psycopg.Connection[Any],
) -> None:
    powers = connection.execute(
        """
        select count(*) from pg_roles
         where rolname = any(%s)
           and not (rolcanlogin or rolsuper or rolcreaterole or rolcreatedb or rolreplication
                    or rolbypassrls)
        """,
        ([f"relay_{role}" for role in ROLES[:-1]],),
    ).fetchone()
    assert powers == (len(ROLES) - 1,)


BEGIN = "relay.begin_replay(null, '{}', false, 1, 2, 2, 'anna')"
MARK = "select relay.mark_replay(1, '{}', 0, false, true)"
WRITE = "insert into relay.outbox (subject, payload) values ('a.b', '1')"


@pytest.mark.parametrize(
    ("role", "statement"),
    [
        ("producer", WRITE),
        ("producer", "select relay.emit('a.b', '1')"),
        ("producer", "select relay.emit('a.b', '1'::jsonb, idempotency_key => 'i')"),
        ("producer", r"select relay.emit_bytes('a.b', '\x01')"),
        ("producer", WRITE + " returning id, event_id"),
        ("producer", WRITE + " on conflict do nothing returning id"),
        ("relay", "select * from relay.outbox"),
        ("relay", "delete from relay.outbox where id = 1"),
        ("relay", "update relay.outbox set xid = pg_current_xact_id()"),
        ("relay", "update relay.cursor set epoch = epoch + 1"),
        ("relay", "update relay.report set delivered = 1"),
        ("relay", "insert into relay.settled values (now(), '1:1:')"),
        ("relay", "insert into relay.stream values ('A', 'a.>') on conflict do nothing"),
        ("relay", "select last_value from relay.outbox_id_seq"),
        ("relay", "select relay.message_id('', null, event_id, 0) from relay.outbox"),
        ("operator", "select * from relay.retry_dead('{}', now(), 'anna')"),
        ("operator", "select * from relay.drop_dead('{}', now(), 'anna')"),
        ("operator", f"select relay.mark_replay({BEGIN}, '{{}}', 0, false, true)"),
        ("relay", "select pg_try_advisory_lock(1, 2)"),
        ("relay", 'listen "relay.outbox"'),
        ("relay", "select system_identifier from pg_control_system()"),
        ("operator", "select relay.emit('a.b', '1')"),
        ("monitor", "select * from relay.status"),
        ("monitor", "select * from relay.pending"),
    ],
)
def test_what_a_role_is_for_works(
    connection: psycopg.Connection[Any], role: str, statement: str
) -> None:
    connection.execute(f"set role relay_{role}")
    connection.execute(statement)


@pytest.mark.parametrize(
    ("role", "statement"),
    [
        ("producer", "select * from relay.outbox"),
        ("producer", WRITE + " returning payload"),
        ("producer", "select key from relay.outbox"),
        ("producer", WRITE.replace("payload)", "event_id)").replace("'1'", "gen_random_uuid()")),
        (
            "producer",
            WRITE.replace("(subject", "(id, subject").replace(
                "values (", "overriding system value values (9, "
            ),
        ),
        ("producer", WRITE.replace("(subject,", "(xid, subject,").replace("('a", "('1', 'a")),
        ("producer", WRITE.replace("payload)", "created_at)").replace("'1'", "now()")),
        ("producer", "select * from relay.pending"),
        ("producer", "select nextval('relay.outbox_id_seq')"),
        ("relay", WRITE),
        ("relay", "update relay.outbox set payload = '2'"),
        ("relay", "truncate relay.outbox"),
        ("relay", "alter table relay.outbox alter column xid drop default"),
        ("operator", "delete from relay.outbox"),
        ("operator", "delete from relay.parked"),
        ("operator", "update relay.parked set last_error = ''"),
        ("operator", "insert into relay.parked select * from relay.parked"),
        ("operator", "insert into relay.decision (decided_by) values ('somebody else')"),
        ("operator", "update relay.decision set decided_by = 'somebody else'"),
        ("operator", "delete from relay.decision"),
        ("relay", "select * from relay.retry_dead('{}', now(), 'anna')"),
        ("relay", "select * from relay.drop_dead('{}', now(), 'anna')"),
        ("producer", "select * from relay.retry_dead('{}', now(), 'anna')"),
        *((role, f"select {BEGIN}") for role in ("producer", "relay", "monitor", "stranger")),
        *((role, MARK) for role in ("producer", "relay", "monitor", "stranger")),
        ("operator", "update relay.replay set marked = 0"),
        ("operator", "insert into relay.replay default values"),
        ("operator", "update relay.cursor set epoch = 0"),
        ("monitor", "select payload from relay.outbox"),
        ("monitor", "select last_error from relay.parked"),
        ("stranger", "select * from relay.status"),
        ("stranger", "select relay.emit('a.b', '1')"),
    ],
)
def test_what_a_role_is_not_for_is_denied(
    connection: psycopg.Connection[Any], role: str, statement: str
) -> None:
    """R-ONCE: no producer gives an event_id, of which message ids are made."""
    connection.execute(f"set role relay_{role}")
    with pytest.raises(errors.InsufficientPrivilege):
        connection.execute(statement)


@pytest.mark.parametrize("view", ["pending", "status"])
def test_no_view_has_a_column_of_content(connection: psycopg.Connection[Any], view: str) -> None:
    columns = connection.execute(
        "select attname from pg_attribute where attrelid = ('relay.' || %s)::regclass", (view,)
    ).fetchall()
    assert columns
    assert not {"payload", "payload_bytes", "headers"} & {name for (name,) in columns}
