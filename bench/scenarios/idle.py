"""What a relay at rest takes: of a core, of Postgres, of memory. Linux only: /proc says it.

The bell is armed, nothing is written; what remains are the poll and the heartbeats.
"""

import os
import time
from pathlib import Path

import psycopg

from bench.figures import Figure, Findings, at_most
from bench.relaying import relaying
from bench.scenario import Bench

SECONDS = 60
SETTLED = 12
"""Seconds before it: a session at rest hands in its statistics every 10 s."""

CPU_PERCENT = 1.0


def run(bench: Bench) -> Findings:
    """Leave a relay alone, ``bench.runs`` times."""
    if not Path("/proc/self/stat").exists():
        return Findings(remarks=["idle: not measured, there is no /proc here"])
    cpu, queries, memory = [], [], []
    bench.plan(bench.runs)
    for _ in range(bench.runs):
        bench.step("at rest")
        with (
            bench.servers.outbox() as dsn,
            bench.servers.stream() as stream,
            relaying(bench.servers, dsn, stream) as relay,
        ):
            seconds = bench.seconds(SECONDS)
            time.sleep(min(SETTLED, seconds))
            before = cpu_seconds(relay.pid), transactions(dsn), time.monotonic()
            time.sleep(seconds)
            after = cpu_seconds(relay.pid), transactions(dsn), time.monotonic()
            memory.append(resident_mib(relay.pid))
        length = after[2] - before[2]
        cpu.append(100 * (after[0] - before[0]) / length)
        queries.append(max(0, after[1] - before[1] - 1) / length)  # one of them was ours
    return Findings(
        [
            at_most("idle: processor time", "% of a core", cpu, CPU_PERCENT),
            Figure("idle: statements", "1/s", tuple(queries)),
            Figure("idle: memory", "MiB", tuple(memory)),
        ]
    )


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mib(pid: int) -> float:
    """Return the memory that a process has in use."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def transactions(dsn: str) -> int:
    """Return the transactions of this database so far: each statement of the relay is one."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute(
            "select xact_commit + xact_rollback from pg_stat_database"
            " where datname = current_database()"
        ).fetchone()
    assert row is not None
    return int(row[0])
