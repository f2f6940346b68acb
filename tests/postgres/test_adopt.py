"""An adopted table: its rows arrive in the outbox, in the transaction that writes them."""

import uuid
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from relay.errors import EventRefused, SchemaError, SettingsError
from relay.postgres import migrations
from tests.postgres.adopting import (
    DEBEZIUM,
    NUMBERED,
    NUMBERED_FIELDS,
    adopt,
    events,
    undo,
    write,
)
from tests.postgres.databases import execute

pytestmark = pytest.mark.anyio

ODD = '$adopt$"Näme" %s {} ; \\'
INSERT = "insert into public.outboxevent (aggregatetype, aggregateid, type, payload) values "


@pytest.fixture
def shop(outbox_dsn: str) -> Iterator[str]:
    """A login that may write to the application's table, and nothing else."""
    execute(outbox_dsn, DEBEZIUM)
    name = f"shop_{uuid.uuid4().hex[:6]}"
    execute(outbox_dsn, f"create role {name} login")
    execute(outbox_dsn, f"grant insert, select, delete on public.outboxevent to {name}")
    yield make_conninfo(outbox_dsn, user=name)
    execute(outbox_dsn, f"drop owned by {name} cascade; drop role {name}")


async def test_rows_that_are_deleted_at_once_arrive_as_well(outbox_dsn: str, shop: str) -> None:
    """Debezium's habit, by a login without any right on the outbox. R-LOSS"""
    await adopt(outbox_dsn)
    with psycopg.connect(shop) as connection:
        write(connection, ("order", "17", "placed", '{"n": 1}'), ("order", "17", "paid", "{}"))
        connection.execute("delete from public.outboxevent")
    assert events(outbox_dsn) == [
        ("order.placed", "17", '{"n": 1}'),
        ("order.paid", "17", "{}"),
    ]
    with psycopg.connect(shop) as connection, pytest.raises(errors.InsufficientPrivilege):
        connection.execute("select relay.emit('a.b', '1')")


async def test_what_is_rolled_back_does_not_arrive(outbox_dsn: str, shop: str) -> None:
    """R-PHANTOM"""
    await adopt(outbox_dsn)
    with psycopg.connect(shop) as connection:
        write(connection, ("order", "1", "placed", "1"))
        with connection.transaction(force_rollback=True):
            write(connection, ("order", "2", "placed", "2"))
        connection.commit()
        write(connection, ("order", "3", "placed", "3"))
        connection.rollback()
    assert [key for _, key, _ in events(outbox_dsn)] == ["1"]


async def test_many_rows_keep_their_order_and_their_ids(outbox_dsn: str, shop: str) -> None:
    """R-ORDER: by one INSERT, and by COPY."""
    await adopt(outbox_dsn)
    with psycopg.connect(shop) as connection:
        connection.execute(
            INSERT + "('a', 'k', 'b', '1'), ('a', 'k', 'b', '2'), ('a', 'k', 'b', '3')"
        )
        with connection.cursor().copy(
            "copy public.outboxevent (aggregatetype, aggregateid, type, payload) from stdin"
        ) as copy:
            for n in range(4, 500):
                copy.write_row(("a", "k", "b", str(n)))
    assert [int(text) for *_, text in events(outbox_dsn)] == list(range(1, 500))
    (same,) = execute(
        outbox_dsn,
        "select count(*) from relay.outbox o join outboxevent e on o.idempotency_key = e.id::text",
    )
    assert same == (499,)


async def test_an_event_that_is_refused_is_refused_where_it_is_written(
    outbox_dsn: str, shop: str
) -> None:
    """R-FATE: with the outbox's own words, which name the value."""
    await adopt(outbox_dsn)
    with psycopg.connect(shop, autocommit=True) as connection:
        for bad, rule in [
            ("or der", "outbox_subject_has_no_space_or_control_character"),
            ("or>der", "outbox_subject_has_no_wildcard"),
            ("", "outbox_subject_has_no_empty_token"),
            (".order", "outbox_subject_has_no_empty_token"),
            ("$JS", "outbox_subject_does_not_begin_with_dollar_or_inbox"),
        ]:
            with pytest.raises(errors.CheckViolation) as refused:
                write(connection, (bad, "1", "placed", "1"))
            assert refused.value.diag.constraint_name == rule
            assert f"'{bad}.placed'" in str(refused.value.diag.message_detail)
        write(connection, ("com.shop.Order", "1", "placed", "1"))
    assert [subject for subject, *_ in events(outbox_dsn)] == ["com.shop.Order.placed"]


async def test_a_hostile_path_changes_nothing(outbox_dsn: str, shop: str) -> None:
    await adopt(outbox_dsn)
    execute(outbox_dsn, "create schema trap; grant all on schema trap to public")
    with psycopg.connect(shop) as connection:
        connection.execute("create table trap.outbox (like public.outboxevent)")
        connection.execute("create temp table new_rows (id int)")
        connection.execute(
            "create function trap.format(text, varchar, varchar) returns text language plpgsql"
            " as $$ begin raise exception 'a trap, as %', current_user; end $$"
        )
        connection.execute("set search_path = trap, public, pg_catalog")
        write(connection, ("order", "1", "placed", "1"))
    assert events(outbox_dsn, "subject") == [("order.placed",)]


