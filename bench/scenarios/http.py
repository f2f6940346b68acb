"""What those who ask the status page without a pause take from the drain, and whether probes pass.

The same backlog is drained with fifty keep-alive clients on one path after the other, and with
nobody, in turn. A probe of its own asks throughout; the lag's limit is an hour, for a backlog that
has just been filled is old by itself.
"""

import json
import socket
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bench.asking import CLIENTS
from bench.backlog import fill, wait_again
from bench.figures import Figure, Findings, at_least, at_most, ratios
from bench.processes import python, running
from bench.relaying import relaying, report_of
from bench.scenario import Bench

EVENTS = 500_000
NOBODY = "-"
PATHS = (NOBODY, "/livez", "/readyz", "/", "/metrics", "/events", "/nowhere")
LEAST_RATIO = 0.9
PROBE_SECONDS = 1.0
LAG = {"RELAY_CIRCUIT_BREAKER_LAG": "1h"}


def run(bench: Bench) -> Findings:
    """Drain with each path asked for, ``bench.runs`` times."""
    events = bench.events(EVENTS)
    rates: dict[str, list[float]] = defaultdict(list)
    asked: dict[str, list[dict[str, Any]]] = defaultdict(list)
    bench.plan(1 + bench.runs * len(PATHS))
    with bench.servers.outbox() as dsn:
        bench.step(f"fill: {events:,}")
        fill(dsn, events)
        for _, order in bench.turns(PATHS):
            for path in order:
                bench.step(path)
                wait_again(dsn)
                with asking(path) as (port, said), bench.servers.stream() as stream:
                    flags = ("--events", str(events), "--http", str(port))
                    servers = bench.servers
                    with relaying(servers, dsn, stream, *flags, variables=LAG) as relay:
                        report = report_of(relay.finish(600))
                rates[path].append(report["delivered"] / report["seconds"])
                asked[path].append(said)
    return told(rates, asked)


@contextmanager
def asking(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Ask for ``path`` at the port that is yielded; behind the block, say what came of it."""
    said: dict[str, Any] = {}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    with running(python("bench.asking", port, path)) as clients:
        yield port, said
        said |= json.loads(clients.stop())


def told(rates: dict[str, list[float]], asked: dict[str, list[dict[str, Any]]]) -> Findings:
    """Make figures of all runs."""
    found = Findings(figures=[Figure("http: drain, nobody asks", "events/s", tuple(rates[NOBODY]))])
    for path, runs in asked.items():
        who = "nobody" if path == NOBODY else f"{CLIENTS} clients on {path}"
        if path != NOBODY:
            both = ratios(rates[path], rates[NOBODY])
            found.figures.append(at_least(f"http: drain, {who}", "ratio", both, LEAST_RATIO))
            answers = [float(sum(each["answers"].values())) for each in runs]
            found.figures.append(Figure(f"http: answers to {who}", "", tuple(answers)))
        slowest = [each["slowest"] for each in runs]
        found.figures.append(at_most(f"http: slowest probe, {who}", "s", slowest, PROBE_SECONDS))
        failed = [float(len(each["failed"])) for each in runs]
        found.figures.append(at_most(f"http: probes without a 200, {who}", "", failed, 0))
        kinds = sorted({why for each in runs for why in each["failed"]})
        if kinds:
            found.remarks.append(f"http: {who}: {', '.join(kinds)}")
    return found
