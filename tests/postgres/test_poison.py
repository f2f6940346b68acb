"""What can't be published is refused at the door: in the producer's own statement, with the reason.

Each poison goes in by INSERT, by COPY and through emit. The broken rule comes as the constraint of
a check violation, and the message says why.
"""

import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import errors, sql

from relay import devstack
from relay.core.event import Event
from relay.core.subjects import fault_of
from relay.jetstream.frames import frame_of, line_fault
from relay.postgres.sqlfiles import text
from tests.postgres.databases import further_databases
from tests.postgres.poison import CREATED_AT, GOOD, HARMLESS, ONE_OF, POISON, YEARS


@pytest.fixture(scope="module")
def connection(
    postgres_server: devstack.Postgres, outbox_template: str
) -> Iterator[psycopg.Connection[Any]]:
    with (
        further_databases(postgres_server, outbox_template) as make,
        psycopg.connect(make(), autocommit=True) as made,
    ):
        yield made


def by_insert(connection: psycopg.Connection[Any], row: dict[str, Any]) -> None:
    statement = sql.SQL("insert into relay.outbox ({}) values ({})").format(
        sql.SQL(", ").join(map(sql.Identifier, row)),
        sql.SQL(", ").join([sql.Placeholder()] * len(row)),
    )
    connection.execute(statement, list(row.values()))


def by_copy(connection: psycopg.Connection[Any], row: dict[str, Any]) -> None:
    columns = sql.SQL(", ").join(map(sql.Identifier, row))
    with (
        connection.cursor() as cursor,
        cursor.copy(sql.SQL("copy relay.outbox ({}) from stdin").format(columns)) as copy,
    ):
        copy.write_row(list(row.values()))


def by_emit(connection: psycopg.Connection[Any], row: dict[str, Any]) -> None:
    given = dict(row)
    content = given.pop("payload_bytes", None)
    function = "emit" if content is None else "emit_bytes"
    if content is not None:
        given["payload"] = content
    arguments = [sql.SQL("{} => {}").format(sql.SQL(name), sql.Placeholder()) for name in given]
    statement = sql.SQL("select relay.{}({})").format(
        sql.Identifier(function), sql.SQL(", ").join(arguments)
    )
    connection.execute(statement, list(given.values()))


WAYS = [by_insert, by_copy, by_emit]
Way = Callable[[psycopg.Connection[Any], dict[str, Any]], None]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("poison", "name"), POISON)
def test_poison_is_refused_by_name(
    connection: psycopg.Connection[Any], way: Way, poison: dict[str, Any], name: str
) -> None:
    with pytest.raises(errors.CheckViolation) as refusal:
        way(connection, GOOD | poison)
    assert refusal.value.diag.constraint_name == name
    assert name in str(refusal.value)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("row", HARMLESS)
def test_what_can_be_published_goes_in_untouched(
    connection: psycopg.Connection[Any], way: Way, row: dict[str, Any]
) -> None:
    expected = {"key": None, "idempotency_key": None, "headers": None, "payload_bytes": None}
    expected |= GOOD | row
    with connection.transaction(force_rollback=True):
        way(connection, GOOD | row)
        (got,) = connection.execute(
            "select subject, key, idempotency_key, headers::text, payload::text, payload_bytes "
            "from relay.outbox"
        ).fetchall()
    subject, key, idempotency_key, headers, payload, payload_bytes = got
    assert (subject, key, idempotency_key, payload, payload_bytes) == tuple(
        expected[c] for c in ("subject", "key", "idempotency_key", "payload", "payload_bytes")
    )
    assert (headers and json.loads(headers)) == (expected["headers"] and json.loads(row["headers"]))


