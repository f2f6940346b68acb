"""``python -m tests.soak.audit --runs 100``: does the audit find what is wrong, and nothing else?

Each run is one relay: the loop that reads ``id > last``, SKIP LOCKED loops, one that does nothing
wrong itself, or ours; with 64 writers. What the audit lists is compared with what was written down
as it happened. One line of JSON; exit code 0 if every list was the truth.
"""

import asyncio
import json
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from relay import devstack
from relay.postgres import migrations
from tests.audit.seeded import COLUMNS, Run, audit, by_last_id, in_order, incumbent, skip_locked
from tests.audit.seeded import write_to_ours as ours
from tests.system.harness import STREAM, RelayProcess, alone, delivered, until

KINDS = {"id > last": (by_last_id, 1), "skip locked": (skip_locked, 4), "in order": (in_order, 1)}
OURS = "ours"


def one_incumbent(kind: str, dsn: str, url: str, seed: int, writers: int) -> tuple[int, str]:
    """Return how many findings there were, and what is wrong with the list."""
    loop, workers = KINDS[kind]
    run = Run(dsn, url, f"S{seed}", random.Random(seed))
    asyncio.run(incumbent(run, loop, workers=workers, writers=writers, events=10))
    code, found, report = audit(dsn, url, run.stream, *COLUMNS)
    wrong = [f"missed {each}" for each in run.truth - found]
    wrong += [f"made up {each}" for each in found - run.truth]
    if code != bool(found) or report["rows"]["count"] != len(run.committed):
        wrong.append(f"exit {code}, {report['rows']['count']} of {len(run.committed)} rows")
    return len(found), "; ".join(wrong[:3])


def one_of_ours(dsn: str, url: str, folder: Path, writers: int) -> tuple[int, str]:
    """Audit our relay while it works, and when all is delivered. Return the same."""
    asyncio.run(migrations.migrate(dsn, "relay"))
    with RelayProcess(dsn, url, folder / "relay.log") as relay:
        asyncio.run(ours(dsn, writers=writers, transactions=10))
        _, during, _ = audit(dsn, url, STREAM)
        count = alone(dsn, "select count(*) from relay.outbox")
        until(lambda: delivered(dsn) == count, 60)
        _, after, report = audit(dsn, url, STREAM, "--grace", "0s")
        relay.terminate()
    wrong = "" if report["matched"] == count else f"{report['matched']} of {count} matched"
    return len(during | after), f"{wrong} {sorted(during | after)[:3]}" if during | after else wrong


def main(
    *,
    runs: Annotated[int, typer.Option(min=1)] = 100,
    writers: Annotated[int, typer.Option(min=1, max=90)] = 64,
    seed: Annotated[int | None, typer.Option()] = None,
) -> None:
    """Audit relays with known faults."""
    first = random.SystemRandom().randrange(10**6) if seed is None else seed
    findings: Counter[str] = Counter()
    wrong = []
    kinds = [*KINDS, OURS]
    with (
        devstack.postgres(settings={"max_connections": "120"}) as postgres,
        devstack.nats_server() as shared,
        tempfile.TemporaryDirectory() as folder,
    ):
        for number in range(runs):
            kind, name = kinds[number % len(kinds)], f"run_{number}"
            dsn = postgres.create_database(name)
            if kind == OURS:
                with devstack.nats_server() as own:
                    count, why = one_of_ours(dsn, own.url, Path(folder), writers)
            else:
                count, why = one_incumbent(kind, dsn, shared.url, first + number, writers)
            findings[kind] += count
            wrong += [f"run {number}, {kind}: {why}"] if why else []
            postgres.drop_database(name)
    report = {"seed": first, "runs": runs, "findings": dict(findings), "wrong": wrong}
    typer.echo(json.dumps(report))
    sys.exit(1 if wrong or findings[OURS] else 0)


if __name__ == "__main__":
    typer.run(main)
