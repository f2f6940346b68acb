"""A NATS cluster that fails over under load: what is lost, and how long nothing comes.

    python -m tests.soak.cluster --minutes 10 --seed 7
    python -m tests.soak.cluster --kills 50 --rate 5000              # of the leader alone
    python -m tests.soak.cluster --kills 50 --rate 5000 --windowed

Four nodes, a stream of three replicas, one relay, a steady load. What happens is drawn from
``tests.system.cluster``, and the next fault waits until every replica is up to date. A gap is the
longest time between two messages by JetStream's own time stamps, from a fault to the next one; the
election is part of it. ``relay audit`` judges in the end. One line of JSON; exit code 0 only if
nothing was lost, doubled or reordered.
"""

import asyncio
import itertools
import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import psycopg
import typer

from relay import devstack
from relay.audit.stream import batches
from relay.postgres import migrations
from tests.audit.seeded import audit
from tests.system.cluster import FAILOVERS, WITHIN, nats_cluster, settles_again
from tests.system.flow import INSERT
from tests.system.harness import STREAM, RelayProcess, until

BATCH = 25
PATIENCE = 300.0
"""Seconds for which a busy machine may work off what an outage has left."""

LONGEST_REST = 2.0
"""Seconds between two faults, at most."""


def produce(dsn: str, rate: float, over: threading.Event) -> None:
    """Commit ``BATCH`` events at a time, each of a key of its own; what was late is made up for."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        due = time.monotonic()
        for first in itertools.count(step=BATCH):
            if over.wait(max(0.0, due - time.monotonic())):
                return
            connection.execute(INSERT, (first, BATCH))
            due += BATCH / rate


async def gaps(url: str, faults: list[tuple[float, str]]) -> dict[str, list[float]]:
    """Return, by what happened, the longest time in s without a message after each."""
    longest, before, number = defaultdict[str, list[float]](list), None, -1
    async for batch in batches(url, STREAM):
        for message in batch:
            assert message.stored_at is not None
            now = message.stored_at.timestamp()
            while number + 1 < len(faults) and now >= faults[number + 1][0]:
                number += 1
                longest[faults[number][1]].append(0.0)
            if number >= 0 and before is not None:
                found = longest[faults[number][1]]
                found[-1] = max(found[-1], now - before)
            before = now
    return longest


def run(
    chance: random.Random, *, minutes: float, kills: int, rate: float, batched: bool, folder: Path
) -> dict[str, Any]:
    """Break the cluster until the time, or the number of kills, is over; what was found."""
    with ExitStack() as stack:
        pg = stack.enter_context(devstack.postgres())
        cluster = stack.enter_context(nats_cluster(4))
        asyncio.run(migrations.migrate(pg.dsn, "relay"))
        cluster.make(STREAM, "orders.>", allow_batched=batched)
        relay = RelayProcess(
            pg.dsn, cluster.urls, folder / "relay.log", stream_create="false", retention="1d"
        )
        stack.callback(relay.end)
        over, faults = threading.Event(), list[tuple[float, str]]()
        load = threading.Thread(target=produce, args=(pg.dsn, rate, over))
        load.start()

        def flows() -> None:
            until(settles_again(pg.dsn), PATIENCE)

        began = time.time()
        try:
            flows()
            while len(faults) < kills if kills else time.time() < began + 60 * minutes:
                until(cluster.is_whole, WITHIN)
                threading.Event().wait(chance.uniform(0, LONGEST_REST))
                name = "leader killed" if kills else chance.choice(list(FAILOVERS))
                faults.append((time.time(), name))
                FAILOVERS[name](cluster, flows)
        finally:
            over.set()
            load.join()
        lasted = time.time() - began
        until(lambda: _count(pg.dsn, "pending") == 0, PATIENCE)
        code, found, report = audit(pg.dsn, cluster.url, STREAM, "--grace", "0s")
        silences = asyncio.run(gaps(cluster.url, faults))
        exit_code = relay.terminate()
        events = _count(pg.dsn, "outbox")
    return {
        "path": "fast ingest" if batched else "windowed",
        "faults": len(faults),
        "events": events,
        "events_per_second": round(events / lasted),
        "matched": report["matched"],
        "findings": dict(Counter(kind for kind, *_ in found)),
        "longest_gap_s": {
            name: {"median": round(sorted(each)[len(each) // 2], 2), "worst": round(max(each), 2)}
            for name, each in sorted(silences.items())
        },
        "is_clean": code == 0 and report["matched"] == events and exit_code == 0,
    }


def _count(dsn: str, table: str) -> int:
    with psycopg.connect(dsn) as look:
        row = look.execute(f"select count(*) from relay.{table}").fetchone()
    assert row is not None
    return row[0]


def main(
    *,
    minutes: Annotated[float, typer.Option(min=0.05)] = 5.0,
    kills: Annotated[int, typer.Option(min=0, help="Only kill the leader, so many times.")] = 0,
    rate: Annotated[float, typer.Option(min=BATCH, help="Committed events/s.")] = 1000.0,
    windowed: Annotated[bool, typer.Option("--windowed", help="Without fast ingest.")] = False,
    seed: Annotated[int | None, typer.Option()] = None,
    keep: Annotated[Path | None, typer.Option(help="Where the relay's log is left.")] = None,
) -> None:
    """Let the cluster fail over, and judge the stream."""
    chosen = random.SystemRandom().randrange(10**6) if seed is None else seed
    with tempfile.TemporaryDirectory(prefix="relay-cluster-") as folder:
        where = keep or Path(folder)
        where.mkdir(parents=True, exist_ok=True)
        found = run(
            random.Random(chosen),
            minutes=minutes,
            kills=kills,
            rate=rate,
            batched=not windowed,
            folder=where,
        )
    typer.echo(json.dumps({"seed": chosen, **found}))
    sys.exit(0 if found["is_clean"] else 1)


if __name__ == "__main__":
    typer.run(main)
