"""Lone commits beside silent writers, with nothing but the bell: ``python -m bench.lone_commits``.

    one long writer     inserts, is silent for seconds, commits
    eight short ones    insert, dawdle, commit
    a lone committer    one event at a time, at moments of its own; now and then a burst of them,
                        which puts the bell off

The poll is a minute, so whoever the bell misses comes a minute late. Every commit counts, the
silent writers' own as well: from its return to the stream's time stamp. Postgres' log says what the
relay made it complain about, pg_stat_activity how many sessions it took; in the end, under the same
load, Postgres is told to stop at once (SIGQUIT). One line of JSON; exit code 0 only if all is as
promised.
"""

import asyncio
import itertools
import json
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Annotated, Any, Self

import psycopg
import typer

from bench import streams
from bench.figures import percentile
from bench.relaying import relaying
from bench.stack import POSTGRES_SETTINGS, Stack
from relay import devstack

SETTINGS = {**POSTGRES_SETTINGS, "log_line_prefix": "%m [%p] %a: ", "log_error_verbosity": "terse"}
INSERT = (
    "insert into relay.outbox (subject, key, payload)"
    " values ('orders.placed', %s, json_build_object('event_number', %s::int))"
)
SHORT_WRITERS = 8
DAWDLES, RESTS = 0.05, 0.35
"""Seconds, at most, between a short writer's INSERT and its commit, and between two of them: with
the lone ones some 60 commits/s, at which the bell stays on unless a commit takes above 3 ms."""

LONG_SILENCE = 5.0
LONE_APART = 0.04
BURST_EVERY, BURST = 200, 300
"""After so many lone commits come so many without a pause."""

LATE = 0.25
P99_MOST = 0.010
SESSIONS_MOST = 6
STOP_MOST = 3.0
SECONDS_MOST = 400.0


class Writers:
    """All writers, until ``stop``. ``committed_at``: by number, the wall clock of its return."""

    def __init__(self, dsn: str, seed: int) -> None:
        """Write to the outbox at ``dsn``; chance comes from ``seed``."""
        self.committed_at: dict[int, float] = {}
        self._dsn = dsn
        self._seed = seed
        self._numbers = itertools.count()
        self._stop = threading.Event()
        works: list[Callable[[psycopg.Connection, random.Random], None]]
        works = [self._long, self._lone, *[self._short] * SHORT_WRITERS]
        self._threads = [
            threading.Thread(target=self._run, args=(work, place), daemon=True)
            for place, work in enumerate(works)
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End, what is open committed."""
        self._stop.set()
        for thread in self._threads:
            thread.join(LONG_SILENCE + 10)

    def _run(self, work: Callable[[psycopg.Connection, random.Random], None], place: int) -> None:
        chance = random.Random(f"{self._seed} {place}")
        with suppress(psycopg.OperationalError), psycopg.connect(self._dsn) as connection:
            while not self._stop.is_set():
                work(connection, chance)

    def _write(self, connection: psycopg.Connection, who: str, silence: float) -> None:
        number = next(self._numbers)
        connection.execute(INSERT, (who, number))
        self._stop.wait(silence)
        connection.commit()
        self.committed_at[number] = time.time()

    def _long(self, connection: psycopg.Connection, _: random.Random) -> None:
        self._write(connection, "long", LONG_SILENCE)

    def _short(self, connection: psycopg.Connection, chance: random.Random) -> None:
        self._write(connection, f"short {id(connection)}", chance.uniform(0, DAWDLES))
        self._stop.wait(chance.uniform(0, RESTS))

    def _lone(self, connection: psycopg.Connection, chance: random.Random) -> None:
        for _ in range(BURST_EVERY):
            if self._stop.wait(chance.uniform(0, 2 * LONE_APART)):
                return
            self._write(connection, "lone", 0)
        for _ in range(BURST):
            self._write(connection, "burst", 0)


class Sessions:
    """How many sessions the relay has at most."""

    def __init__(self, dsn: str) -> None:
        """Look at the server of ``dsn``."""
        self.most = 0
        self._dsn = dsn
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        """Begin to look."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Look no more."""
        self._stop.set()
        self._thread.join(10)

    def _look(self) -> None:
        query = "select count(*) from pg_stat_activity where application_name like 'relay %'"
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            while not self._stop.wait(0.05):
                row = connection.execute(query).fetchone()
                self.most = max(self.most, row[0] if row else 0)


@contextmanager
def servers() -> Iterator[Stack]:
    """Start both servers, with a log that names who caused a line."""
    with devstack.postgres(settings=SETTINGS) as postgres, devstack.nats_server() as nats:
        yield Stack(postgres, nats)


def measure(commits: int, seed: int) -> dict[str, Any]:
    """Run the load until there are ``commits``, then stop Postgres under it."""
    with servers() as made, made.outbox() as dsn, made.stream() as stream:
        errors: list[str] = []
        with relaying(made, dsn, stream, variables={"RELAY_POLL_INTERVAL": "60s"}):
            with Sessions(dsn) as sessions:
                first = Writers(dsn, seed)
                began = time.monotonic()
                first.start()
                while len(first.committed_at) < commits:
                    if time.monotonic() - began > SECONDS_MOST:
                        break
                    time.sleep(0.1)
                first.stop()
                seconds = time.monotonic() - began
            committed = first.committed_at
            asyncio.run(streams.wait_for(made.nats.url, stream, len(committed), 90))
            messages = asyncio.run(streams.read_back(made.nats.url, stream))
            errors = complaints(made.postgres)
            wakes = woken(dsn)
            again = Writers(dsn, seed + 1)
            again.start()
            time.sleep(2)
            stopping = time.monotonic()
            made.postgres.stop("immediate")
            stopped = time.monotonic() - stopping
            again.stop()
        made.postgres.start()
    delays = [each.stored_at - committed[each.number] for each in messages]
    late = sum(delay > LATE for delay in delays)
    p99 = percentile(delays, 99)
    return {
        "commits": len(committed),
        "seconds": round(seconds, 1),
        "wakes": wakes,
        "later_than_250_ms": late,
        "p50_ms": round(percentile(delays, 50) * 1000, 2),
        "p99_ms": round(p99 * 1000, 2),
        "max_ms": round(max(delays) * 1000, 2),
        "log_lines_by_relay": len(errors),
        "first_of_them": errors[:3],
        "sessions_at_most": sessions.most,
        "immediate_stop_s": round(stopped, 2),
        "met": len(messages) == len(committed) >= commits
        and not late
        and p99 <= P99_MOST
        and not errors
        and sessions.most <= SESSIONS_MOST
        and stopped <= STOP_MOST,
    }


def complaints(postgres: devstack.Postgres) -> list[str]:
    """Return the lines of Postgres' log that say that the relay did something wrong."""
    lines = postgres.log_path.read_text(encoding="utf-8", errors="replace").splitlines()
    kinds = ("ERROR:", "FATAL:", "PANIC:", "WARNING:")
    return [line for line in lines if "] relay " in line and any(kind in line for kind in kinds)]


def woken(dsn: str) -> dict[str, int]:
    """Return how often each cause woke the relay."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute("select wakes_bell, wakes_poll from relay.report").fetchone()
    assert row is not None
    return {"bell": row[0], "poll": row[1]}


def main(
    commits: Annotated[int, typer.Option(min=100)] = 20_000,
    seed: Annotated[int, typer.Option()] = 1,
) -> None:
    """Measure; some four minutes for 20,000 commits."""
    found = measure(commits, seed)
    print(json.dumps(found))
    sys.exit(0 if found["met"] else 1)


if __name__ == "__main__":
    typer.run(main)
