"""The Postgres store where it differs from every other one: retention, bytes, clusters, outages."""

from collections.abc import AsyncIterator

import anyio
import psycopg
import pytest

from relay import Relay, Settings
from relay.core import parking
from relay.errors import SchemaError, SettingsError, StoreOutage, TermLost
from relay.facts import Fact, StandingBy
from relay.memory import MemoryBus
from relay.ports import Settlement
from relay.postgres.session import Session, StatementCanceled
from relay.postgres.store import PRUNE_CHUNK_ROWS, PostgresOutbox, PostgresStore

pytestmark = pytest.mark.anyio

KIB = 1024
INSERT = (
    "insert into relay.outbox (subject, payload_bytes, created_at)"
    " select 'a.b', %s, clock_timestamp() - %s::interval from generate_series(1, %s)"
)


@pytest.fixture
async def producer(outbox_dsn: str) -> AsyncIterator[psycopg.AsyncConnection]:
    async with await psycopg.AsyncConnection.connect(outbox_dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
async def store(outbox_dsn: str) -> AsyncIterator[PostgresStore]:
    outbox = PostgresOutbox(outbox_dsn, "relay", page_bytes=64 * KIB)
    store = await outbox.campaign("tester")
    assert store is not None
    yield store
    await store.close()


async def ids(connection: psycopg.AsyncConnection) -> list[int]:
    found = await connection.execute("select id from relay.outbox order by id")
    return [id_ for (id_,) in await found.fetchall()]


async def deliver_all(store: PostgresStore) -> int:
    """Read and settle everything; how many pages that were."""
    pages = 0
    while (page := await store.read(1000)).position is not None:
        await store.settle(Settlement(page.position, len(page.events)))
        pages += 1
    return pages


async def test_pages_end_with_the_event_that_reaches_the_bytes_and_a_large_one_is_its_own(
    store: PostgresStore, producer: psycopg.AsyncConnection
) -> None:
    for size in (10 * KIB, 60 * KIB, 200 * KIB, 1, 1):
        await producer.execute(INSERT, (b"x" * size, "0", 1))
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


async def test_retention_takes_what_is_settled_and_old_and_nothing_else(
    store: PostgresStore, producer: psycopg.AsyncConnection
) -> None:
    await producer.execute(INSERT, (b"old", "1 hour", 3))
    await producer.execute(INSERT, (b"young", "0", 2))
    await deliver_all(store)
    await producer.execute(INSERT, (b"old, not delivered", "1 hour", 1))
    assert await store.prune(900.0) == 3
    assert await ids(producer) == [4, 5, 6]
    assert await store.prune(900.0) == 0


async def test_a_late_committer_with_a_low_id_survives_retention(
    store: PostgresStore, producer: psycopg.AsyncConnection, outbox_dsn: str
) -> None:
    async with await psycopg.AsyncConnection.connect(outbox_dsn) as late:
        await late.execute(INSERT, (b"late", "1 hour", 1))
        await producer.execute(INSERT, (b"early", "1 hour", 2))
        await deliver_all(store)
        await late.commit()
    assert await store.prune(1.0) == 2
    assert await ids(producer) == [1]
    assert [event.payload for event in (await store.read(10)).events] == [b"late"]


async def test_retention_goes_in_bounded_chunks_and_past_what_it_must_keep(
    store: PostgresStore, producer: psycopg.AsyncConnection, outbox_dsn: str
) -> None:
    async with await psycopg.AsyncConnection.connect(outbox_dsn) as late:
        await late.execute(INSERT, (b"x", "1 hour", PRUNE_CHUNK_ROWS))
        await producer.execute(INSERT, (b"x", "1 hour", PRUNE_CHUNK_ROWS + 7))
        await deliver_all(store)
        await late.commit()
    assert [await store.prune(1.0) for _ in range(4)] == [0, PRUNE_CHUNK_ROWS, 7, 0]
    assert len(await ids(producer)) == PRUNE_CHUNK_ROWS


async def test_rows_of_another_cluster_are_all_read_again_and_only_once(
    store: PostgresStore, producer: psycopg.AsyncConnection, outbox_dsn: str
) -> None:
    """After a restore the stored transaction ids lie in this cluster's future."""
    await producer.execute(INSERT, (b"x", "0", 5))
    await deliver_all(store)
    await store.close()
    await producer.execute("update relay.outbox set xid = '99999999999'")
    await producer.execute(
        "update relay.cursor set base = '99999999999:99999999999:', system_identifier = 1"
    )
    outbox = PostgresOutbox(outbox_dsn, "relay", page_bytes=64 * KIB)
    with anyio.fail_after(10):
        while (adopted := await outbox.campaign("tester")) is None:
            await anyio.sleep(0.01)
    assert len((await adopted.read(100)).events) == 5
    assert await deliver_all(adopted) == 0
    await producer.execute(INSERT, (b"new", "0", 1))
    assert len((await adopted.read(100)).events) == 1
    await adopted.close()


async def test_a_standby_that_is_stopped_leaves_no_session_behind(
    store: PostgresStore, producer: psycopg.AsyncConnection, outbox_dsn: str
) -> None:
    facts: list[Fact] = []
    standby = Relay(Settings(postgres_dsn=outbox_dsn), bus=MemoryBus(), observer=facts.append)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(standby.run)
        with anyio.fail_after(10):
            while not any(isinstance(fact, StandingBy) for fact in facts):
                await anyio.sleep(0.01)
        standby.stop()
    with anyio.fail_after(10):
        while True:
            sessions = await producer.execute(
                "select count(*) from pg_stat_activity"
                " where application_name = 'relay term' and datname = current_database()"
            )
            if await sessions.fetchone() == (1,):  # the leader's
                break
            await anyio.sleep(0.01)


async def test_a_term_that_is_over_parks_nothing(
    store: PostgresStore, producer: psycopg.AsyncConnection
) -> None:
    await producer.execute(INSERT, (b"x", "0", 1))
    page = await store.read(10)
    await producer.execute("update relay.cursor set epoch = epoch + 1")
    with pytest.raises(TermLost):
        await store.settle(Settlement(page.position, 0, [parking.behind(page.events[0].id)]))
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
