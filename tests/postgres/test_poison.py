"""What can't be published is refused at the door: in the producer's own statement, with the reason.

Each poison goes in by INSERT, by COPY and through emit. The broken rule comes as the constraint of
a check violation, and the message says why.
"""

import json
import re
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg import errors, sql

from relay import devstack
from relay.postgres.sqlfiles import names, text

MIB = 1024 * 1024
GOOD: dict[str, Any] = {"subject": "orders.placed", "payload": '{"id": 1}'}

HAS_SPACE = "outbox_subject_has_no_space_or_control_character"
RESERVED = "outbox_subject_does_not_begin_with_dollar_or_inbox"
EMPTY_TOKEN = "outbox_subject_has_no_empty_token"
WILDCARD = "outbox_subject_has_no_wildcard"

SUBJECTS = {
    "*": WILDCARD,
    ">": WILDCARD,
    "orders.*.placed": WILDCARD,
    "orders.>": WILDCARD,
    "orders.a*b": WILDCARD,
    "": EMPTY_TOKEN,
    ".": EMPTY_TOKEN,
    ".orders": EMPTY_TOKEN,
    "orders.": EMPTY_TOKEN,
    "orders..placed": EMPTY_TOKEN,
    "orders placed": HAS_SPACE,
    " orders": HAS_SPACE,
    "orders ": HAS_SPACE,
    "orders\tplaced": HAS_SPACE,
    "orders\r\nPUB x 0": HAS_SPACE,
    "orders\n": HAS_SPACE,
    "orders\x01": HAS_SPACE,
    "orders\x1f": HAS_SPACE,
    "orders\x7f": HAS_SPACE,
    "orders\x85": HAS_SPACE,
    "orders\xa0placed": HAS_SPACE,
    "orders\u2003placed": HAS_SPACE,
    "orders\u200bplaced": HAS_SPACE,
    "orders\u2028placed": HAS_SPACE,
    "orders\u3000placed": HAS_SPACE,
    "\ufefforders": HAS_SPACE,
    "$JS.API.STREAM.DELETE.x": RESERVED,
    "$SYS.x": RESERVED,
    "$": RESERVED,
    "_INBOX.abc": RESERVED,
    "_INBOX": RESERVED,
    "_INBOX_relay.abc": RESERVED,
    "s" * 256: "outbox_subject_is_at_most_255_bytes",
    "ü" * 128: "outbox_subject_is_at_most_255_bytes",
}

LENGTH = "{}_is_1_to_255_bytes"
CONTROL = "{}_has_no_control_character_or_outer_space"

KEYS = {
    "": LENGTH,
    "k" * 256: LENGTH,
    "ü" * 128: LENGTH,
    "a\r\nNats-Msg-Id: b": CONTROL,
    "a\nb": CONTROL,
    "a\tb": CONTROL,
    "a\x01": CONTROL,
    "a\x7fb": CONTROL,
    "a\x85b": CONTROL,
    "a\u2028b": CONTROL,
    " a": CONTROL,
    "a ": CONTROL,
    " ": CONTROL,
    "\xa0a": CONTROL,
    "a\u3000": CONTROL,
}

NAMES = "outbox_header_names_are_tokens"
NATS = "outbox_header_names_do_not_begin_with_nats_or_relay"
STRINGS = "outbox_header_values_are_strings"
VALUES = "outbox_header_values_have_no_control_character"
OBJECT = "outbox_headers_are_an_object"
BIG = "outbox_headers_are_at_most_32_kib"

