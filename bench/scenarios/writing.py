"""What the outbox costs a writer, without a relay: CPU of one-row commits, seconds of bulk INSERTs.

The tables differ in what an INSERT does: nothing more than a table of the same columns and indexes;
the trigger; the trigger and the rules. Each takes its turn in one session, warm. The backend's own
processor time is read, so other work on the machine matters little. In bulk the relay is asleep
(the bell's lock is held, so that the statement rings once) or awake. Linux only: /proc says it.
"""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg

from bench.backlog import pass_over
from bench.figures import Figure, Findings, at_most, ratios
from bench.meter import cpu_seconds
from bench.ours import Ours
from bench.peers.base import payload
from bench.scenario import Bench
from relay.postgres.sqlfiles import BELL_CLASS

BARE, TRIGGER, BOTH = "bare table", "trigger alone", "trigger and rules"
CASES = (BARE, TRIGGER, BOTH)
COMMITS = 20_000
BULK = 1_000_000
CPU_MORE_US = {TRIGGER: 12.0, BOTH: 35.0}
BULK_RATIO = {TRIGGER: 1.05, BOTH: 1.3}
LOCK = "select pg_advisory_lock(%s, 'relay.outbox'::regclass::oid::int4)"


def run(bench: Bench) -> Findings:
    """Measure single commits and bulk INSERTs, in turn."""
    if not Path("/proc/self/stat").exists():
        return Findings(remarks=["writing: not measured, there is no /proc here"])
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    bench.plan(bench.runs * len(CASES) * 3)
    with ExitStack() as stack:
        sessions = {case: stack.enter_context(dressed(bench, case)) for case in CASES}
        for _, order in bench.turns(CASES):
            for case in order:
                bench.step(f"{case}, one row a commit")
                found[case, "cpu"].append(commit_us(sessions[case], bench.events(COMMITS)))
            for state in ("awake", "asleep"):
                for case in order:
                    bench.step(f"{case}, in bulk, relay {state}")
                    seconds = bulk_seconds(sessions[case], bench.events(BULK), state)
                    found[case, state].append(seconds)
    figures = []
    for case in CASES[1:]:
        more = [
            one - bare for one, bare in zip(found[case, "cpu"], found[BARE, "cpu"], strict=True)
        ]
        name = f"writing: CPU of a one-row commit over a bare table, {case}"
        figures.append(at_most(name, "us", more, CPU_MORE_US[case]))
        for state in ("awake", "asleep"):
            name = f"writing: INSERT of {bench.events(BULK):,} rows, relay {state}, {case} / bare"
            values = ratios(found[case, state], found[BARE, state])
            figures.append(at_most(name, "ratio", values, BULK_RATIO[case]))
    bare = tuple(found[BARE, "cpu"])
    return Findings([Figure("writing: CPU of a one-row commit, bare table", "us", bare), *figures])


@contextmanager
def dressed(bench: Bench, case: str) -> Iterator[psycopg.Connection[Any]]:
    """Yield a session to an outbox with what the case is about."""
    with bench.servers.database() as dsn:
        Ours().prepare(dsn)
        if case != BOTH:
            Ours().unburden(dsn, bell=case == TRIGGER)
        with psycopg.connect(dsn, autocommit=True) as connection:
            commit_us(connection, 2_000)  # warms it
            yield connection


def commit_us(connection: psycopg.Connection[Any], commits: int) -> float:
    """Commit one row after the other; the backend's processor time for each."""
    insert = Ours().events_from(f"(values ('k', {payload('1')}))").encode()
    pid = connection.info.backend_pid
    before = cpu_seconds(pid)
    for _ in range(commits):
        connection.execute(insert, prepare=True)
    return (cpu_seconds(pid) - before) / commits * 1e6


def bulk_seconds(connection: psycopg.Connection[Any], rows: int, state: str) -> float:
    """Insert ``rows`` by one statement into an empty outbox; how long that takes."""
    pass_over(connection.info.dsn + f" password={connection.info.password}")
    with ExitStack() as stack:
        if state == "asleep":
            dsn = connection.info.dsn + f" password={connection.info.password}"
            sleeper = stack.enter_context(psycopg.connect(dsn, autocommit=True))
            sleeper.execute(LOCK, (BELL_CLASS,))
        began = time.perf_counter()
        connection.execute(
            "insert into relay.outbox (subject, key, payload) select 'orders.placed',"
            " 'k' || n %% 1000, '{\"order\": 7}'::json from generate_series(1, %s) as n",
            (rows,),
        )
        return time.perf_counter() - began
