"""The id above which a writer may still be silent: N, over years of transaction ids."""

import os

import psycopg
import pytest

from relay import devstack
from relay.postgres.bell import PostgresBell
from relay.postgres.outbox import PostgresOutbox
from tests.postgres.bells import (
    armed,
    bell_running,
    migrated,
    until,
)

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]


def age_to(server: devstack.Postgres, low: int, epoch: int) -> None:
    """Let the cluster be as old as that, with no row that depends on an older transaction id."""
    for step in [*range(3 << 29, low, 3 << 29), low]:
        for name in ("postgres", "template1", "template0"):
            with psycopg.connect(server.dsn, autocommit=True) as admin:
                admin.execute(f"alter database {name} allow_connections true")
            with psycopg.connect(server.dsn_of(name), autocommit=True) as admin:
                admin.execute("vacuum (freeze)")
        server.stop()
        segment = server._data / "pg_xact" / f"{step >> 20:04X}"
        segment.write_bytes(bytes(1 << 18))
        owner = server._data.stat()
        os.chown(segment, owner.st_uid, owner.st_gid)
        reset = server._spawn("pg_resetwal", "-x", str(step), "-e", str(epoch), str(server._data))
        assert reset.wait(30) == 0
        server.start()


@pytest.mark.parametrize(
    ("low", "epoch"), [((1 << 31) + (7 << 20), 0), ((1 << 32) - (1 << 20), 1), (7 << 20, 5)]
)
async def test_n_is_right_on_a_cluster_after_years_of_work(
    postgres_server: devstack.Postgres, low: int, epoch: int
) -> None:
    # R-FIRST
    settings = {"fsync": "off", "autovacuum": "off"}
    with devstack.postgres(postgres_server.installation, settings=settings) as server:
        age_to(server, low, epoch)
        dsn = server.create_database("old")
        await migrated(dsn)
        async with (
            bell_running(PostgresOutbox(dsn, "relay", page_bytes=1 << 20)) as bell,
            await psycopg.AsyncConnection.connect(dsn) as running,
        ):
            n = await armed(bell)
            row = await (await running.execute("select pg_current_xact_id()::text")).fetchone()
            assert row is not None
            assert n >= (epoch << 32) + low
            assert n <= int(row[0]) <= n + 100


async def test_n_is_the_next_transaction_id(bell: PostgresBell, outbox_dsn: str) -> None:
    n = await armed(bell)
    assert await bell.arm() == n
    async with await psycopg.AsyncConnection.connect(outbox_dsn) as running:
        ids = []
        for _ in range(3):  # running ones at and above a snapshot's xmax
            row = await (await running.execute("select pg_current_xact_id()::text")).fetchone()
            assert row is not None
            ids.append(int(row[0]))
            await running.rollback()
            bell.disarm()
            async with await psycopg.AsyncConnection.connect(outbox_dsn) as other:
                row = await (await other.execute("select pg_current_xact_id()::text")).fetchone()
                assert row is not None
                await until(lambda: _released(bell))
                assert await armed(bell) > int(row[0])
    assert n <= ids[0]


async def _released(bell: PostgresBell) -> bool:
    return bell._held is None


@pytest.mark.parametrize(
    ("xmax", "age", "n"),
    [
        ("740", 737, 740),
        ("740", 740, 743),
        (str((1 << 31) - 1), (1 << 31) - 4 - (1 << 32) + (1 << 32), (1 << 31) - 1),
        (str(1 << 31), -(1 << 31) + 2 - 3 + 3, (1 << 31) + 5),
        (str((1 << 32) - 1), -4 + 2, (1 << 32) + 1),
        (str((1 << 32) + 3), 1, (1 << 32) + 4),
        (str((5 << 32) - 2), 2, (5 << 32) + 5),
    ],
)
async def test_both_halves_of_n_meet_across_every_wrap(
    bell: PostgresBell, xmax: str, age: int, n: int
) -> None:
    class Told:
        async def row(self, _: object) -> tuple[str, int]:
            return xmax, age

    assert await bell._above_all(Told()) == n  # type: ignore[arg-type]
