"""How fast a backlog drains: waiting events of 256 bytes with 1,000 keys, both publishing paths.

The clock runs in the relay's own process from the beginning of its term, before its first read, to
the last PubAck. The two paths take turns on the same servers.
"""

import json
import subprocess
import sys
import uuid

import anyio
import nats
import psycopg
from rich.progress import Progress

from bench.figures import Figure, at_least, below
from bench.stack import Stack

FILL = """
    insert into relay.outbox (subject, key, payload_bytes)
    select 'orders.placed', 'k' || n % 1000, convert_to(repeat('x', 256), 'UTF8')
      from generate_series(1, {events}) as n
"""
TARGETS = {"fast ingest": 60_000, "windowed": 40_000}
PEAK_MIB = 150


def run(servers: Stack, runs: int, events: int, progress: Progress) -> list[Figure]:
    """Drain ``events`` by each path, ``runs`` times in turn."""
    rates: dict[str, list[float]] = {path: [] for path in TARGETS}
    peaks: dict[str, list[float]] = {path: [] for path in TARGETS}
    bar = progress.add_task("drain", total=runs * len(TARGETS))
    for _ in range(runs):
        for path in TARGETS:
            report = drain(servers, path, events)
            rates[path].append(report["delivered"] / report["seconds"])
            peaks[path].append(report["peak_mib"])
            progress.advance(bar)
    return [
        figure
        for path, target in TARGETS.items()
        for figure in (
            at_least(f"drain, {path}", "events/s", rates[path], target),
            below(f"drain, {path}: peak memory", "MiB", peaks[path], PEAK_MIB),
        )
    ]


def drain(servers: Stack, path: str, events: int) -> dict[str, float]:
    """Fill an outbox, drain it into a fresh stream, and return the relay's report."""
    stream = f"BENCH-{uuid.uuid4().hex[:8]}"
    anyio.run(make_stream, servers.nats.url, stream, path == "fast ingest")
    try:
        with servers.outbox() as dsn:
            with psycopg.connect(dsn, autocommit=True) as connection:
                connection.execute(FILL.format(events=events).encode())
                connection.execute("checkpoint")
            command = [sys.executable, "-m", "bench.subject", dsn, servers.nats.url, stream]
            answer = subprocess.run(
                [*command, "--events", str(events)],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                check=True,
                timeout=300,
            )
            report: dict[str, float] = json.loads(answer.stdout.splitlines()[-1])
            assert report["delivered"] == events
            return report
    finally:
        anyio.run(delete_stream, servers.nats.url, stream)


async def make_stream(url: str, stream: str, batched: bool) -> None:
    """Make a stream in file storage that allows fast ingest, or does not."""
    async with await nats.connect(url) as client:
        await client.jetstream().add_stream(
            name=stream, subjects=["orders.>"], storage="file", allow_batched=batched
        )


async def delete_stream(url: str, stream: str) -> None:
    """Free its subjects for the next one."""
    async with await nats.connect(url) as client:
        await client.jetstream().delete_stream(stream)
