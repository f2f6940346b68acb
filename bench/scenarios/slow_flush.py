"""What rings cost producers where a WAL flush takes long: 32 clients, at loads from few to all.

    commit_delay = 5 ms: 5,000 commits/s together, 180/s when each of them notifies

A commit that notifies holds a lock of the whole cluster through its flush. So the relay has itself
rung only while rings take little of the time; this is where a bell that stays on too long would
show. The same clients write beside a relay and without one, in turn, on servers of this scenario's
own. Load 0 is as much as they can.
"""

from collections import defaultdict
from contextlib import nullcontext

from bench import pgbench
from bench.backlog import pass_over
from bench.figures import Figure, Findings, at_least, ratios
from bench.ours import Ours
from bench.relaying import relaying
from bench.scenario import Bench
from bench.stack import stack

SLOW = {"commit_delay": "5000", "commit_siblings": "0"}
CLIENTS = 32
LOADS = (10, 50, 100, 200, 500, 1000, 0)
SECONDS = 10
KEPT_LEAST = 0.9
ALONE, BESIDE = "alone", "beside a relay"


def run(bench: Bench) -> Findings:
    """Measure the clients' commits at each load, beside a relay and alone."""
    found: dict[tuple[int, str], list[float]] = defaultdict(list)
    bench.plan(bench.runs * len(LOADS) * 2)
    with stack(SLOW) as servers, servers.database() as dsn:
        Ours().prepare(dsn)
        for _, order in bench.turns((ALONE, BESIDE)):
            for load in LOADS:
                for case in order:
                    bench.step(f"{named(load)}, {case}")
                    pass_over(dsn)
                    with (
                        servers.stream() as stream,
                        relaying(servers, dsn, stream) if case == BESIDE else nullcontext(),
                    ):
                        rate = pgbench.commits_per_second(
                            servers, dsn, Ours(), CLIENTS, bench.seconds(SECONDS), rate=load
                        )
                    found[load, case].append(rate)
    figures = []
    for load in LOADS:
        name = f"slow flush: {named(load)}"
        figures += [
            Figure(f"{name}, {case}", "commits/s", tuple(found[load, case]))
            for case in (ALONE, BESIDE)
        ]
        kept = ratios(found[load, BESIDE], found[load, ALONE])
        figures.append(at_least(f"{name}, {BESIDE} / {ALONE}", "ratio", kept, KEPT_LEAST))
    return Findings(figures)


def named(load: int) -> str:
    """Return a load in words."""
    return f"{load:,}/s" if load else "as they can"
