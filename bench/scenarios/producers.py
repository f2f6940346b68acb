"""What the relay costs its producers: commits/s of pgbench clients, one event a transaction.

The cases take turns on the same table. Without any trigger poison gets in; without the doorbell the
relay polls. With the doorbell: nobody is there (the bell is not armed, the writer stays silent); a
relay delivers everything on the same cores; the relay sleeps and does not hear (every commit has to
notify: the worst moment, prolonged for ever). Last, what others do: NOTIFY on every commit.
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from bench import pgbench
from bench.backlog import pass_over
from bench.figures import Figure, Findings, at_least, ratios
from bench.ours import Ours, switch_triggers
from bench.relaying import relaying
from bench.scenario import Bench
from relay.postgres.locks import BELL_CLASS

CLIENTS = (1, 8, 32, 64)
JUDGED = 32
SECONDS = 10

BARE = "no trigger at all"
SILENT = "no doorbell"
ALONE = "doorbell, relay stopped"
AWAKE = "doorbell, relay delivering"
ASLEEP = "doorbell, relay asleep for good"
ALWAYS = "NOTIFY always"
TRIGGERS: dict[str, tuple[str, ...]] = {
    BARE: (),
    SILENT: ("refuse_poison",),
    ALONE: ("refuse_poison", "doorbell"),
    AWAKE: ("refuse_poison", "doorbell"),
    ASLEEP: ("refuse_poison", "doorbell"),
    ALWAYS: ("refuse_poison",),
}
TARGETS = (
    (ALONE, SILENT, 0.97),
    (ALONE, BARE, 0.97),
    (AWAKE, SILENT, 0.8),
    (AWAKE, BARE, 0.8),
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
    counts = CLIENTS if bench.scale >= 1 else (1, JUDGED)
    bench.plan(bench.runs * len(TRIGGERS) * len(counts))
    with bench.servers.outbox() as dsn:
        pgbench.commits_per_second(bench.servers, dsn, Ours(), JUDGED, 1)  # warms the pages
        for _, order in bench.turns(list(TRIGGERS)):
            for clients in counts:
                for case in order:
                    bench.step(f"{case}, {clients} clients")
                    with prepared(bench, dsn, case):
                        rate = pgbench.commits_per_second(
                            bench.servers, dsn, Ours(), clients, bench.seconds(SECONDS)
                        )
                    rates[case, clients].append(rate)
    figures = [
        Figure(f"producers: {clients} clients, {case}", "commits/s", tuple(rates[case, clients]))
        for clients in counts
        for case in TRIGGERS
    ]
    for case, base, bound in TARGETS:
        name = f"producers: {JUDGED} clients, {case} / {base}"
        values = ratios(rates[case, JUDGED], rates[base, JUDGED])
        figures.append(at_least(name, "ratio", values, bound))
    return Findings(figures)


@contextmanager
def prepared(bench: Bench, dsn: str, case: str) -> Iterator[None]:
    """Set the triggers, empty the table, and have somebody do what the case says."""
    pass_over(dsn)
    switch_triggers(dsn, TRIGGERS[case])
    with psycopg.connect(dsn, autocommit=True) as connection:
        if case == ALWAYS:
            connection.execute(NOTIFY_ALWAYS)
        elif case == ASLEEP:
            connection.execute(
                "select pg_advisory_lock(%s, 'relay.outbox'::regclass::oid::int4)", (BELL_CLASS,)
            )
        if case == AWAKE:
            with bench.servers.stream() as stream, relaying(bench.servers, dsn, stream):
                yield
        else:
            yield
        connection.execute("drop trigger if exists notify_always on relay.outbox")