async def test_each_type_of_payload_is_sent_as_it_is(one_dsn: str) -> None:
    for type_, written, payload, payload_bytes in [
        ("json", '{"b": 1,  "a": 2}', '{"b": 1,  "a": 2}', None),
        ("jsonb", '{"b": 1,  "a": 2}', '{"a": 2, "b": 1}', None),
        ("text", "no JSON, é", None, "no JSON, é".encode()),
        ("varchar(80)", '{"a":1}', None, b'{"a":1}'),
        ("bytea", b"\x00\xff", None, b"\x00\xff"),
        ("jsonb", None, None, b""),
        ("text", None, None, b""),
        ("bytea", None, None, b""),
    ]:
        execute(one_dsn, "drop table if exists public.outboxevent; truncate relay.outbox")
        execute(one_dsn, DEBEZIUM.replace("payload jsonb", f"payload {type_}"))
        await adopt(one_dsn)
        with psycopg.connect(one_dsn) as connection:
            write(connection, ("a", "1", "b", written))
        assert events(one_dsn, "payload::text, payload_bytes") == [(payload, payload_bytes)], type_


async def test_odd_names_are_names_and_nothing_else(one_dsn: str) -> None:
    quoted = '"' + ODD.replace('"', '""') + '"'
    execute(one_dsn, f"create schema {quoted}")
    execute(
        one_dsn,
        f"create table {quoted}.{quoted} (id int primary key, {quoted} text, r text, payload json)",
    )
    fields = {"subject": "x.{r}.100%s", "key": ODD, "header:Type": ODD, "idempotency_key": "id"}
    await adopt(one_dsn, f"{quoted}.{quoted}", fields)
    execute(
        one_dsn, f"insert into {quoted}.{quoted} values (1, 'k', 't', '1'), (2, null, 't', '2')"
    )
    assert events(one_dsn, "subject, key, headers, idempotency_key") == [
        ("x.t.100%s", "k", {"Type": "k"}, f"{ODD}.{ODD}:1"),
        ("x.t.100%s", None, {}, f"{ODD}.{ODD}:2"),
    ]


async def test_a_mapping_of_one_s_own(one_dsn: str) -> None:
    execute(one_dsn, NUMBERED.replace("body jsonb", "body jsonb, meta jsonb, tenant int"))
    fields = NUMBERED_FIELDS | {
        "key": "{tenant}-{ref}",
        "headers": "meta",
        "header:eventType": "topic",
    }
    await adopt(one_dsn, "public.events", fields)
    execute(
        one_dsn,
        "insert into events (topic, ref, body, meta, tenant)"
        " values ('a.b', 'x', '1', '{\"t\": \"1\"}', 7), ('a.c', null, '2', null, null)",
    )
    assert events(one_dsn, "subject, key, payload, headers, idempotency_key") == [
        ("a.b", "7-x", 1, {"t": "1", "eventType": "a.b"}, "public.events:1"),
        ("a.c", None, 2, {"eventType": "a.c"}, "public.events:2"),
    ]


async def test_a_partitioned_table_is_adopted_with_what_goes_straight_to_its_partitions(
    outbox_dsn: str,
) -> None:
    execute(
        outbox_dsn,
        "create table events (id bigint, topic text, ref text, body jsonb) partition by range (id);"
        "create table low (body jsonb, ref text, topic text, id bigint);"
        "alter table events attach partition low for values from (0) to (100)",
    )
    for _ in range(2):
        await adopt(outbox_dsn, "public.events", NUMBERED_FIELDS)
    execute(outbox_dsn, "create table high partition of events for values from (100) to (200)")
    execute(outbox_dsn, "insert into events values (1, 'a.b', 'k', '1'), (101, 'a.b', 'k', '2')")
    execute(outbox_dsn, "insert into low (id, topic, ref, body) values (2, 'a.b', 'k', '3')")
    execute(outbox_dsn, "insert into high values (102, 'a.b', 'k', '4')")
    assert [text for *_, text in events(outbox_dsn)] == ["1", "2", "3", "4"]
    with pytest.raises(SettingsError, match="is a partition"):
        await adopt(outbox_dsn, "public.low", NUMBERED_FIELDS)
    await undo(outbox_dsn, "public.events")


async def test_undo_leaves_nothing(outbox_dsn: str) -> None:
    execute(outbox_dsn, DEBEZIUM)
    catalog = (
        "select (select count(*) from pg_proc), (select count(*) from pg_trigger),"
        " (select count(*) from pg_class), (select count(*) from pg_description)"
    )
    before = execute(outbox_dsn, catalog)
    await adopt(outbox_dsn)
    assert execute(outbox_dsn, catalog) != before
    await undo(outbox_dsn)
    assert execute(outbox_dsn, catalog) == before
    execute(outbox_dsn, INSERT + "('a', '1', 'b', '1')")
    assert events(outbox_dsn) == []
    with pytest.raises(SettingsError, match="is not adopted"):
        await undo(outbox_dsn)


