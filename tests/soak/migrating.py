"""How long producers wait while the outbox is migrated: from the first schema to the present one.

    python -m tests.soak.migrating --rows 1000000 --times 5

The first schema is made by the release that had it. Writers commit one event at a time; the longest
commit during ``migrate`` counts, and beside it the longest of as many seconds before. One line of
JSON; exit code 0 only if no commit took longer than 100 ms, or than without a migration.
"""

import asyncio
import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import psycopg
import typer

from relay import devstack
from relay.postgres import migrations
from tests.system import releases

MOST = 0.1
BEFORE = 3.0
"""Seconds of the writing that is compared with."""

FILL = """
    insert into relay.outbox (subject, key, payload)
    select 'orders.placed', 'k' || n %% 1000, '{"number": 1}' from generate_series(1, %s) as n
"""
EMIT = "insert into relay.outbox (subject, key, payload) values ('orders.placed', %s, '1')"


class Writers:
    """Writers that note when each commit began, and how long it took."""

    def __init__(self, dsn: str) -> None:
        self.commits: list[tuple[float, float]] = []
        self._dsn = dsn
        self._over = threading.Event()

    def write(self, name: str) -> None:
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            while not self._over.wait(0.001):
                began = time.monotonic()
                connection.execute(EMIT, (name,))
                self.commits.append((began, time.monotonic() - began))

    @contextmanager
    def running(self, count: int) -> Iterator[None]:
        threads = [threading.Thread(target=self.write, args=(f"w{n}",)) for n in range(count)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for thread in threads:
                thread.join()

    def longest(self, since: float, until: float) -> float:
        """Return the longest commit in s of those that overlap a time."""
        return max(took for at, took in self.commits if at < until and at + took > since)


def measure(dsn: str, writers: int) -> dict[str, Any]:
    """Migrate once under load."""
    load = Writers(dsn)
    with load.running(writers):
        threading.Event().wait(BEFORE)
        began = time.monotonic()
        done = asyncio.run(migrations.migrate(dsn, "relay"))
        ended = time.monotonic()
        threading.Event().wait(0.2)
    return {
        "migrate_s": round(ended - began, 3),
        "commits": len(load.commits),
        "longest_before_ms": round(1000 * load.longest(began - BEFORE, began), 1),
        "longest_during_ms": round(1000 * load.longest(began, ended), 1),
        "applied": [line.removeprefix("applied ") for line in done if line.startswith("applied")],
    }


def main(
    *,
    rows: Annotated[int, typer.Option(min=1)] = 1_000_000,
    times: Annotated[int, typer.Option(min=1)] = 5,
    writers: Annotated[int, typer.Option(min=1)] = 4,
) -> None:
    """Fill an outbox of the first schema once, and migrate copies of it under load."""
    if not releases.is_known(releases.FIRST_SCHEMA):
        raise typer.BadParameter(f"commit {releases.FIRST_SCHEMA} is not here: a shallow clone?")
    found = []
    with (
        tempfile.TemporaryDirectory(prefix="relay-migrating-") as folder,
        devstack.postgres(settings={"fsync": "on"}) as server,
    ):
        release = releases.installed(releases.FIRST_SCHEMA, Path(folder))
        template = server.create_database("filled")
        releases.migrate(release, template)
        with psycopg.connect(template, autocommit=True) as connection:
            connection.execute(FILL, (rows,))
            connection.execute("vacuum analyze relay.outbox")
        for number in range(times):
            found.append(measure(server.create_database(f"copy{number}", "filled"), writers))
            server.drop_database(f"copy{number}")
    worst = max(each["longest_during_ms"] for each in found)
    beside = max(each["longest_before_ms"] for each in found)
    met = worst <= max(1000 * MOST, beside)
    typer.echo(json.dumps({"rows": rows, "worst_ms": worst, "runs": found, "met": met}))
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    typer.run(main)
