"""What the tables and views are like: storage, vacuum, access paths, and what the views count."""

import json
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from relay import devstack

COMMITTED = (
    "insert into relay.outbox (subject, payload) select 'a.b', '1' from generate_series(1, %s)"
)


@pytest.fixture(scope="module")
def dsn(postgres_server: devstack.Postgres, outbox_template: str) -> Iterator[str]:
    name = f"schema_{uuid.uuid4().hex[:12]}"
    yield postgres_server.create_database(name, template=outbox_template)
    postgres_server.drop_database(name)


@pytest.fixture
def connection(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(dsn, autocommit=True) as made:
        made.execute("truncate relay.parked")
        made.execute("truncate relay.outbox restart identity")
        made.execute(
            "update relay.cursor set base = '1:1:', target = null, last_id = 0, epoch = 0,"
            " holder = null, settled_at = null"
        )
        made.execute("update relay.report set epoch = 0, delivered = 0, lag_breaker = null")
        yield made


def one(connection: psycopg.Connection[Any], query: str, *values: object) -> Any:
    row = connection.execute(query, values).fetchone()
    assert row is not None
    return row[0]


def write(connection: psycopg.Connection[Any], count: int = 1) -> None:
    connection.execute(COMMITTED, (count,))


def pending(connection: psycopg.Connection[Any]) -> list[int]:
    return [id_ for (id_,) in connection.execute("select id from relay.pending order by id")]


def status(connection: psycopg.Connection[Any]) -> dict[str, Any]:
    with connection.cursor(row_factory=psycopg.rows.dict_row) as cursor:
        (row,) = cursor.execute("select * from relay.status").fetchall()
        return row


def move_cursor(connection: psycopg.Connection[Any], **to: object) -> None:
    for column, value in to.items():
        connection.execute(f"update relay.cursor set {column} = %s", (value,))


def now(connection: psycopg.Connection[Any]) -> str:
    return str(one(connection, "select pg_current_snapshot()::text"))


def test_payloads_are_never_compressed(connection: psycopg.Connection[Any]) -> None:
    connection.execute("select relay.emit('a.b', %s)", (json.dumps("x" * 100_000),))
    assert one(connection, "select pg_column_size(payload) from relay.outbox") == 100_002
    storage = connection.execute(
        "select attname, attstorage::text from pg_attribute "
        "where attrelid = 'relay.outbox'::regclass and attname like 'payload%'"
    ).fetchall()
    assert storage == [("payload", "e"), ("payload_bytes", "e")]


def test_every_column_has_a_base_type(connection: psycopg.Connection[Any]) -> None:
    """Drivers that ask for a parameter's type know no domains."""
    types = connection.execute(
        "select attname, t.typtype::text from pg_attribute join pg_type as t on t.oid = atttypid "
        "where attrelid = 'relay.outbox'::regclass and attnum > 0"
    ).fetchall()
    assert {kind for _, kind in types} == {"b"}


def test_every_table_can_be_deleted_from_though_all_tables_are_published(
    connection: psycopg.Connection[Any],
) -> None:
    """R-BOUND: without a key or a replica identity, prune would fail from then on."""
    assert (
        connection.execute(
            "select c.relname from pg_class as c where c.relkind = 'r' and c.relreplident = 'd'"
            " and c.relnamespace = 'relay'::regnamespace and not exists"
            " (select from pg_index as i where i.indrelid = c.oid and i.indisprimary)"
        ).fetchall()
        == []
    )


def test_what_the_database_fills_in(connection: psycopg.Connection[Any]) -> None:
    with connection.transaction():
        write(connection, 2)
        rows = connection.execute(
            "select id, xid = pg_current_xact_id(), event_id, "
            "clock_timestamp() - created_at between '0 s' and '1 min' "
            "from relay.outbox order by id"
        ).fetchall()
    assert [(id_, mine, fresh) for id_, mine, _, fresh in rows] == [
        (1, True, True),
        (2, True, True),
    ]
    assert rows[0][2] != rows[1][2]


def test_ids_are_handed_out_without_a_cache(connection: psycopg.Connection[Any]) -> None:
    """A session's cached ids would go out of order against another session's."""
    cache = one(
        connection,
        "select seqcache from pg_sequence where seqrelid = 'relay.outbox_id_seq'::regclass",
    )
    assert cache == 1


@pytest.mark.parametrize("relation", ["relay.outbox", "toast of relay.outbox", "relay.cursor"])
def test_vacuum_goes_by_counts_and_does_not_pause(
    connection: psycopg.Connection[Any], relation: str
) -> None:
    table = relation.removeprefix("toast of ")
    column = "reltoastrelid" if relation.startswith("toast") else "oid"
    options = dict(
        option.split("=")
        for option in one(
            connection,
            "select reloptions from pg_class where oid = "
            f"(select {column} from pg_class where oid = %s::regclass)",
            table,
        )
    )
    assert float(options["autovacuum_vacuum_scale_factor"]) == 0
    assert float(options["autovacuum_vacuum_cost_delay"]) == 0
    assert 0 < int(options["autovacuum_vacuum_threshold"]) <= 50_000


def test_settling_stays_on_one_block_without_vacuum(connection: psycopg.Connection[Any]) -> None:
    for _ in range(500):
        connection.execute("update relay.cursor set last_id = last_id + 1, settled_at = now()")
    assert one(connection, "select pg_relation_size('relay.cursor')") <= 2 * 8192
    assert one(connection, "select last_id from relay.cursor") == 500


def test_the_cursor_has_exactly_one_row(connection: psycopg.Connection[Any]) -> None:
    assert one(connection, "select count(*) from relay.cursor") == 1
    with pytest.raises(psycopg.errors.UniqueViolation):
        connection.execute("insert into relay.cursor (system_identifier) values (1)")
    with pytest.raises(psycopg.errors.CheckViolation, match="cursor_has_one_row"):
        connection.execute("insert into relay.cursor (id, system_identifier) values (false, 1)")


def test_pending_shows_what_is_committed_and_not_settled(
    connection: psycopg.Connection[Any], dsn: str
) -> None:
    with psycopg.connect(dsn) as late:
        write(late)  # id 1, in flight at every snapshot below
        write(connection)  # id 2
        assert pending(connection) == [2]
        base = now(connection)
        move_cursor(connection, base=base)
        assert pending(connection) == []
        write(connection)  # id 3
        late.commit()
        assert pending(connection) == [1, 3]
        assert status(connection)["backlog"] == 2
    move_cursor(connection, base=now(connection))
    assert pending(connection) == []
    assert status(connection)["backlog"] == 0


def test_in_a_window_what_is_read_already_is_not_pending(
    connection: psycopg.Connection[Any], dsn: str
) -> None:
    with psycopg.connect(dsn) as late:
        write(late)  # id 1: commits after the window was fixed, below what is read
        write(connection, 10)  # ids 2 to 11
        move_cursor(connection, target=now(connection), last_id=6)
        assert pending(connection) == [7, 8, 9, 10, 11]
        late.commit()
    write(connection)
    assert pending(connection) == [1, 7, 8, 9, 10, 11, 12]
    assert status(connection)["backlog"] == 7


def test_status_of_an_empty_outbox(connection: psycopg.Connection[Any]) -> None:
    row = status(connection)
    assert row["backlog"] == row["parked"] == row["dead"] == row["epoch"] == row["delivered"] == 0
    assert row["backlog_is_capped"] is False
    assert row["oldest_created_at"] is None
    assert row["lag_seconds"] == 0.0


def test_status_counts_lag_parked_and_dead(connection: psycopg.Connection[Any]) -> None:
    write(connection, 3)
    connection.execute(
        "update relay.outbox set created_at = clock_timestamp() - interval '90 s' where id = 2"
    )
    park(connection, 1, dead=False)
    park(connection, 2, dead=False)
    park(connection, 3, dead=True, age="1 day")
    move_cursor(connection, epoch=7, holder="relay-1")
    connection.execute("update relay.report set epoch = 7, delivered = 10, refused = 3")
    row = status(connection)
    assert (row["backlog"], row["parked"], row["dead"], row["held"]) == (3, 3, 1, 0)
    assert (row["epoch"], row["holder"], row["delivered"], row["refused"]) == (7, "relay-1", 10, 3)
    assert 90 <= row["lag_seconds"] < 150


def park(
    connection: psycopg.Connection[Any],
    id_: int,
    *,
    dead: bool,
    age: str = "0 s",
    held_by: str = "",
) -> None:
    connection.execute(
        "insert into relay.parked (id, event_id, created_at, subject, last_error, dead_at, held_by)"
        " values (%s, gen_random_uuid(), now() - %s::interval, 'a.b', 'no',"
        " case when %s then now() end, %s)",
        (id_, age, dead, held_by),
    )


@pytest.mark.parametrize("held_by", ["", "stream ORDERS"])
def test_the_lag_is_that_of_the_oldest_undelivered_event_whoever_it_waits_behind(
    connection: psycopg.Connection[Any], held_by: str
) -> None:
    write(connection)
    park(connection, 9, dead=False)
    park(connection, 8, dead=False, age="1 hour", held_by=held_by)
    park(connection, 7, dead=True, age="1 day")
    row = status(connection)
    assert 3600 <= row["lag_seconds"] < 3660
    assert (row["held"], 3600 <= row["held_lag_seconds"] < 3660) == (
        (1, True) if held_by else (0, False)
    )


@pytest.mark.parametrize("instant", ["infinity", "-infinity", "10000-01-01", "0044-03-15 BC"])
def test_status_goes_by_the_instants_that_can_be_read(
    connection: psycopg.Connection[Any], instant: str
) -> None:
    write(connection, 2)
    with connection.transaction(force_rollback=True):
        connection.execute("alter table relay.outbox drop constraint outbox_publishable")
        connection.execute("update relay.outbox set created_at = %s where id = 1", (instant,))
        row = status(connection)
    assert (row["backlog"], 0 <= row["lag_seconds"] < 60) == (2, True)


def test_what_an_earlier_term_said_of_itself_is_not_shown(
    connection: psycopg.Connection[Any],
) -> None:
    move_cursor(connection, epoch=8)
    connection.execute("update relay.report set epoch = 7, delivered = 10, lag_breaker = 'open'")
    row = status(connection)
    assert (row["delivered"], row["lag_breaker"], row["reported_at"]) == (0, None, None)


@pytest.mark.parametrize("window", [False, True])
def test_status_looks_at_ten_thousand_and_says_that_there_are_more(
    connection: psycopg.Connection[Any], window: bool
) -> None:
    write(connection, 10_001)
    if window:
        move_cursor(connection, target=now(connection))
    row = status(connection)
    assert (row["backlog"], row["backlog_is_capped"]) == (10_000, True)


def test_status_reads_a_bounded_part_of_a_large_outbox(
    connection: psycopg.Connection[Any], dsn: str
) -> None:
    with psycopg.connect(dsn) as late:
        write(late)
        write(connection, 200_000)
        base = now(connection)
        late.commit()
    connection.execute("analyze relay.outbox")
    target = now(connection)
    for places in (
        {"base": "1:1:"},
        {"base": base},
        {"base": target},
        {"base": "1:1:", "target": target, "last_id": 100_000},
    ):
        move_cursor(connection, **places)
        (plan,) = one(
            connection, "explain (analyze, timing off, buffers, format json) table relay.status"
        )
        blocks = plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"]
        assert blocks < 700, places  # the table alone has more than 2,000


def test_status_does_not_walk_over_what_is_delivered_behind_a_late_committer(
    connection: psycopg.Connection[Any], dsn: str
) -> None:
    """A window that begins at a low id, with few new rows behind 200,000 delivered ones. R-BOUND"""
    with psycopg.connect(dsn) as late:
        write(late)
        write(connection, 200_000)
        base = now(connection)
        late.commit()
    write(connection, 500)
    connection.execute("analyze relay.outbox")
    move_cursor(connection, base=base, target=now(connection), last_id=1)
    (plan,) = one(
        connection, "explain (analyze, timing off, buffers, format json) table relay.status"
    )
    blocks = plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"]
    assert blocks < 700
    assert status(connection)["backlog"] == 500


def test_pending_finds_a_few_among_many_by_the_index(
    connection: psycopg.Connection[Any], dsn: str
) -> None:
    with psycopg.connect(dsn) as late:
        write(late)
        write(connection, 200_000)
        move_cursor(connection, base=now(connection))
        late.commit()
    write(connection)
    connection.execute("analyze relay.outbox")
    (plan,) = one(
        connection, "explain (analyze, timing off, buffers, format json) table relay.pending"
    )
    assert plan["Plan"]["Actual Rows"] == 2
    blocks = plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"]
    assert blocks < 100
