"""Servers without room: Postgres and nats-server on full disks, JetStream at its quota.

Each of them lives on a small disk that a ballast file fills, under load. Producers may fail, and
Postgres may end; the relay stays, says little, counts it against no event, and delivers everything
that was committed once there is room again.
"""

import asyncio
import os
import signal
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import nats
import psycopg
import pytest

from relay import devstack
from relay.audit.oracle import Committed, compare, digest
from relay.audit.stream import read_stream
from relay.devstack.reaper import runs
from relay.postgres import migrations
from tests.soak.broker import Broker
from tests.system.harness import (
    INSERT,
    STREAM,
    Load,
    RelayProcess,
    connected,
    delivered,
    until,
    verdict,
)
from tests.system.outages import RECOVERED, SittingOut, flows, unharmed
from tests.system.smalldisk import SmallDisk, small_disk

pytestmark = pytest.mark.timeout(120)

NO_ROOM = "No space left on device"
NOTICED_NATS = 10.0
"""Seconds: five for an answer, one for a second look, since the silence may be of some events
alone, and four for a busy machine."""

FLOWED = 200
"""Events that were delivered before anything happens."""


def all_is_well(load: Load, relay: RelayProcess, dsn: str, nats_url: str) -> None:
    load.stop()
    found = asyncio.run(verdict(load, nats_url))
    assert found.is_clean, found
    unharmed(dsn)
    assert relay.process.poll() is None
    assert relay.terminate() == 0


def report(server: str, seconds: float) -> None:
    print(f"{server}: flows {seconds:.2f} s after it can")  # noqa: T201 - a figure
    assert seconds < RECOVERED


# Postgres.


@pytest.fixture
def disk_of_postgres() -> Iterator[SmallDisk]:
    with small_disk(mib=128) as disk:
        yield disk


@pytest.fixture
def small_postgres(
    postgres_server: devstack.Postgres, disk_of_postgres: SmallDisk, tmp_path: Path
) -> Iterator[devstack.Postgres]:
    """A cluster of the same major version on the small disk, committing durably."""
    with disk_of_postgres.holds_temporary_folders():
        made = devstack.postgres(postgres_server.installation, settings={"fsync": "on"})
        server = made.__enter__()
    try:
        server.stop()
        server.log_path = tmp_path / "postgres.log"
        server.start()
        asyncio.run(migrations.migrate(server.dsn, "relay"))
        yield server
    finally:
        made.__exit__(None, None, None)


@contextmanager
def a_long_look(dsn: str) -> Iterator[None]:
    """Hold a snapshot, so that no old row version can be cleared away."""
    with psycopg.connect(dsn) as reader:
        reader.execute("set transaction isolation level repeatable read")
        reader.execute("select from relay.cursor")
        yield


def use_up_the_cursors_pages(dsn: str) -> None:
    """Do what hours of settling do under a long look: leave no room for another row version."""
    with psycopg.connect(dsn, autocommit=True) as neighbour, suppress(psycopg.errors.DiskFull):
        while True:
            neighbour.execute("update relay.cursor set settled_at = settled_at")


def begin_another_wal_segment(dsn: str) -> None:
    """Have 16 MB for what is written next: with a commit in it, the file is there."""
    with connected(dsn) as neighbour:
        neighbour.execute("select pg_switch_wal()")
        neighbour.execute("select pg_logical_emit_message(true, '', '')")


def leave_room_in_the_outbox(dsn: str) -> None:
    """Give it pages that are empty, so that producers can go on for a while on a full disk."""
    with psycopg.connect(dsn) as producer, producer.cursor() as cursor:
        for size in (16, 256, 2048):
            rows = ((str(uuid.uuid4()), "orders.x", "k", os.urandom(size)) for _ in range(3000))
            cursor.executemany(INSERT, list(rows))
        producer.rollback()
        producer.autocommit = True
        for _ in range(2):  # an index's pages are free the second time, for later transactions
            producer.execute("vacuum (truncate off) relay.outbox")
            producer.execute("select pg_current_xact_id()")


