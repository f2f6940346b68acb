"""Producers as fast as they go, for minutes: does the relay keep up, and how late is it?

The backlog is sampled each second: rows written so far less messages stored. It has to stay within
what a few hundred milliseconds bring, and must not grow from the first half to the second. The lag
is from ``created_at`` to the PubAck, of every event.
"""

from bench import pgbench
from bench.figures import Curve, Figure, Findings
from bench.ours import Ours
from bench.relaying import relaying, report_of
from bench.scenario import Bench
from bench.watching import Seen, watch

CLIENTS = 8
SECONDS = 120
SEQUENCE = "relay.outbox_id_seq"


def run(bench: Bench) -> Findings:
    """Run producers and relay, ``bench.runs`` times."""
    found, seens, reports, commits = Findings(), list[Seen](), [], []
    bench.plan(bench.runs)
    for _ in range(bench.runs):
        bench.step(f"{CLIENTS} clients")
        seconds = bench.seconds(SECONDS, least=3)
        with (
            bench.servers.outbox() as dsn,
            bench.servers.stream() as stream,
            relaying(bench.servers, dsn, stream, "--delays") as relay,
        ):
            with pgbench.producing(bench.servers, dsn, Ours(), CLIENTS, seconds) as producers:
                seens.append(watch(dsn, SEQUENCE, bench.servers.nats.url, stream, producers))
                commits.append(pgbench.rate_of(producers, seconds))
            reports.append(report_of(relay.stop()))
    name = f"steady: {CLIENTS} producers"
    stored = tuple(seen.rate for seen in seens)
    found.figures = [
        Figure(f"{name}, written", "events/s", tuple(commits)),
        Figure(f"{name}, stored", "events/s", stored),
        Figure(f"{name}, lag p50", "ms", tuple(1000 * r["delay_p50"] for r in reports)),
        Figure(f"{name}, lag p99", "ms", tuple(1000 * r["delay_p99"] for r in reports)),
        Figure(f"{name}, lag max", "ms", tuple(1000 * r["delay_max"] for r in reports)),
        Figure(f"{name}, most waiting", "events", tuple(max(s.backlog) for s in seens)),
        bounded(f"{name}, most waiting in the last half", seens, commits),
        Figure(f"{name}, relay's peak memory", "MiB", tuple(r["peak_mib"] for r in reports)),
    ]
    for number, seen in enumerate(seens, 1):
        points = tuple(zip(seen.at, map(float, seen.backlog), strict=True))
        found.curves.append(Curve("steady", f"run {number}", points))
    return found


def bounded(name: str, seens: list[Seen], commits: list[float]) -> Figure:
    """Judge that the backlog stays below a second's events."""
    most = tuple(float(max(s.backlog[len(s.backlog) // 2 :])) for s in seens)
    met = all(waiting <= rate for waiting, rate in zip(most, commits, strict=True))
    return Figure(name, "events", most, "< 1 s of events", met)
