"""Producers behind a real PgBouncer that pools by transaction and keeps no prepared statements."""

import asyncio
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from relay import devstack
from relay.devstack.sandbox import free_port
from relay.producer import Event
from relay.producer.psycopg import emit, emit_many
from tests.producer.adapters import url_of

CLIENTS = 3
"""More than the one server session that they share, so that statements change sessions."""


@pytest.fixture
def pooled(one_dsn: str, one_postgres: devstack.Postgres) -> Iterator[str]:
    """The outbox's database through PgBouncer."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("no pgbouncer on the PATH: install Debian's")
    parts, port = conninfo_to_dict(one_dsn), free_port()
    with psycopg.connect(one_postgres.dsn, autocommit=True) as connection:
        connection.execute("create role bounced login in role pg_read_all_data")
    with psycopg.connect(one_dsn, autocommit=True) as connection:
        connection.execute("grant relay_producer to bounced")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        settings = Path(folder) / "pgbouncer.ini"
        settings.write_text(
            f"[databases]\n* = host={parts['host']} port={parts['port']} user=bounced\n"
            "[pgbouncer]\nauth_type = any\npool_mode = transaction\ndefault_pool_size = 1\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        )
        nobody = "nobody" if os.geteuid() == 0 else None  # it refuses root
        process = subprocess.Popen(
            [program, "-q", str(settings)], cwd="/", user=nobody, stderr=subprocess.DEVNULL
        )
        dsn = make_conninfo(one_dsn, host="127.0.0.1", port=port, user="bounced", password="x")
        try:
            wait_for(dsn)
            yield dsn
        finally:
            process.terminate()
            process.wait(10)
    with psycopg.connect(one_dsn, autocommit=True) as connection:
        connection.execute("drop owned by bounced")
        connection.execute("drop role bounced")


def wait_for(dsn: str) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            psycopg.connect(dsn).close()
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


def count(dsn: str) -> int:
    with psycopg.connect(dsn) as connection:
        (found,) = connection.execute("select count(*) from relay.outbox").fetchone() or (0,)
        return int(found)


def test_psycopg_without_its_own_prepared_statements(one_dsn: str, pooled: str) -> None:
    connections = [psycopg.connect(pooled, prepare_threshold=None) for _ in range(CLIENTS)]
    for _ in range(8):  # psycopg prepares what comes five times
        for connection in connections:
            emit(connection, "a.b", 1)
            emit_many(connection, [Event("a.b", 1)])
            connection.commit()
    for connection in connections:
        connection.close()
    assert count(one_dsn) == 8 * CLIENTS * 2


def test_asyncpg_without_its_cache_of_statements(one_dsn: str, pooled: str) -> None:
    asyncpg = pytest.importorskip("asyncpg")
    from relay.producer.asyncpg import emit, emit_many

    async def work() -> None:
        connections = [
            await asyncpg.connect(url_of(pooled), statement_cache_size=0) for _ in range(CLIENTS)
        ]
        for _ in range(4):
            for connection in connections:
                async with connection.transaction():
                    await emit(connection, "a.b", 1)
                    await emit_many(connection, [Event("a.b", 1)])
        for connection in connections:
            await connection.close()

    asyncio.run(work())
    assert count(one_dsn) == 4 * CLIENTS * 2