def use_up_the_wal(dsn: str) -> None:
    """Write WAL until there is no room for its next segment, which Postgres does not survive."""
    with suppress(psycopg.OperationalError), psycopg.connect(dsn, autocommit=True) as neighbour:
        while True:
            neighbour.execute("select pg_logical_emit_message(false, '', repeat('x', 1000000))")


@pytest.mark.slow
def test_a_postgres_without_room_for_rows_or_for_the_cursor_loses_and_repeats_nothing(
    small_postgres: devstack.Postgres,
    disk_of_postgres: SmallDisk,
    own_nats: devstack.NatsServer,
    tmp_path: Path,
) -> None:
    dsn = small_postgres.dsn
    with (
        RelayProcess(dsn, own_nats.url, tmp_path / "relay.log") as relay,
        Load(dsn) as load,
    ):
        until(lambda: delivered(dsn) > FLOWED, 20)
        with psycopg.connect(dsn) as slow, a_long_look(dsn):
            late = Committed(str(uuid.uuid4()), None, 0, digest(b"late"))
            slow.execute(INSERT, (late.event_id, "orders.late", None, b"late"))
            begin_another_wal_segment(dsn)
            disk_of_postgres.fill()
            until(lambda: NO_ROOM in small_postgres.log_path.read_text(), 10)
            # What was committed is delivered though the disk is full: that needs no new page.
            until(lambda: delivered(dsn) >= len(load.committed), RECOVERED)

            use_up_the_cursors_pages(dsn)
            outage = SittingOut(relay)
            slow.commit()
            load.committed[late.event_id] = late
            outage.heard(NO_ROOM, 5)
            outage.for_long()
        disk_of_postgres.make_room()
        report("Postgres", flows(dsn))
        all_is_well(load, relay, dsn, own_nats.url)


@pytest.mark.slow
def test_a_postgres_that_ends_for_want_of_wal_loses_and_repeats_nothing(
    small_postgres: devstack.Postgres,
    disk_of_postgres: SmallDisk,
    own_nats: devstack.NatsServer,
    tmp_path: Path,
) -> None:
    dsn = small_postgres.dsn
    leave_room_in_the_outbox(dsn)
    with (
        RelayProcess(dsn, own_nats.url, tmp_path / "relay.log") as relay,
        Load(dsn) as load,
    ):
        until(lambda: delivered(dsn) > FLOWED, 20)
        begin_another_wal_segment(dsn)
        disk_of_postgres.fill()
        flows(dsn)
        outage = SittingOut(relay)
        use_up_the_wal(dsn)
        until(lambda: not runs(small_postgres.pid), 20)
        assert "PANIC" in small_postgres.log_path.read_text()
        outage.for_long()
        disk_of_postgres.make_room()
        small_postgres.stop()
        small_postgres.start()
        report("Postgres", flows(dsn))
        all_is_well(load, relay, dsn, own_nats.url)


def test_a_refused_event_that_finds_no_room_to_be_parked_does_not_make_the_relay_spin(
    small_postgres: devstack.Postgres,
    disk_of_postgres: SmallDisk,
    own_nats: devstack.NatsServer,
    tmp_path: Path,
) -> None:
    dsn = small_postgres.dsn
    with (
        RelayProcess(dsn, own_nats.url, tmp_path / "relay.log") as relay,
        psycopg.connect(dsn, autocommit=True) as producer,
    ):

        def emit(subject: str) -> None:
            producer.execute("select relay.emit_bytes(%s, '', key => %s)", (subject, subject))

        # The first event has brought the outbox its pages; the parked ones have none yet.
        emit("orders.first")
        until(lambda: delivered(dsn) == 1, 20)
        disk_of_postgres.fill()
        outage = SittingOut(relay)
        emit("nobody.listens")
        emit("orders.second")
        outage.heard(NO_ROOM, 5)
        outage.for_long()
        disk_of_postgres.make_room()
        emit("orders.third")
        until(lambda: delivered(dsn) == 3, RECOVERED)
        stored = asyncio.run(read_stream(own_nats.url, STREAM))
        assert [message.subject for message in stored] == [
            "orders.first",
            "orders.second",
            "orders.third",
        ]
        parked = producer.execute("select subject, dead_at is null from relay.parked").fetchall()
        assert parked == [("nobody.listens", True)]
        assert relay.terminate() == 0


