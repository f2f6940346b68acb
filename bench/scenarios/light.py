"""What it takes at rest and at low rates, and how late events are then. Linux only: /proc says it.

The producers commit on schedule, open loop, each commit one event; 0 a second means that the bell
is armed and nothing is written. Transactions and bytes of WAL are all of the database's, those of
the producers included. The floor and the first loop take turns with the relay.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import contest
from bench.figures import Figure, Findings, at_most, percentile, ratios
from bench.meter import Taken, metered
from bench.openloop import WARM_UP
from bench.ours import Ours
from bench.peers import FLOOR
from bench.peers.base import Peer
from bench.peers.loop import GATHERED
from bench.processes import Child
from bench.scenario import Bench

RATES = (0, 10, 100, 500, 1000, 2000, 5000)
SECONDS = 20
SETTLED = 12
"""Seconds before a rest is measured: a session at rest hands in its statistics every 10 s."""

CPU = {0: 1.0, 10: 2.0, 100: 15.0, 500: 35.0, 2000: 65.0, 5000: 90.0}
"""% of a core that the relay and its sessions may take together, by events/s."""

DELAYS = {
    "p50": (50, {10: 1.2, 100: 1.2, 500: 1.2, 2000: 1.2, 5000: 4.0}),
    "p99": (99, {10: 4.0, 100: 5.0, 500: 4.0, 2000: 4.0, 5000: 15.0}),
    "p99.9": (99.9, dict[int, float]()),
}
"""Percentiles, and most ms from a producer's commit to the stored message, by events/s."""


@dataclass(frozen=True)
class Run:
    """One measurement.

    Attributes:
        taken: by the worker and its servers.
        seconds: for how long it was left alone, or events were committed.
        delays: from commit to stored, in s, one an event.
    """

    taken: Taken
    seconds: float
    delays: Sequence[float] = ()

    def share(self, cpu_seconds: float) -> float:
        """Return % of a core."""
        return 100 * cpu_seconds / self.seconds


def run(bench: Bench) -> Findings:
    """Measure each rate, ``bench.runs`` times."""
    if not Path("/proc/self/stat").exists():
        return Findings(remarks=["light: not measured, there is no /proc here"])
    ours = Ours()
    peers: Sequence[Peer] = (ours, FLOOR, GATHERED)
    contestants = [(peer, rate) for rate in RATES for peer in peers]
    found: dict[tuple[Peer, int], list[Run]] = defaultdict(list)
    bench.plan(bench.runs * len(contestants))
    for _, order in bench.turns(contestants):
        for peer, rate in order:
            bench.step(f"{peer.name}, {rate:,}/s")
            measure = at_rate if rate else at_rest
            found[peer, rate].append(measure(bench, peer, rate))
    findings = Findings()
    for (peer, rate), runs in found.items():
        findings.figures += figures(peer, rate, runs, is_ours=peer is ours)
    return findings


def at_rest(bench: Bench, peer: Peer, _: int) -> Run:
    """Leave a worker alone."""
    seconds = bench.seconds(SECONDS * 3)
    with bench.servers.database() as dsn, bench.servers.stream() as stream:
        peer.prepare(dsn)
        with contest.delivering(bench.servers, peer, dsn, stream) as worker:
            worker.ready()
            time.sleep(min(SETTLED, seconds))
            with metered(bench.servers, worker, dsn, rings=bell_of(peer)) as taken:
                time.sleep(seconds)
    return Run(taken, seconds)


def at_rate(bench: Bench, peer: Peer, rate: int) -> Run:
    """Commit ``rate`` events a second."""
    kept: list[Taken] = []

    @contextmanager
    def meter(worker: Child, dsn: str) -> Iterator[None]:
        with metered(bench.servers, worker, dsn, rings=bell_of(peer)) as taken:
            yield
        kept.append(taken)

    seconds = bench.seconds(SECONDS)
    delays = contest.latency(bench.servers, peer, rate, seconds, meter=meter)
    return Run(kept[0], seconds + WARM_UP, delays.stored)


def bell_of(peer: Peer) -> str:
    """Return the channel whose notifications ring."""
    return "relay.outbox" if isinstance(peer, Ours) else ""


def figures(peer: Peer, rate: int, runs: Sequence[Run], *, is_ours: bool) -> list[Figure]:
    """Make the figures of one contestant at one rate; ours are judged."""
    name = f"light: {peer.name}, {rate:,}/s"

    def judged(what: str, unit: str, values: Sequence[float], bound: float | None) -> Figure:
        if bound is None or not is_ours:
            return Figure(f"{name}, {what}", unit, tuple(values))
        return at_most(f"{name}, {what}", unit, values, bound)

    def shares(what: Callable[[Taken], float]) -> list[float]:
        return [each.share(what(each.taken)) for each in runs]

    both = shares(lambda taken: taken.worker + taken.sessions)
    memory = [each.taken.memory for each in runs]
    found = [
        judged("worker and its sessions", "% of a core", both, CPU.get(rate)),
        judged("worker", "% of a core", shares(lambda taken: taken.worker), None),
        judged("nats-server", "% of a core", shares(lambda taken: taken.nats), None),
        judged("memory", "MiB", memory, None),
    ]
    if not rate:
        values = [each.taken.transactions / each.seconds for each in runs]
        return [*found, judged("transactions", "1/s", values, None)]
    for label, (percent, bounds) in DELAYS.items():
        delays = [1000 * percentile(each.delays, percent) for each in runs]
        found.append(judged(f"to stored, {label}", "ms", delays, bounds.get(rate)))
    events = [each.seconds * rate for each in runs]
    per_event = {
        "transactions per event": [float(each.taken.transactions) for each in runs],
        "WAL bytes per event": [each.taken.wal for each in runs],
        "rings per event": [float(each.taken.rings) for each in runs],
    }
    for what, values in per_event.items():
        found.append(judged(what, "", ratios(values, events), None))
    return found
