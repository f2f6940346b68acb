"""The Postgres store where it differs from every other one: retention, bytes, outages."""

from collections.abc import AsyncIterator

import anyio
import psycopg
import pytest
from psycopg import sql

from relay.core import disposition
from relay.errors import SchemaError, SettingsError, StoreOutage, TermLost
from relay.ports import Settlement
from relay.postgres import housekeeping
from relay.postgres.housekeeping import PRUNE_CHUNK_ROWS
from relay.postgres.outbox import PostgresOutbox
from relay.postgres.session import Session, StatementCanceled
from relay.postgres.store import PostgresStore
from tests.postgres.leases import PATIENT

pytestmark = pytest.mark.anyio

KIB = 1024
INSERT = (
    "insert into relay.outbox (subject, payload_bytes) select 'a.b', %s from generate_series(1, %s)"
)


@pytest.fixture
async def producer(outbox_dsn: str) -> AsyncIterator[psycopg.AsyncConnection]:
    async with await psycopg.AsyncConnection.connect(outbox_dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
async def outbox(outbox_dsn: str) -> AsyncIterator[PostgresOutbox]:
    outbox = PostgresOutbox(outbox_dsn, "relay", page_bytes=64 * KIB, lease_lifetime=PATIENT)
    yield outbox
    await outbox.close()


@pytest.fixture
async def store(outbox: PostgresOutbox) -> AsyncIterator[PostgresStore]:
    store = await outbox.campaign("tester")
    assert store is not None
    yield store
    await store.close()


async def ids(connection: psycopg.AsyncConnection) -> list[int]:
    found = await connection.execute("select id from relay.outbox order by id")
    return [id_ for (id_,) in await found.fetchall()]


async def age(connection: psycopg.AsyncConnection, interval: str) -> None:
    """Let the settlements so far be older than they are."""
    await connection.execute(
        "update relay.settled set settled_at = settled_at - %s::interval", (interval,)
    )


async def deliver_all(store: PostgresStore) -> int:
    """Read and settle everything; how many pages that were."""
    pages = 0
    while (page := await store.read(1000)).position is not None:
        await store.settle(Settlement(page.position))
        pages += 1
    return pages


async def test_pages_end_with_the_event_that_reaches_the_bytes_and_a_large_one_is_its_own(
    store: PostgresStore, producer: psycopg.AsyncConnection
) -> None:
    for size in (10 * KIB, 60 * KIB, 200 * KIB, 1, 1):
        await producer.execute(INSERT, (b"x" * size, 1))
    sizes = []
    while (page := await store.read(100)).events:
        sizes.append([len(event.payload) for event in page.events])
    assert sizes == [[10 * KIB, 60 * KIB], [200 * KIB], [1, 1]]


async def test_what_compresses_well_counts_by_its_real_size(
    store: PostgresStore, producer: psycopg.AsyncConnection
) -> None:
    """A value that was stored compressed elsewhere can arrive compressed here."""
    await producer.execute("create table elsewhere (payload bytea)")
    for _ in range(3):
        await producer.execute("insert into elsewhere values (%s)", (b"x" * (60 * KIB),))
    await producer.execute(
        "insert into relay.outbox (subject, payload_bytes) select 'a.b', payload from elsewhere"
    )
    sizes = []
    while (page := await store.read(100)).events:
        sizes.append(len(page.events))
    assert sizes == [2, 1]


async def test_retention_counts_from_the_settlement_and_takes_nothing_else(
    store: PostgresStore, producer: psycopg.AsyncConnection
) -> None:
    # R-LOSS
    await producer.execute(INSERT, (b"old", 3))
    await producer.execute("update relay.outbox set created_at = '2020-01-01'")
    await deliver_all(store)
    assert await store.tend(900.0) == 0  # its settlement is young
    await age(producer, "1 hour")
    await producer.execute(INSERT, (b"young", 2))
    await deliver_all(store)
    await producer.execute(INSERT, (b"not delivered", 1))
    await producer.execute("update relay.outbox set created_at = '2020-01-01' where id = 6")
    assert await store.tend(900.0) == 3
    assert await ids(producer) == [4, 5, 6]
    assert await store.tend(900.0) == 0


async def test_a_late_committer_is_kept_as_long_as_any_other(
    store: PostgresStore, producer: psycopg.AsyncConnection, outbox_dsn: str
) -> None:
    # R-LOSS
    async with await psycopg.AsyncConnection.connect(outbox_dsn) as late:
        await late.execute(INSERT, (b"late", 1))
        await producer.execute(INSERT, (b"early", 2))
        await deliver_all(store)
        await store.tend(900.0)
        await late.commit()
    await age(producer, "1 hour")
    assert await store.tend(900.0) == 2
    assert await ids(producer) == [1]
    assert [event.payload for event in (await store.read(10)).events] == [b"late"]
    await deliver_all(store)
    assert await store.tend(900.0) == 0
    assert await ids(producer) == [1]


async def test_retention_goes_in_bounded_chunks_and_past_what_it_must_keep(
    store: PostgresStore, producer: psycopg.AsyncConnection, outbox_dsn: str
) -> None:
    # R-BOUND
    async with await psycopg.AsyncConnection.connect(outbox_dsn) as late:
        await late.execute(INSERT, (b"x", PRUNE_CHUNK_ROWS))
        await producer.execute(INSERT, (b"x", PRUNE_CHUNK_ROWS + 7))
        await deliver_all(store)
        await late.commit()
    assert [await store.tend(0.0) for _ in range(3)] == [PRUNE_CHUNK_ROWS, 7, 0]
    assert len(await ids(producer)) == PRUNE_CHUNK_ROWS


async def test_no_number_of_rows_that_are_kept_stops_retention_behind_them(
    store: PostgresStore,
    producer: psycopg.AsyncConnection,
    outbox_dsn: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Though between any two pieces a walk from the lowest id would be due."""
    # R-BOUND
    monkeypatch.setattr(housekeeping, "PRUNE_CHUNK_ROWS", 10)
    monkeypatch.setattr(housekeeping, "CHUNKS_AT_ONCE", 3)
    async with await psycopg.AsyncConnection.connect(outbox_dsn) as late:
        await late.execute(INSERT, (b"x", 200))
        await producer.execute(INSERT, (b"x", 5))
        await deliver_all(store)
        await late.commit()
    deleted = 0
    for _ in range(10):
        store._housekeeping._bottom_at = float("-inf")
        deleted += await store.tend(0.0)
    assert deleted == 5


async def test_a_row_that_can_t_be_deleted_is_told_and_ends_nothing(
    store: PostgresStore, producer: psycopg.AsyncConnection
) -> None:
    """Somebody's own table refers to it; housekeeping is told of, and tried again."""
    # R-FATE
    await producer.execute(INSERT, (b"x", 2))
    await deliver_all(store)
    await producer.execute("create table audit (event bigint references relay.outbox (id))")
    await producer.execute("insert into audit values (1)")
    with pytest.raises(StoreOutage, match="audit"):
        await store.tend(0.0)
    await producer.execute("drop table audit")
    assert await store.tend(0.0) == 2


async def test_an_error_of_no_outage_s_kind_beside_delivery_is_waited_for(
    outbox: PostgresOutbox, store: PostgresStore
) -> None:
    """Such as that of a broken index, or of a table that another session is changing."""
    # R-FATE
    with pytest.raises(StoreOutage, match="refuses it: division by zero"):
        async with outbox.pool.session() as session:
            await session.rows(sql.SQL("select 1 / 0").format())
    assert (await store.look(None)).undelivered == 0


@pytest.mark.parametrize("hours", [1, -1, 24 * 365])
async def test_a_jump_of_the_server_s_clock_shortens_no_retention(
    store: PostgresStore, producer: psycopg.AsyncConnection, hours: int
) -> None:
    """The clock can't be set for a test: the settlements so far move the other way."""
    # R-LOSS
    await producer.execute(INSERT, (b"x", 3))
    await deliver_all(store)
    await store.tend(900.0)
    wall, here = store._housekeeping._clocks or (None, 0.0)
    assert wall is not None
    shift = f"{-hours} hours"
    await age(producer, f"{hours} hours")
    row = await (await producer.execute("select %s + %s::interval", (wall, shift))).fetchone()
    assert row is not None
    store._housekeeping._clocks = row[0], here
    assert await store.tend(900.0) == 0
    assert len(await ids(producer)) == 3
    await age(producer, "16 minutes")
    assert await store.tend(900.0) == 3


async def test_notes_from_the_future_are_no_reason_to_keep_for_ever(
    store: PostgresStore, producer: psycopg.AsyncConnection
) -> None:
    await producer.execute(INSERT, (b"x", 3))
    await deliver_all(store)
    await store.tend(900.0)
    await age(producer, "-1 hour")
    assert await store.tend(900.0) == 0
    row = await (await producer.execute("select count(*) from relay.settled")).fetchone()
    assert row == (1,)
    await age(producer, "16 minutes")
    assert await store.tend(900.0) == 3


async def test_what_was_settled_when_is_a_short_list(
    store: PostgresStore, producer: psycopg.AsyncConnection
) -> None:
    # R-BOUND
    for _ in range(60):
        await producer.execute(INSERT, (b"x", 1))
        await deliver_all(store)
        await store.tend(900.0)
        await age(producer, "1 minute")
    row = await (await producer.execute("select count(*) from relay.settled")).fetchone()
    assert row is not None
    assert 10 <= row[0] <= 20
    assert 15 <= len(await ids(producer)) <= 18


async def test_a_look_writes_nothing_and_sees_from_where_it_is_asked(
    store: PostgresStore, producer: psycopg.AsyncConnection
) -> None:
    await producer.execute(INSERT, (b"x", 25))
    page = await store.read(10)
    before = await (await producer.execute("select xmin, ctid from relay.cursor")).fetchone()
    assert (await store.look(None)).undelivered == 25
    assert (await store.look(page.position)).undelivered == 15
    page = await store.read(100)
    assert (await store.look(page.position)).undelivered == 0
    assert (await store.look(page.position)).lag == 0.0
    after = await (await producer.execute("select xmin, ctid from relay.cursor")).fetchone()
    assert after == before


async def test_the_lag_is_that_of_the_oldest_whoever_it_waits_behind(
    store: PostgresStore, producer: psycopg.AsyncConnection
) -> None:
    await producer.execute(
        "insert into relay.outbox (subject, key, payload_bytes) select 'a.b', 'k', 'x'"
        " from generate_series(1, 3)"
    )
    await producer.execute("update relay.outbox set created_at = now() - '1 hour'::interval")
    page = await store.read(10)
    parked = [*map(disposition.behind, page.events)]
    await store.settle(Settlement(page.position, parked))
    backlog = await store.look(None)
    assert (backlog.undelivered, backlog.parked, backlog.held) == (0, 3, 0)
    assert 3600 <= backlog.lag < 3700
    assert backlog.held_lag == 0.0


@pytest.mark.parametrize("change", ["epoch = epoch + 1", "holder = 'another'"])
async def test_a_term_that_is_over_parks_nothing(
    store: PostgresStore, producer: psycopg.AsyncConnection, change: str
) -> None:
    # R-TERM
    await producer.execute(INSERT, (b"x", 1))
    page = await store.read(10)
    await producer.execute(f"update relay.cursor set {change}")
    with pytest.raises(TermLost):
        await store.settle(Settlement(page.position, [disposition.behind(page.events[0])]))
    parked = await producer.execute("select count(*) from relay.parked")
    assert await parked.fetchone() == (0,)


async def test_a_terminated_session_is_an_outage(
    store: PostgresStore, producer: psycopg.AsyncConnection
) -> None:
    await producer.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where application_name = 'relay reader' and datname = current_database()"
    )
    with pytest.raises(StoreOutage):
        await store.read(10)


async def test_a_statement_without_an_answer_is_an_outage_within_its_deadline(
    outbox_dsn: str,
) -> None:
    session = await Session.connect(outbox_dsn, "sleeper")
    with anyio.fail_after(10), pytest.raises(StoreOutage, match=r"within 0\.2 s"):
        await session.rows(psycopg.sql.SQL("select pg_sleep(60)").format(), deadline=0.2)
    assert session.connection.closed


async def test_a_cancelled_statement_leaves_the_session_usable(
    outbox_dsn: str, producer: psycopg.AsyncConnection
) -> None:
    async with await Session.connect(outbox_dsn, "sleeper") as session:
        async with anyio.create_task_group() as tasks:

            async def cancel() -> None:
                asked = psycopg.sql.SQL(
                    "select coalesce(bool_or(pg_cancel_backend(pid)), false)"
                    " from pg_stat_activity where wait_event = 'PgSleep'"
                    " and datname = current_database()"
                )
                while await (await producer.execute(asked)).fetchone() != (True,):
                    await anyio.sleep(0.01)

            tasks.start_soon(cancel)
            with pytest.raises(StatementCanceled):
                await session.rows(psycopg.sql.SQL("select pg_sleep(60)").format())
        assert await session.row(psycopg.sql.SQL("select 1").format()) == (1,)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"host": "127.0.0.1", "port": "1"}, StoreOutage),
        ({"dbname": "nobody_made_it"}, StoreOutage),
    ],
)
async def test_a_server_that_is_not_there_is_an_outage_with_its_reason(
    outbox_dsn: str, change: dict[str, str], kind: type[Exception]
) -> None:
    dsn = psycopg.conninfo.make_conninfo(outbox_dsn, **change)
    with pytest.raises(kind, match=r"refused|does not exist"):
        await PostgresOutbox(dsn, "relay", page_bytes=KIB).campaign("tester")


async def test_a_connection_string_that_cannot_be_read_shows_nothing_of_itself() -> None:
    with pytest.raises(SettingsError) as refused:
        await Session.connect("password=secret hots=db", "tester")
    assert "secret" not in str(refused.value)


async def test_a_login_without_rights_is_told_what_to_grant(
    outbox_dsn: str, producer: psycopg.AsyncConnection
) -> None:
    await producer.execute("drop role if exists stranger")
    await producer.execute("create role stranger login")
    dsn = psycopg.conninfo.make_conninfo(outbox_dsn, user="stranger")
    try:
        with pytest.raises(SchemaError, match="relay role"):
            await PostgresOutbox(dsn, "relay", page_bytes=KIB).campaign("tester")
    finally:
        await producer.execute("drop role stranger")
