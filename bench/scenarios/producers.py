"""What the relay costs its producers: commits/s of pgbench clients, one event a transaction.

The cases take turns on tables that differ in what an INSERT does. Bare: the same columns and
indexes without rules and trigger, so poison gets in. Rules alone: a relay would poll.
With trigger and rules: nobody is there (writers stay silent); a relay delivers everything on the
same cores; the relay sleeps and does not hear (every commit has to notify: the worst moment,
prolonged for ever). Bare but for the trigger, alone. Last, what others do: a trigger that notifies
on every commit.
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import psycopg

from bench import pgbench
from bench.backlog import pass_over
from bench.figures import Figure, Findings, at_least, ratios
from bench.ours import Ours
from bench.relaying import relaying
from bench.scenario import Bench
from relay.postgres.sqlfiles import BELL_CLASS

CLIENTS = (1, 8, 32, 64)
JUDGED = 32
ALL_FROM = 0.25
"""Share of the load below which only two numbers of clients are tried."""
SECONDS = 10

BARE = "bare table"
BELL = "trigger alone"
SILENT = "rules alone"
ALONE = "trigger and rules, relay stopped"
AWAKE = "trigger and rules, relay delivering"
ASLEEP = "trigger and rules, relay asleep for good"
ALWAYS = "NOTIFY always"
CASES = (BARE, BELL, SILENT, ALONE, AWAKE, ASLEEP, ALWAYS)
TARGETS = (
    (BELL, BARE, 0.88),
    (ALONE, BARE, 0.80),
    (AWAKE, BARE, 0.70),
    (AWAKE, ALWAYS, 3.0),
)
NOTIFY_ALWAYS = """
    create or replace function notify_always() returns trigger language plpgsql as $$
    begin
      perform pg_notify('always', '');
      return null;
    end $$;
    create trigger notify_always after insert on relay.outbox
      for each statement execute function notify_always();
"""


def run(bench: Bench) -> Findings:
    """Measure the cases at each number of clients, in turn."""
    rates: dict[tuple[str, int], list[float]] = defaultdict(list)
    counts = CLIENTS if bench.scale >= ALL_FROM else (1, JUDGED)
    bench.plan(bench.runs * len(CASES) * len(counts))
    with ExitStack() as databases:
        dsns = {case: databases.enter_context(dressed(bench, case)) for case in CASES}
        for _, order in bench.turns(CASES):
            for clients in counts:
                for case in order:
                    bench.step(f"{case}, {clients} clients")
                    with prepared(bench, dsns[case], case):
                        rate = pgbench.commits_per_second(
                            bench.servers, dsns[case], Ours(), clients, bench.seconds(SECONDS)
                        )
                    rates[case, clients].append(rate)
    figures = [
        Figure(f"producers: {clients} clients, {case}", "commits/s", tuple(rates[case, clients]))
        for clients in counts
        for case in CASES
    ]
    for case, base, bound in TARGETS:
        name = f"producers: {JUDGED} clients, {case} / {base}"
        values = ratios(rates[case, JUDGED], rates[base, JUDGED])
        figures.append(at_least(name, "ratio", values, bound))
    return Findings(figures)


@contextmanager
def dressed(bench: Bench, case: str) -> Iterator[str]:
    """Yield an outbox with what the case is about."""
    with bench.servers.database() as dsn:
        Ours(notify=case not in {SILENT, ALWAYS}).prepare(dsn)
        with psycopg.connect(dsn, autocommit=True) as connection:
            if case == BARE:
                Ours().unburden(dsn)
            elif case == BELL:
                Ours().unburden(dsn, bell=True)
            elif case == ALWAYS:
                connection.execute(NOTIFY_ALWAYS)
        pgbench.commits_per_second(bench.servers, dsn, Ours(), JUDGED, 1)  # warms the pages
        yield dsn


@contextmanager
def prepared(bench: Bench, dsn: str, case: str) -> Iterator[None]:
    """Empty the table, and have somebody do what the case says."""
    pass_over(dsn)
    if case == AWAKE:
        with bench.servers.stream() as stream, relaying(bench.servers, dsn, stream):
            yield
    elif case == ASLEEP:
        with psycopg.connect(dsn, autocommit=True) as sleeper:
            sleeper.execute(
                "select pg_advisory_lock(%s, 'relay.outbox'::regclass::oid::int4)", (BELL_CLASS,)
            )
            yield
    else:
        yield
