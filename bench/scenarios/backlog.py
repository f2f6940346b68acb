"""The same rate whatever waits: the rate behind the first page, the first event, peak memory.

Rate and memory must not know how much waits. Of the largest backlog only the first three million
events are drained: the rest would take minutes and say nothing new. The rate leaves out the first
page, so that the start of a small backlog does not count for more than that of a large one.
"""

from collections import defaultdict
from contextlib import ExitStack
from typing import Any

from bench.backlog import fill, wait_again
from bench.figures import Figure, Findings, at_least, at_most, ratios
from bench.relaying import drained
from bench.scenario import Bench

WAITING = (100_000, 1_000_000, 10_000_000)
MOST_DRAINED = 3_000_000
LEAST_RATIO = 0.9
PEAK_MIB = 120
FIRST_SECONDS = 3


def run(bench: Bench) -> Findings:
    """Fill each once, drain them in turn."""
    counts = [bench.events(waiting) for waiting in WAITING]
    reports: dict[int, list[dict[str, Any]]] = defaultdict(list)
    bench.plan(len(counts) * (1 + bench.runs))
    with ExitStack() as databases:
        dsns = {count: databases.enter_context(bench.servers.outbox()) for count in counts}
        for count, dsn in dsns.items():
            bench.step(f"fill: {count:,}")
            fill(dsn, count)
        for _, order in bench.turns(counts):
            for count in order:
                bench.step(f"{count:,} waiting")
                wait_again(dsns[count])
                events = min(count, bench.events(MOST_DRAINED))
                reports[count].append(drained(bench.servers, dsns[count], "fast ingest", events))
    return told(bench, reports)


def told(bench: Bench, reports: dict[int, list[dict[str, Any]]]) -> Findings:
    """Make figures of the relays' reports."""
    found = Findings()
    for count in sorted(reports):
        name, runs = f"backlog: {count:,} waiting", reports[count]
        found.figures += [
            Figure(f"{name}, rate", "events/s", tuple(r["rate_after_first"] for r in runs)),
            at_most(f"{name}, first", "s", [r["first_seconds"] for r in runs], FIRST_SECONDS),
            at_most(f"{name}, peak memory", "MiB", [r["peak_mib"] for r in runs], PEAK_MIB),
        ]
    least, most = min(reports), max(reports)
    rates = {count: [r["rate_after_first"] for r in reports[count]] for count in (least, most)}
    name = f"backlog: rate with {most:,} waiting to that with {least:,}"
    found.figures.append(at_least(name, "ratio", ratios(rates[most], rates[least]), LEAST_RATIO))
    drained_count = min(most, bench.events(MOST_DRAINED))
    if drained_count < most:
        found.remarks.append(
            f"backlog: of {most:,} waiting the first {drained_count:,} are drained"
        )
    return found
