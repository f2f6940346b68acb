"""Every door tried: each role executes each verb on each object; ``rights`` says what may work.

``test_roles`` asks Postgres what it would allow. Here it is done, and undone.
"""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import errors

from relay import devstack
from relay.consumer import migrations as inbox
from tests.postgres.adopting import DEBEZIUM, adopt
from tests.postgres.databases import execute, further_databases
from tests.postgres.rights import (
    COLUMN_RIGHTS,
    FUNCTIONS,
    OUTBOX_COLUMNS,
    ROLES,
    SCHEMA_RIGHTS,
    TABLE_RIGHTS,
    TABLES,
    expected,
)

VIEWS = {"fence", "pending", "status"}
STATEMENTS = {
    "select": "select * from relay.{} limit 0",
    "insert": "insert into relay.{} default values",
    "update": "update relay.{} set {} = default",
    "delete": "delete from relay.{} where false",
    "truncate": "truncate relay.{}",
}
COLUMN_STATEMENTS = {
    "select": "select {} from relay.outbox limit 0",
    "insert": "insert into relay.outbox ({}) values (default)",
    "update": "update relay.outbox set {} = default where false",
}
SEQUENCE_STATEMENTS = {
    "select last_value from relay.outbox_id_seq": "relay",
    "select nextval('relay.outbox_id_seq')": "",
    "select setval('relay.outbox_id_seq', 1)": "",
}
DENIED = (
    errors.InsufficientPrivilege,
    errors.ObjectNotInPrerequisiteState,  # a view that takes no writes
    errors.WrongObjectType,  # a view can't be truncated
)


@pytest.fixture(scope="module")
def connection(
    postgres_server: devstack.Postgres, outbox_template: str
) -> Iterator[psycopg.Connection[Any]]:
    with further_databases(postgres_server, outbox_template) as make:
        dsn = make()
        execute(dsn, "create role relay_stranger nologin")
        with psycopg.connect(dsn) as made:
            yield made
            made.rollback()
    execute(postgres_server.dsn, "drop role relay_stranger")


def works(connection: psycopg.Connection[Any], statement: str) -> bool:
    """Whether it is allowed, though it may fail for another reason; nothing of it stays."""
    try:
        with connection.transaction(force_rollback=True):
            connection.execute(statement.encode())
    except DENIED:
        return False
    except psycopg.Error:
        pass
    return True


@pytest.mark.parametrize("role", ROLES)
def test_every_verb_on_every_object_is_done_or_denied(
    connection: psycopg.Connection[Any], role: str
) -> None:
    may = {
        STATEMENTS[verb].format(table, f'"{first}"'): None
        if table in VIEWS and verb != "select" and role == "owner"  # whoever made a view may try
        else expected(role, TABLE_RIGHTS.get((table, verb), ""))
        or (table, verb, role)
        in {("outbox", "insert", "producer"), ("outbox", "insert", "operator")}
        for table in TABLES
        for verb in STATEMENTS
        for first in [first_column(connection, table)]
    }
    may |= {
        statement.format(column): expected(role, COLUMN_RIGHTS.get((column, verb), ""))
        for verb, statement in COLUMN_STATEMENTS.items()
        for column in OUTBOX_COLUMNS
    }
    inside = expected(role, SCHEMA_RIGHTS["usage"])
    for signature, others in FUNCTIONS.items():
        name, _, arguments = signature.rstrip(")").partition("(")
        nulls = ", ".join(f"null::{each}" for each in arguments.split(", ") if each)
        may[f"select relay.{name}({nulls})"] = inside and expected(role, others)
    may |= {each: expected(role, others) for each, others in SEQUENCE_STATEMENTS.items()}
    may["create table relay.mine (i int)"] = expected(role, SCHEMA_RIGHTS["create"])
    with connection.transaction(force_rollback=True):
        connection.execute(f"set local role relay_{role}".encode())
        did = {each: works(connection, each) for each in may}
    assert did == {each: did[each] if wanted is None else wanted for each, wanted in may.items()}


def first_column(connection: psycopg.Connection[Any], table: str) -> str:
    with connection.transaction():
        row = connection.execute(
            "select attname from pg_attribute where attrelid = ('relay.' || %s)::regclass"
            " and attnum = 1",
            (table,),
        ).fetchone()
    assert row is not None
    return str(row[0])


@pytest.mark.anyio
async def test_what_runs_with_its_owner_s_rights_runs_on_a_pinned_path_and_not_for_everybody(
    outbox_dsn: str,
) -> None:
    """The outbox's, the inbox's and an adopted table's functions, in every schema."""
    await inbox.migrate(outbox_dsn, "inbox")
    execute(outbox_dsn, DEBEZIUM)
    await adopt(outbox_dsn)
    definers = execute(
        outbox_dsn,
        "select p.proname, coalesce(array_to_string(p.proconfig, ';') ~"
        " '^search_path=pg_catalog, ((relay|inbox), )?pg_temp$', false),"
        " p.prorettype = 'trigger'::regtype or not exists (select from aclexplode("
        "   coalesce(p.proacl, acldefault('f', p.proowner))) as a where a.grantee = 0)"
        " from pg_proc as p where p.prosecdef and p.oid >= 16384 order by 1",
    )
    assert len(definers) > 5
    assert [name for name, *sound in definers if sound != [True, True]] == []
