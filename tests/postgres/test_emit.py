"""relay.emit: one event from whatever the producer has at hand, once for an idempotency key."""

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from psycopg import errors
from psycopg.types.json import Json, Jsonb

from relay import devstack


@pytest.fixture(scope="module")
def dsn(postgres_server: devstack.Postgres, outbox_template: str) -> Iterator[str]:
    name = f"emit_{uuid.uuid4().hex[:12]}"
    yield postgres_server.create_database(name, template=outbox_template)
    postgres_server.drop_database(name)


@pytest.fixture
def connection(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(dsn, autocommit=True) as made:
        made.execute("truncate relay.outbox")
        yield made


def written(connection: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
    return connection.execute(
        "select event_id, subject, payload::text, payload_bytes, key, headers, idempotency_key "
        "from relay.outbox order by id"
    ).fetchall()


@pytest.mark.parametrize(
    ("call", "payload", "payload_bytes"),
    [
        ("""emit('a.b', '{"n": 1}')""", '{"n": 1}', None),
        ("""emit('a.b', '{"n":  1}'::json)""", '{"n":  1}', None),
        ("""emit('a.b', '{"n":1}'::jsonb)""", '{"n": 1}', None),
        ("""emit('a.b', '{"n":1}'::text)""", '{"n":1}', None),
        ("""emit('a.b', '{"n":1}'::varchar)""", '{"n":1}', None),
        ("emit('a.b', json_build_object('n', 1))", '{"n" : 1}', None),
        ("emit('a.b', jsonb_build_object('n', 1))", '{"n": 1}', None),
        ("emit('a.b', to_json(17))", "17", None),
        (r"emit_bytes('a.b', '\x00ff')", None, b"\x00\xff"),
        (r"emit_bytes('a.b', '\x00ff'::bytea)", None, b"\x00\xff"),
        ("emit_bytes('a.b', convert_to('ü', 'UTF8'))", None, "ü".encode()),
        ("emit(subject => 'a.b', payload => '[]')", "[]", None),
        ("emit(payload => '[]'::jsonb, subject => 'a.b')", "[]", None),
        (r"emit_bytes(subject => 'a.b', payload => '\x01')", None, b"\x01"),
    ],
)
def test_the_payload_s_type_says_how_it_is_kept(
    connection: psycopg.Connection[Any], call: str, payload: str | None, payload_bytes: bytes | None
) -> None:
    made = connection.execute("select relay." + call).fetchone()
    assert made is not None
    assert written(connection) == [(*made, "a.b", payload, payload_bytes, None, None, None)]


@pytest.mark.parametrize(
    ("function", "value"),
    [
        ("emit", "'[]'"),
        ("emit", "'[]'::json"),
        ("emit", "'[]'::jsonb"),
        ("emit_bytes", r"'\x01'"),
    ],
)
@pytest.mark.parametrize(
    "rest",
    [
        "'k', '{\"h\": \"v\"}', 'i'",
        "'k', jsonb_build_object('h', 'v'), idempotency_key => 'i'",
        "idempotency_key => 'i', headers => '{\"h\": \"v\"}', key => 'k'",
    ],
)
def test_every_argument_goes_by_place_or_by_name(
    connection: psycopg.Connection[Any], function: str, value: str, rest: str
) -> None:
    connection.execute(f"select relay.{function}('a.b', {value}, {rest})")
    ((*_, key, headers, idempotency_key),) = written(connection)
    assert (key, headers, idempotency_key) == ("k", {"h": "v"}, "i")


@pytest.mark.parametrize("how", [("%s", False), ("%s", True), ("%b", False), ("%b", True)])
@pytest.mark.parametrize(
    ("function", "payload", "kept"),
    [
        ("emit", '{"n": 1}', ('{"n": 1}', None)),
        ("emit", Json({"n": 1}), ('{"n": 1}', None)),
        ("emit", Jsonb({"n": 1}), ('{"n": 1}', None)),
        ("emit_bytes", b"\x00\xff", (None, b"\x00\xff")),
        ("emit_bytes", b'{"n": 1}', (None, b'{"n": 1}')),
    ],
)
def test_a_driver_s_parameters_find_their_emit(
    connection: psycopg.Connection[Any],
    function: str,
    payload: object,
    kept: tuple[str | None, bytes | None],
    how: tuple[str, bool],
) -> None:
    binary, prepare = how
    connection.execute(
        f"select relay.{function}(%s, {binary}, key => %s, headers => %s, idempotency_key => %s)",
        ("a.b", payload, "k", Jsonb({"h": "v"}), None),
        prepare=prepare,
    )
    ((_, subject, *content, key, headers, idempotency_key),) = written(connection)
    assert (subject, tuple(content), key) == ("a.b", kept, "k")
    assert (headers, idempotency_key) == ({"h": "v"}, None)


@pytest.mark.parametrize("value", [b"1", b"\xff", memoryview(b"[]")])
@pytest.mark.parametrize("binary", ["%s", "%b"])
def test_bytes_are_never_taken_for_json(
    connection: psycopg.Connection[Any], value: object, binary: str
) -> None:
    with pytest.raises(errors.UndefinedFunction):
        connection.execute(f"select relay.emit('a.b', {binary})", (value,))
    assert written(connection) == []


@pytest.mark.parametrize(
    ("prefix", "key", "retries", "ends"),
    [
        ("", None, 0, "relay-{}"),
        ("", "order-7", 0, "order-7"),
        ("", None, 2, "relay-{}-2"),
        ("", "pay-7", 1, "relay-{}-1"),
        ("eu:", None, 0, "eu:relay-{}"),
        ("eu:", "order-7", 0, "eu:order-7"),
        ("eu:", "order-7", 3, "eu:relay-{}-3"),
    ],
)
def test_a_message_id_is_the_producer_s_key_or_one_that_no_key_can_be(
    connection: psycopg.Connection[Any], prefix: str, key: str | None, retries: int, ends: str
) -> None:
    """R-ONCE"""
    (event_id,) = connection.execute(
        "select relay.emit('a.b', '1', idempotency_key => %s)", (key,)
    ).fetchone() or ("",)
    made = connection.execute(
        "select relay.message_id(%s, o.idempotency_key, o.event_id, %s) from relay.outbox as o",
        (prefix, retries),
    ).fetchone()
    assert made == (ends.format(event_id),)


def test_a_message_id_is_inlined_into_the_query_that_asks(
    connection: psycopg.Connection[Any],
) -> None:
    plan = connection.execute(
        "explain (verbose) select relay.message_id('', o.idempotency_key, o.event_id, 0) "
        "from relay.outbox as o"
    ).fetchall()
    assert "message_id" not in str(plan)


def test_a_key_that_could_be_another_event_s_message_id_is_refused(
    connection: psycopg.Connection[Any],
) -> None:
    """R-ONCE: the second event would be taken for a repeat of the first."""
    (event_id,) = connection.execute("select relay.emit('a.b', '1')").fetchone() or ("",)
    connection.execute("select relay.emit('a.b', '2', idempotency_key => %s::text)", (event_id,))
    for key in (f"relay-{event_id}", f"relay-{event_id}-1"):
        with pytest.raises(errors.CheckViolation, match="does_not_begin_with_relay"):
            connection.execute("select relay.emit('a.b', '3', idempotency_key => %s)", (key,))
    ids = connection.execute(
        "select distinct relay.message_id('', o.idempotency_key, o.event_id, r) "
        "from relay.outbox as o, generate_series(0, 3) as r"
    ).fetchall()
    assert len(ids) == 8


def test_an_idempotency_key_gives_the_first_event_again_whatever_else_is_said(
    connection: psycopg.Connection[Any],
) -> None:
    calls = (
        "emit('a.b', '1', idempotency_key => 'i')",
        "emit('c.d', '2'::jsonb, 'k', idempotency_key => 'i')",
        r"emit_bytes('e.f', '\x03', idempotency_key => 'i')",
    )
    made = {connection.execute("select relay." + call).fetchone() for call in calls}
    ((event_id, subject, payload, *_),) = written(connection)
    assert made == {(event_id,)}
    assert (subject, payload) == ("a.b", "1")


def test_without_an_idempotency_key_every_call_is_an_event(
    connection: psycopg.Connection[Any],
) -> None:
    made = [connection.execute("select relay.emit('a.b', '1')").fetchone() for _ in range(2)]
    assert made[0] != made[1]
    assert all(isinstance(row[0], uuid.UUID) for row in made if row)
    assert len(written(connection)) == 2


def test_an_event_that_is_rolled_back_never_was(connection: psycopg.Connection[Any]) -> None:
    with connection.transaction(force_rollback=True):
        connection.execute("select relay.emit('a.b', '1', idempotency_key => 'i')")
    connection.execute("select relay.emit('a.b', '2', idempotency_key => 'i')")
    assert [row[2] for row in written(connection)] == ["2"]


@pytest.mark.parametrize("commits", [True, False])
def test_an_open_transaction_s_idempotency_key_is_waited_for(
    connection: psycopg.Connection[Any], dsn: str, commits: bool
) -> None:
    call = "select relay.emit('a.b', %s, idempotency_key => 'i')"
    with psycopg.connect(dsn) as first, ThreadPoolExecutor(1) as pool:
        early = first.execute(call, ("1",)).fetchone()
        late = pool.submit(lambda: connection.execute(call, ("2",)).fetchone())
        wait_until_blocked(dsn, connection.info.backend_pid)
        (first.commit if commits else first.rollback)()
        assert (late.result(timeout=20) == early) is commits
    assert [row[2] for row in written(connection)] == ["1" if commits else "2"]


def wait_until_blocked(dsn: str, pid: int) -> None:
    with psycopg.connect(dsn, autocommit=True) as watcher:
        while watcher.execute("select pg_blocking_pids(%s) <> '{}'", (pid,)).fetchone() == (False,):
            pass


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_under_a_snapshot_an_idempotency_key_written_meanwhile_says_try_again(
    connection: psycopg.Connection[Any], dsn: str, level: str
) -> None:
    with psycopg.connect(dsn) as reader:
        reader.execute("set transaction isolation level " + level)
        reader.execute("select 1 from relay.outbox")
        connection.execute("select relay.emit('a.b', '1', idempotency_key => 'i')")
        with pytest.raises(errors.SerializationFailure):
            reader.execute("select relay.emit('a.b', '2', idempotency_key => 'i')")


def test_a_key_whose_event_retention_deleted_is_an_event_again(
    connection: psycopg.Connection[Any],
) -> None:
    call = "select relay.emit('a.b', '1', idempotency_key => 'i')"
    first = connection.execute(call).fetchone()
    connection.execute("delete from relay.outbox")
    assert connection.execute(call).fetchone() != first


def test_a_producer_s_own_tables_and_functions_can_t_stand_in_for_the_outbox(
    connection: psycopg.Connection[Any],
) -> None:
    """It runs with its owner's rights, so nothing of its caller's may be found by name."""
    connection.execute("create schema mine")
    connection.execute("grant all on schema mine to relay_producer")
    connection.execute("set role relay_producer")
    connection.execute("create temp table outbox (subject text, payload json)")
    connection.execute("create table mine.outbox (subject text, payload json)")
    connection.execute("set search_path = pg_temp, mine, relay, pg_catalog")
    connection.execute("select relay.emit('a.b', '1')")
    connection.execute("reset role")
    assert connection.execute("select count(*) from relay.outbox").fetchone() == (1,)
