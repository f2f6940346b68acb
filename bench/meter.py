"""What delivering takes meanwhile: processor time by process, WAL, transactions, rings. Linux only.

    with metered(servers, worker, dsn, rings="relay.outbox") as taken:
        ...
    taken.worker, taken.sessions, taken.nats    s of processor time

The sessions that deliver are those that are there when the block begins: producers come later.
Postgres' own processes (the WAL writer, the checkpointer) are not counted.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

from bench.processes import Child
from bench.stack import Stack


@dataclass
class Taken:
    """What was taken, complete behind the block.

    Attributes:
        worker, sessions, nats: s of processor time.
        memory: of the worker at the end, MiB.
        wal: bytes, the producers' included.
        transactions: of this database, the producers' included.
        rings: notifications without a payload.
    """

    worker: float = 0.0
    sessions: float = 0.0
    nats: float = 0.0
    memory: float = 0.0
    wal: float = 0.0
    transactions: int = 0
    rings: int = 0


@contextmanager
def metered(servers: Stack, worker: Child, dsn: str, *, rings: str = "") -> Iterator[Taken]:
    """Measure over the block what ``worker`` takes; count the notifications of channel ``rings``.

    Sessions that end within the block fail it: a worker is to keep its own.
    """
    taken = Taken()
    with psycopg.connect(dsn, autocommit=True) as connection:
        sessions = _sessions(connection)
        if rings:
            connection.execute(sql.SQL("listen {}").format(sql.Identifier(rings)))
        before = _counters(connection)
        pids = ([worker.pid], sessions, [servers.nats.pid])
        cpu = [cpu_seconds(*each) for each in pids]
        yield taken
        taken.worker, taken.sessions, taken.nats = (
            cpu_seconds(*each) - start for each, start in zip(pids, cpu, strict=True)
        )
        taken.memory = resident_mib(worker.pid)
        if rings:
            heard = connection.notifies(timeout=0.1)
            taken.rings = sum(1 for notify in heard if not notify.payload)
        after = _counters(connection)
        taken.wal, taken.transactions = after[0] - before[0], after[1] - before[1]


def _sessions(connection: "psycopg.Connection") -> list[int]:
    found = connection.execute(
        "select pid from pg_stat_activity where datname = current_database()"
        " and backend_type = 'client backend' and pid <> pg_backend_pid()"
    )
    return [pid for (pid,) in found]


def _counters(connection: "psycopg.Connection") -> tuple[float, int]:
    row = connection.execute(
        "select pg_current_wal_lsn() - '0/0', xact_commit + xact_rollback"
        " from pg_stat_database where datname = current_database()"
    ).fetchone()
    assert row is not None
    return float(row[0]), int(row[1])


def cpu_seconds(*pids: int) -> float:
    """Return the processor time that these processes have taken; one that has ended took none."""
    ticks = 0
    for pid in pids:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except FileNotFoundError:
            continue
        fields = stat.rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def resident_mib(pid: int) -> float:
    """Return the memory that a process has in use."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