def test_the_rules_mean_the_same_however_a_producer_s_session_reads_backslashes(
    connection: psycopg.Connection[Any], postgres_server: devstack.Postgres
) -> None:
    """R-FATE"""
    dsn = postgres_server.dsn_of(connection.info.dbname)
    with psycopg.connect(dsn, options="-c standard_conforming_strings=off") as other:
        for poison, name in POISON:
            with pytest.raises(errors.CheckViolation) as refusal, other.transaction():
                by_insert(other, GOOD | poison)
            assert refusal.value.diag.constraint_name == name, poison
        for row in HARMLESS:
            by_insert(other, GOOD | row)
        other.rollback()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("content", ["", "{", "{'a': 1}", "NaN", '{"a": 1} x', '"\x01"'])
def test_a_payload_that_is_not_json_is_refused(
    connection: psycopg.Connection[Any], way: Way, content: str
) -> None:
    with pytest.raises(
        errors.InvalidTextRepresentation, match="invalid input syntax for type json"
    ):
        way(connection, GOOD | {"payload": content})


@pytest.mark.parametrize("way", [by_insert, by_copy])
def test_two_payloads_are_refused(connection: psycopg.Connection[Any], way: Way) -> None:
    with pytest.raises(errors.CheckViolation, match=ONE_OF):
        way(connection, GOOD | {"payload_bytes": b"x"})


@pytest.mark.parametrize("way", [by_insert, by_copy])
@pytest.mark.parametrize("created_at", CREATED_AT)
def test_an_instant_that_no_reader_could_take_is_refused(
    connection: psycopg.Connection[Any], way: Way, created_at: str
) -> None:
    """R-FATE"""
    with pytest.raises(errors.CheckViolation) as refusal:
        way(connection, GOOD | {"created_at": created_at})
    assert refusal.value.diag.constraint_name == YEARS


@pytest.mark.parametrize("created_at", ["2000-01-01 00:00+00", "2199-12-31 23:59:59+00"])
def test_the_first_and_the_last_instant_go_in(
    connection: psycopg.Connection[Any], created_at: str
) -> None:
    with connection.transaction(force_rollback=True):
        by_insert(connection, GOOD | {"created_at": created_at})


def test_a_relay_gives_any_row_a_new_transaction_id_and_nobody_else_passes_the_rules(
    connection: psycopg.Connection[Any],
) -> None:
    """Rows of before the rules were tightened, restored into another cluster. R-FATE"""
    with connection.transaction(force_rollback=True):
        by_insert(connection, GOOD)
        connection.execute("alter table relay.outbox drop constraint outbox_publishable")
        connection.execute("update relay.outbox set subject = '*'")
        definition = (
            "relay.publishable(tableoid, created_at, idempotency_key, subject, key, payload"
        )
        connection.execute(
            "alter table relay.outbox add constraint outbox_publishable "
            f"check ({definition}, payload_bytes, headers)) not valid"
        )
        stamp = "update relay.outbox set xid = pg_current_xact_id()"
        with pytest.raises(errors.CheckViolation), connection.transaction():
            connection.execute(stamp)
        connection.execute("set local relay.restamp = on")
        connection.execute(stamp)

        connection.execute("set local session authorization relay_relay")
        connection.execute(stamp)
        connection.execute("set local session authorization relay_producer")
        for way in (by_insert, by_emit):
            with pytest.raises(errors.CheckViolation), connection.transaction():
                way(connection, GOOD | {"subject": "*"})


@pytest.mark.parametrize("way", WAYS)
def test_an_event_without_a_subject_is_refused(
    connection: psycopg.Connection[Any], way: Way
) -> None:
    with pytest.raises(errors.NotNullViolation, match='column "subject"'):
        way(connection, GOOD | {"subject": None})


def test_a_second_row_of_an_idempotency_key_is_refused(
    connection: psycopg.Connection[Any],
) -> None:
    row = GOOD | {"idempotency_key": "order-17"}
    with connection.transaction(force_rollback=True):
        by_insert(connection, row)
        with pytest.raises(errors.UniqueViolation, match="outbox_idempotency_key"):
            by_copy(connection, row)


def test_nothing_refused_left_a_row_behind(connection: psycopg.Connection[Any]) -> None:
    assert connection.execute("select count(*) from relay.outbox").fetchone() == (0,)


