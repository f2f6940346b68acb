"""How fast a backlog drains: waiting events of 256 bytes with 1,000 keys, both publishing paths.

The clock runs in the relay's own process from the beginning of its term, before its first read, to
the last PubAck. The two paths take turns on the same servers, and with each its limit: the same
events published from memory, with no Postgres anywhere near.
"""

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import anyio
import nats
import psycopg
from rich.progress import Progress

from bench.figures import Figure, at_least, below
from bench.stack import Stack
from relay.core.event import Event
from relay.jetstream import BusOptions, JetStreamBus

FILL = """
    insert into relay.outbox (subject, key, payload_bytes)
    select 'orders.placed', 'k' || n % 1000, convert_to(repeat('x', 256), 'UTF8')
      from generate_series(1, {events}) as n
"""
TARGETS = {"fast ingest": 60_000, "windowed": 40_000}
PEAK_MIB = 150
UVLOOP: dict[str, Any] = {"backend_options": {"use_uvloop": True}}


def run(servers: Stack, runs: int, events: int, progress: Progress) -> list[Figure]:
    """Drain ``events`` by each path, ``runs`` times in turn."""
    rates: dict[str, list[float]] = {path: [] for path in TARGETS}
    limits: dict[str, list[float]] = {path: [] for path in TARGETS}
    peaks: dict[str, list[float]] = {path: [] for path in TARGETS}
    bar = progress.add_task("drain", total=runs * len(TARGETS))
    for _ in range(runs):
        for path in TARGETS:
            report = drain(servers, path, events)
            rates[path].append(report["delivered"] / report["seconds"])
            peaks[path].append(report["peak_mib"])
            limits[path].append(anyio.run(limit, servers.nats.url, path, events // 5, **UVLOOP))
            progress.advance(bar)
    return [
        figure
        for path, target in TARGETS.items()
        for figure in (
            at_least(f"drain, {path}", "events/s", rates[path], target),
            Figure(f"limit: {path} from memory", "events/s", tuple(limits[path])),
            below(f"drain, {path}: peak memory", "MiB", peaks[path], PEAK_MIB),
        )
    ]


def drain(
    servers: Stack,
    path: str,
    events: int,
    *,
    fill: str = FILL,
    variables: Mapping[str, str] | None = None,
) -> dict[str, float]:
    """Fill an outbox, drain it into a fresh stream, and return the relay's report.

    Args:
        servers: both of them.
        path: the publishing path.
        events: how many.
        fill: the statement that writes them.
        variables: more of the relay's environment.
    """
    stream = f"BENCH-{uuid.uuid4().hex[:8]}"
    anyio.run(make_stream, servers.nats.url, stream, path == "fast ingest")
    try:
        with servers.outbox() as dsn:
            with psycopg.connect(dsn, autocommit=True) as connection:
                connection.execute(fill.format(events=events).encode())
                connection.execute("checkpoint")
            command = [sys.executable, "-m", "bench.subject", dsn, servers.nats.url, stream]
            answer = subprocess.run(
                [*command, "--events", str(events)],
                env={**os.environ, **(variables or {})},
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


async def limit(url: str, path: str, events: int) -> float:
    """Publish ``events`` from memory in pages of 2,000; events/s."""
    stream = f"BENCH-{uuid.uuid4().hex[:8]}"
    await make_stream(url, stream, path == "fast ingest")
    bus = JetStreamBus(BusOptions(urls=(url,), stream=stream))
    pages, now = [], datetime.now(UTC)
    for start in range(0, events, 2000):
        page = []
        for number in range(start, start + 2000):
            id_ = str(uuid.uuid4())
            key = f"k{number % 1000}"
            page.append(Event(number, id_, id_, "orders.placed", key, now, None, b"x" * 256))
        pages.append(page)
    try:
        await bus.connect()
        began = time.monotonic()
        for page in pages:
            await bus.publish(page)
        return len(pages) * 2000 / (time.monotonic() - began)
    finally:
        await bus.close()
        await delete_stream(url, stream)


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