HEADERS: list[tuple[object, str]] = [
    (["a"], OBJECT),
    ("a", OBJECT),
    (1, OBJECT),
    (None, OBJECT),  # JSON's null, not SQL's
    ([{"a": 1}], OBJECT),
    ({"a": 1}, STRINGS),
    ({"a": None}, STRINGS),
    ({"a": True}, STRINGS),
    ({"a": ["b"]}, STRINGS),
    ({"a": {"b": "c"}}, STRINGS),
    ({"a": "b", "c": []}, STRINGS),
    ({"": "b"}, NAMES),
    ({"a b": "c"}, NAMES),
    ({"a:": "c"}, NAMES),
    ({"a\r\nb": "c"}, NAMES),
    ({"a\n": "c"}, NAMES),
    ({"ä": "c"}, NAMES),
    ({"ok": "b", "(no)": "c"}, NAMES),
    ({"Nats-Msg-Id": "b"}, NATS),
    ({"nats-rollup": "all"}, NATS),
    ({"NATS-Expected-Last-Sequence": "1"}, NATS),
    ({"Relay-Key": "b"}, NATS),
    ({"ok": "b", "relay-x": "c"}, NATS),
    ({"a": "b\r\nNats-Msg-Id: c"}, VALUES),
    ({"a": "b\n"}, VALUES),
    ({"a": "\x01"}, VALUES),
    ({"a": "b\x7f"}, VALUES),
    ({"a": "b\x85"}, VALUES),
    ({"a": "b\u2028"}, VALUES),
    ({"a": "x" * 32768}, BIG),
    ({f"h{n}": "x" * 100 for n in range(400)}, BIG),
]

ONE_OF = "outbox_one_of_payload_and_payload_bytes_is_given"

POISON: list[tuple[dict[str, Any], str]] = [
    *(({"subject": subject}, name) for subject, name in SUBJECTS.items()),
    *(
        ({column: value}, name.format(f"outbox_{column}"))
        for column in ("key", "idempotency_key")
        for value, name in KEYS.items()
    ),
    *(({"headers": json.dumps(headers)}, name) for headers, name in HEADERS),
    ({"payload": None}, ONE_OF),
    ({"payload": json.dumps("x" * (MIB - 1))}, "outbox_payload_is_at_most_1_mib"),
    (
        {"payload": None, "payload_bytes": b"x" * (MIB + 1)},
        "outbox_payload_bytes_are_at_most_1_mib",
    ),
]

HARMLESS: list[dict[str, Any]] = [
    {},
    {"subject": "a"},
    {"subject": "Bestellungen.größe.日本.😀"},
    {"subject": "orders.$x._INBOX.a-b_c"},
    {"subject": "s" * 255},
    {"key": "customer 17 / ü"},
    {"key": "k" * 255, "idempotency_key": "i" * 255},
    {"key": "."},
    {"idempotency_key": "order-17:placed"},
    {"headers": "{}"},
    {"headers": json.dumps({"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169-01"})},
    {"headers": json.dumps({"a": "", "b!#$%&'*+-.^_`|~9": " grüße; x=y ", "natsy": "x"})},
    {"headers": json.dumps({"a": "x" * 32759})},  # 32768 bytes with its braces and quotes
    {"payload": json.dumps("x" * (MIB - 2))},
    {"payload": "null"},
    {"payload": ' { "kept" :  "as it is", "kept": 1.10 } '},
    {"payload": None, "payload_bytes": b""},
    {"payload": None, "payload_bytes": bytes(range(256))},
    {"payload": None, "payload_bytes": b"x" * MIB},
]


@pytest.fixture(scope="module")
def connection(
    postgres_server: devstack.Postgres, outbox_template: str
) -> Iterator[psycopg.Connection[Any]]:
    name = f"poison_{uuid.uuid4().hex[:12]}"
    dsn = postgres_server.create_database(name, template=outbox_template)
    with psycopg.connect(dsn, autocommit=True) as made:
        yield made
    postgres_server.drop_database(name)


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
    if content is not None:
        given["payload"] = content
    arguments = [sql.SQL("{} => {}").format(sql.SQL(name), sql.Placeholder()) for name in given]
    statement = sql.SQL("select relay.emit({})").format(sql.SQL(", ").join(arguments))
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
    asked = "\n".join(text(name) for name in names("functions") if "/check_" in name)
    rules = set(re.findall(r"'(outbox_\w+[a-z0-9])'", asked))
    for end in re.findall(r"'outbox_', column_name, '(_\w+)'", asked):
        rules |= {f"outbox_{column}{end}" for column in ("key", "idempotency_key")}
    assert rules == {name for _, name in POISON}
