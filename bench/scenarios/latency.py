"""From a producer's commit to the stored message, open loop, at rates from idle to busy.

The producers commit on schedule, whatever the relay does, and note when their commit has returned.
The stream's own time stamp says when the message was stored; the relay's process says, by the same
wall clock, when its PubAck had come. Not counted: the first second.

The floor is the least that this work takes here, see ``bench/peers/floor.py``; it takes turns with
the relay and is measured by the same clock.
"""

from collections import defaultdict
from collections.abc import Sequence

from bench import contest
from bench.figures import Figure, Findings, at_most, distribution, percentile, ratios
from bench.ours import Ours
from bench.peers import FLOOR
from bench.peers.base import Peer
from bench.scenario import Bench

RATES = (50, 200, 500, 2000, 5000)
COMPARED = (200, 500)
SECONDS = 20
P50_OF_FLOOR, P99_OF_FLOOR = 1.3, 1.5
PERCENTILES = {"p50": 50, "p95": 95, "p99": 99, "max": 100}


def run(bench: Bench) -> Findings:
    """Measure each rate, and at some of them the poll and the floor as well."""
    ours = Ours()
    compared: list[Peer] = [Ours(notify=False), FLOOR]
    contestants: list[tuple[Peer, int]] = [(ours, rate) for rate in RATES]
    contestants += [(peer, rate) for rate in COMPARED for peer in compared]
    contestants.sort(key=lambda one: one[1])  # who is compared is measured side by side
    found: dict[tuple[Peer, int], list[contest.Delays]] = defaultdict(list)
    bench.plan(bench.runs * len(contestants))
    for _, order in bench.turns(contestants):
        for peer, rate in order:
            bench.step(f"{peer.name}, {rate:,}/s")
            seconds = bench.seconds(SECONDS)
            delays = contest.latency(
                bench.servers, peer, rate, seconds, samples=isinstance(peer, Ours)
            )
            found[peer, rate].append(delays)
    findings = Findings()
    for (peer, rate), runs in found.items():
        findings.figures += told(f"latency: {peer.name}, {rate:,}/s", runs)
        pooled = [1000 * value for delays in runs for value in delays.stored]
        findings.curves.append(distribution("latency", f"{peer.name}, {rate:,}/s", pooled))
    findings.figures += compare(found, ours, FLOOR)
    return findings


def told(name: str, runs: list[contest.Delays]) -> list[Figure]:
    """Make the figures of one contestant at one rate."""
    figures = [
        Figure(f"{name}, to stored, {label}", "ms", in_ms([r.stored for r in runs], percent))
        for label, percent in PERCENTILES.items()
    ]
    if runs[0].acked:
        figures += [
            Figure(f"{name}, to PubAck, {label}", "ms", in_ms([r.acked for r in runs], percent))
            for label, percent in PERCENTILES.items()
            if label in {"p50", "p99"}
        ]
    figures.append(Figure(f"{name}, kept", "commits/s", tuple(r.rate for r in runs)))
    return figures


def compare(
    found: dict[tuple[Peer, int], list[contest.Delays]], ours: Peer, lowest: Peer
) -> list[Figure]:
    """Judge ours by the floor."""
    figures = []
    for rate in COMPARED:
        for label, bound in (("p50", P50_OF_FLOOR), ("p99", P99_OF_FLOOR)):
            percent = PERCENTILES[label]
            one = in_ms([r.stored for r in found[ours, rate]], percent)
            least = in_ms([r.stored for r in found[lowest, rate]], percent)
            name = f"latency: {rate:,}/s, {label} to the floor's"
            figures.append(at_most(name, "ratio", ratios(one, least), bound))
    return figures


def in_ms(runs: list[Sequence[float]], percent: float) -> tuple[float, ...]:
    """Return the percentile of each run."""
    return tuple(1000 * percentile(values, percent) for values in runs)
