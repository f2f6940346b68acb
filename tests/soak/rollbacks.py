"""A broker that comes back with an older store, again and again: what Jepsen's power cuts left.

    python -m tests.soak.rollbacks --events 500000 --times 10 --seed 7

Eight writers commit as fast as they can, one relay publishes. In each round a copy of
nats-server's store is taken at a random moment, and put back in place of the store at a later one.
When everything is settled, ``relay audit`` compares the outbox with the whole stream. One line of
JSON says what was found; exit code 0 only if after each round nothing was missing, doubled or out
of order.
"""

import asyncio
import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import psycopg
import typer

from relay import devstack
from relay.postgres import migrations
from tests.audit.seeded import audit
from tests.system import streams
from tests.system.harness import STREAM, RelayProcess, alone, until

WRITERS, BATCH, KEYS = 8, 25, 100
PATIENCE = 300.0
INSERT = """
    insert into relay.outbox (subject, key, payload)
    select 'orders.placed', %(writer)s || '-' || n %% %(keys)s, json_build_object('number', n)
      from generate_series(%(first)s::int, %(first)s::int + %(batch)s::int - 1) as n
"""
SETTLED = """
    select not exists (select from relay.pending) and not exists (select from relay.parked)
       and not exists (select from relay.repair where ended_at is null)
"""


def write(dsn: str, writer: int, events: int) -> None:
    """Commit ``events``, some at a time, with keys of its own."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        for first in range(0, events, BATCH):
            values = {"writer": writer, "keys": KEYS, "first": first, "batch": BATCH}
            connection.execute(INSERT, values)


def one_round(
    pg: devstack.Postgres,
    nats: devstack.NatsServer,
    chance: random.Random,
    events: int,
    folder: Path,
) -> dict[str, Any]:
    """Write ``events`` while the store is rolled back; what was lost by it, and what is wrong."""

    def reach(messages: float) -> int:
        while (held := streams.held(nats.url, STREAM)) < messages:
            threading.Event().wait(0.05)
        return held

    before = streams.held(nats.url, STREAM)
    copied, rolled_back = sorted(before + chance.uniform(0.0, 0.9) * events for _ in range(2))
    threads = [
        threading.Thread(target=write, args=(pg.dsn, writer, events // WRITERS))
        for writer in range(WRITERS)
    ]
    for thread in threads:
        thread.start()
    kept = reach(copied)
    with streams.older_store(nats, folder):
        had = reach(max(rolled_back, kept + 1))
    for thread in threads:
        thread.join()
    began = time.monotonic()
    until(lambda: alone(pg.dsn, SETTLED), PATIENCE)
    took = time.monotonic() - began
    code, found, report = audit(pg.dsn, nats.url, STREAM, "--grace", "0s")
    written = alone(pg.dsn, "select count(*) from relay.outbox")
    return {
        "rolled_back": had - kept,
        "settled_s": took,
        "matched": report["matched"],
        "findings": Counter(kind for kind, *_ in found),
        "met": code == 0 and report["matched"] == written,
    }


def main(
    *,
    events: Annotated[int, typer.Option(min=1000)] = 500_000,
    times: Annotated[int, typer.Option(min=1)] = 10,
    seed: Annotated[int | None, typer.Option()] = None,
) -> None:
    """Roll the broker back, over and over, and judge the stream after each time."""
    chosen = random.SystemRandom().randrange(10**6) if seed is None else seed
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="relay-rollbacks-")))
        pg = stack.enter_context(devstack.postgres(settings={"fsync": "on"}))
        nats = stack.enter_context(devstack.nats_server())
        asyncio.run(migrations.migrate(pg.dsn, "relay"))
        streams.make(nats.url, STREAM, "orders.>")
        log, settings = folder / "relay.log", {"stream_create": "false", "retention": "1d"}
        relay = stack.enter_context(RelayProcess(pg.dsn, nats.url, log, **settings))
        chance = random.Random(chosen)
        rounds = [one_round(pg, nats, chance, events // times, folder) for _ in range(times)]
        repaired = alone(pg.dsn, "select coalesce(sum(repaired), 0)::int from relay.repair")
        exit_code = relay.terminate()
    met = exit_code == 0 and all(each["met"] for each in rounds)
    found = {
        "seed": chosen,
        "rollbacks": times,
        "acknowledged": rounds[-1]["matched"],
        "rolled_back": sum(each["rolled_back"] for each in rounds),
        "published_again": repaired,
        "settled_after_worst_s": round(max(each["settled_s"] for each in rounds), 1),
        "findings": dict(sum((each["findings"] for each in rounds), Counter())),
        "met": met,
    }
    typer.echo(json.dumps(found))
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    typer.run(main)