# NATS.


@pytest.fixture
def dsn(one_dsn: str) -> str:
    """One major version of Postgres will do: nothing here depends on which."""
    return one_dsn


@pytest.fixture
def disk_of_nats() -> Iterator[SmallDisk]:
    with small_disk(mib=32) as disk:
        yield disk


@pytest.fixture
def small_nats(disk_of_nats: SmallDisk, tmp_path: Path) -> Iterator[devstack.NatsServer]:
    with disk_of_nats.holds_temporary_folders():
        made = devstack.nats_server()
        server = made.__enter__()
    try:
        server.stop()
        server.log_path = tmp_path / "nats-server.log"
        server.start()
        yield server
    finally:
        made.__exit__(None, None, None)


@pytest.mark.slow
@pytest.mark.parametrize("path", ["fast ingest", "windowed"])
def test_a_nats_server_without_room_is_an_outage_of_its_stream_until_it_is_restarted(
    dsn: str,
    small_nats: devstack.NatsServer,
    disk_of_nats: SmallDisk,
    tmp_path: Path,
    path: str,
) -> None:
    """A stream that could not be written stays as it is, whatever room there is, until then."""
    stream = Broker(small_nats)
    stream.change(allow_batched=path == "fast ingest")
    with (
        RelayProcess(dsn, small_nats.url, tmp_path / "relay.log") as relay,
        Load(dsn, pause=0.01) as load,
    ):
        until(lambda: delivered(dsn) > FLOWED, 20)
        assert f"publishing by {path}" in relay.log.read_text()
        outage = SittingOut(relay)
        disk_of_nats.fill()
        seconds = outage.heard("takes nothing now", 15)
        print(f"noticed after {seconds:.1f} s")  # noqa: T201 - a figure
        assert seconds < NOTICED_NATS
        assert "no space left on device" in small_nats.log_path.read_text()
        small_nats.stop()
        small_nats.start()
        # Too early: now it knows that it has no room, and says so.
        until(lambda: "resource limits exceeded" in small_nats.log_path.read_text(), 20)
        outage.for_long()
        unharmed(dsn)
        disk_of_nats.make_room()
        small_nats.stop()
        small_nats.start()
        report("nats-server", flows(dsn))
        all_is_well(load, relay, dsn, small_nats.url)


@pytest.mark.slow
def test_a_stream_at_the_servers_quota_waits_for_a_larger_one_or_for_a_purge(
    dsn: str, tmp_path: Path
) -> None:
    def quota(mb: int) -> str:
        return f"jetstream {{ max_file_store: {mb}MB }}"

    with (
        devstack.nats_server(quota(1)) as server,
        RelayProcess(dsn, server.url, tmp_path / "relay.log") as relay,
        Load(dsn) as load,
    ):
        outage = SittingOut(relay)
        outage.heard("10023", 20)
        outage = SittingOut(relay)
        outage.for_long()
        unharmed(dsn)
        outage = SittingOut(relay)
        config = server.log_path.with_name("server.conf")
        config.write_text(quota(5), encoding="utf-8")
        os.kill(server.pid, signal.SIGHUP)
        report("nats-server", flows(dsn))
        outage.heard("takes events again", RECOVERED)
        outage.heard("10023", 20)  # again: it is told once an outage
        load.stop()
        before = asyncio.run(read_stream(server.url, STREAM))
        assert delivered(dsn) < len(load.committed)
        config.write_text(quota(1000), encoding="utf-8")  # for what comes, but it is not told yet
        asyncio.run(purge(server.url, up_to=before[-1].seq))
        report("nats-server", flows(dsn))
        os.kill(server.pid, signal.SIGHUP)
        until(lambda: delivered(dsn) == len(load.committed), 20)
        found = compare(
            load.committed.values(), before + asyncio.run(read_stream(server.url, STREAM))
        )
        assert found.is_clean, found
        unharmed(dsn)
        assert relay.terminate() == 0


async def purge(url: str, *, up_to: int) -> None:
    client = await nats.connect(url)
    try:
        assert await client.jetstream().purge_stream(STREAM, seq=up_to + 1)
    finally:
        await client.close()