async def test_adopting_again_takes_the_other_mapping(one_dsn: str) -> None:
    execute(one_dsn, DEBEZIUM)
    await adopt(one_dsn)
    await adopt(one_dsn, fields={"subject": "shop.{type}", "key": "", "idempotency_key": ""})
    execute(one_dsn, INSERT + "('a', '1', 'b', '1')")
    assert events(one_dsn, "subject, key, idempotency_key") == [("shop.b", None, None)]
    assert execute(one_dsn, "select count(*) from pg_trigger where tgname = 'relay_adopt'") == [
        (1,)
    ]


async def test_a_renamed_schema_adopts_again_and_another_one_does_not(outbox_dsn: str) -> None:
    execute(outbox_dsn, DEBEZIUM)
    await adopt(outbox_dsn)
    await migrations.migrate(outbox_dsn, "bus")
    with pytest.raises(SettingsError, match='in the outbox of schema "relay"'):
        await adopt(outbox_dsn, schema="bus")
    execute(outbox_dsn, "drop schema bus cascade; alter schema relay rename to bus")
    await migrations.migrate(outbox_dsn, "bus")
    with pytest.raises(errors.UndefinedTable):
        execute(outbox_dsn, INSERT + "('a', '1', 'b', '1')")
    await adopt(outbox_dsn, schema="bus")
    execute(outbox_dsn, INSERT + "('a', '1', 'b', '1')")
    assert execute(outbox_dsn, "select subject from bus.outbox") == [("a.b",)]


async def test_the_relay_minds_no_adopted_table(outbox_dsn: str) -> None:
    execute(outbox_dsn, DEBEZIUM)
    await adopt(outbox_dsn)
    async with await psycopg.AsyncConnection.connect(outbox_dsn, autocommit=True) as connection:
        await migrations.verify(connection, "relay")
    await migrations.check(outbox_dsn, "relay")
    assert await migrations.migrate(outbox_dsn, "relay") == []
    owners = "select pg_get_userbyid(proowner) from pg_proc where proname like 'adopt%'"
    assert execute(outbox_dsn, owners) == [("relay_owner",)]


UNFIT: list[tuple[str, dict[str, str], str]] = [
    ("public.nowhere", {}, "there is no table public.nowhere"),
    ("public.a.b.c", {}, "there is no table"),
    ("outboxevent", {}, "with its schema"),
    ('public."', {}, "there is no table"),
    ("relay.outbox", {}, "is not a table of an application"),
    ("public.seen", {}, "is not a table of an application"),
    (
        "public.outboxevent",
        {"key": "order_id"},
        "the key is to come from order_id, .* there are id, ",
    ),
    ("public.outboxevent", {"subject": "{topic}.x"}, "the subject is to come from topic"),
    ("public.outboxevent", {"subject": "orders"}, "the subject is to come from orders"),
    ("public.outboxevent", {"payload": "id"}, "the payload is to come from id, which is uuid"),
    ("public.outboxevent", {"payload": "{id}{type}"}, "from a template"),
    ("public.outboxevent", {"payload": ""}, "an event needs a payload"),
    ("public.outboxevent", {"headers": "type"}, "headers is to come from type, which is text"),
    ("public.outboxevent", {"topic": "type"}, "--map topic=…: the fields are subject, key"),
]


async def test_what_does_not_fit_is_refused_with_its_name(one_dsn: str) -> None:
    execute(one_dsn, DEBEZIUM)
    execute(one_dsn, "create view public.seen as select 1 as one")
    for table, fields, words in UNFIT:
        with pytest.raises(SettingsError, match=words):
            await adopt(one_dsn, table, fields)


async def test_rows_that_are_there_try_the_mapping_before_anything_is_changed(one_dsn: str) -> None:
    execute(one_dsn, DEBEZIUM)
    execute(one_dsn, INSERT + "('a', '1', 'b c', '1')")
    with pytest.raises(EventRefused, match=r"no spaces.*.*subject 'a\.b c'.*--where"):
        await adopt(one_dsn)
    with pytest.raises(SettingsError, match='column "sent" does not exist'):
        await adopt(one_dsn, where="sent is null")
    assert execute(one_dsn, "select count(*) from pg_trigger where tgname = 'relay_adopt'") == [
        (0,)
    ]
    await adopt(one_dsn, where="type <> 'b c'")
    assert events(one_dsn) == []


async def test_a_login_that_may_not_is_told_who_may(outbox_dsn: str, shop: str) -> None:
    with pytest.raises(SchemaError, match="permission denied for schema relay"):
        await adopt(shop)
    execute(outbox_dsn, f"grant relay_owner to {conninfo_to_dict(shop)['user']}")
    with pytest.raises(SchemaError, match="owns the table and is in the role relay_owner"):
        await adopt(shop)
    execute(outbox_dsn, f"alter table public.outboxevent owner to {conninfo_to_dict(shop)['user']}")
    await adopt(shop)
    await undo(shop)