@pytest.mark.parametrize("poison", [{"subject": "a.*"}, {"key": ""}, {"headers": "[]"}])
def test_an_update_is_held_to_the_same_rules(
    connection: psycopg.Connection[Any], poison: dict[str, str]
) -> None:
    ((column, value),) = poison.items()
    statement = sql.SQL("update relay.outbox set {} = %s").format(sql.Identifier(column))
    with connection.transaction(force_rollback=True):
        by_insert(connection, GOOD)
        with pytest.raises(errors.CheckViolation):
            connection.execute(statement, (value,))


def test_no_search_path_of_a_producer_s_gets_poison_past_the_rules(
    connection: psycopg.Connection[Any],
) -> None:
    """The rules run with the producer's rights and path, and must find Postgres's own operators."""
    with connection.transaction(force_rollback=True):
        connection.execute("create schema mine authorization relay_producer")
        connection.execute("set local role relay_producer")
        connection.execute(
            """
            create function mine.regexp_like(text, text) returns boolean return false;
            create function mine.octet_length(text) returns int return 1;
            create function mine.octet_length(bytea) returns int return 1;
            create function mine.never(int, int) returns boolean return false;
            create operator mine.> (function = mine.never, leftarg = int, rightarg = int);
            create operator mine.= (function = mine.never, leftarg = int, rightarg = int);
            create function mine.always(int, int) returns boolean return true;
            create function mine.always(text, text) returns boolean return true;
            create operator mine.<= (function = mine.always, leftarg = int, rightarg = int);
            create operator mine.= (function = mine.always, leftarg = text, rightarg = text);
            create function mine.jsonb_path_exists(jsonb, jsonpath) returns boolean return false;
            create function mine.has_table_privilege(name, oid, text) returns boolean return true;
            create function mine.current_setting(text, boolean) returns text return 'on';
            create domain mine.text as pg_catalog.text;
            create domain mine.bool as pg_catalog.bool;
            set local search_path = mine, pg_catalog;
            """
        )
        for poison, name in POISON:
            with pytest.raises(errors.CheckViolation) as refusal, connection.transaction():
                by_insert(connection, GOOD | poison)
            assert refusal.value.diag.constraint_name == name


def test_every_rule_is_tried_here() -> None:
    rules = set(re.findall(r"rule := '(\w+)'", text("functions/publishable")))
    assert rules == {YEARS, *(name for _, name in POISON)}


NASTY = st.text(st.sampled_from('a.*>$ \r\n\t\x7f\u00ad\u2028äü😀:-_/{}"\\'), max_size=12)
TEXT = NASTY | st.text(max_size=8) | st.sampled_from(["orders.placed", "relay-1", "Nats-Msg-Id"])
NAME = st.from_regex(r"[a-z]{1,8}([.-][a-z]{1,4}){0,2}", fullmatch=True)
HEADERS = st.none() | st.dictionaries(TEXT, TEXT, max_size=3)


@pytest.mark.slow
def test_what_goes_in_by_any_text_can_be_framed_for_nats(one_dsn: str) -> None:
    """R-FATE: whatever the adapter would refuse is refused at the door already."""
    taken, connection = 0, psycopg.connect(one_dsn, autocommit=True)

    @settings(max_examples=150)
    @given(NAME | TEXT, st.none() | NAME | TEXT, st.none() | NAME | TEXT, HEADERS)
    def write(subject: str, key: str | None, own_id: str | None, headers: Any) -> None:
        nonlocal taken
        row = {"subject": subject, "key": key, "idempotency_key": own_id}
        row["headers"] = headers and json.dumps(headers)
        try:
            with connection.transaction(force_rollback=True):
                by_insert(connection, GOOD | row)
        except (psycopg.Error, UnicodeEncodeError):
            return
        taken += 1
        assert fault_of(subject) is None
        assert line_fault(subject, "_INBOX.x") is None
        event = Event(1, "e", own_id or "relay-e", subject, key, datetime.now(UTC), headers, b"{}")
        assert isinstance(frame_of(event, "_INBOX.x", 1 << 20), bytes)

    with connection:
        write()
    assert taken > 10
