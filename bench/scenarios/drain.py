"""How fast a backlog drains, on both publishing paths, beside what is possible on this machine.

The clock runs in the relay's own process from the beginning of its term, before its first read, to
the last PubAck. In every run all shapes of events take turns with their limits, see ``limits``: the
servers' and the drivers' own speed, without a line of the relay.
"""

from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass

from bench import limits, pgbench
from bench.backlog import USUAL, Shape, fill, wait_again
from bench.figures import Curve, Figure, Findings, at_least, at_most, ratios
from bench.ours import Ours
from bench.relaying import PATHS, drained
from bench.scenario import Bench

EVENTS, FEWER, ONE_BY_ONE = 1_000_000, 200_000, 10_000
TARGETS = {"fast ingest": 90_000, "windowed": 60_000}
OF_LIMIT = 0.75
ONE_KEY = 60_000
PEAK_MIB = 150
CLIENTS = 32
RAW = {"fast ingest": "fast", "windowed": "windowed"}


@dataclass(frozen=True)
class Case:
    """One backlog and the path it takes."""

    shape: Shape
    events: int
    path: str

    @property
    def name(self) -> str:
        """As the report says it."""
        return f"{self.shape.name}, {self.path}"


SINGLE_KEY = Shape("256 B, one key", key="'k'")
CASES = (
    Case(USUAL, EVENTS, "fast ingest"),
    Case(USUAL, EVENTS, "windowed"),
    Case(Shape("64 B, 1,000 keys", bytes=64), FEWER, "fast ingest"),
    Case(Shape("4 KiB, 1,000 keys", bytes=4096), FEWER, "fast ingest"),
    Case(SINGLE_KEY, FEWER, "fast ingest"),
    Case(SINGLE_KEY, ONE_BY_ONE, "windowed"),
    Case(Shape("256 B, each its own key", key="'k' || n"), FEWER, "fast ingest"),
    Case(Shape("256 B, no key", key="null"), FEWER, "fast ingest"),
)


def run(bench: Bench) -> Findings:
    """Drain every case, ``bench.runs`` times in turn with the limits."""
    rates: dict[Case, list[float]] = defaultdict(list)
    peaks: dict[Case, list[float]] = defaultdict(list)
    raw: dict[str, list[float]] = defaultdict(list)
    shapes = {case.shape: bench.events(case.events) for case in reversed(CASES)}
    bench.plan(len(shapes) + bench.runs * (len(CASES) + 1))
    with ExitStack() as databases:
        dsns = {}
        for shape, events in shapes.items():
            bench.step(f"fill: {shape.name}")
            dsns[shape] = databases.enter_context(bench.servers.outbox())
            fill(dsns[shape], events, shape)
        for run, order in bench.turns(CASES):
            steps = [*order, None] if run % 2 else [None, *order]
            for case in steps:
                if case is None:
                    bench.step("limits")
                    measure_limits(bench, dsns[USUAL], raw)
                    continue
                bench.step(case.name)
                dsn, events = dsns[case.shape], bench.events(case.events)
                wait_again(dsn)
                report = drained(bench.servers, dsn, case.path, events)
                rates[case].append(report["delivered"] / report["seconds"])
                peaks[case].append(report["peak_mib"])
    return told(rates, peaks, raw)


def measure_limits(bench: Bench, dsn: str, raw: dict[str, list[float]]) -> None:
    """Add one value to each limit."""
    url, events = bench.servers.nats.url, bench.events(FEWER)
    for name, how, *switches in (
        ("fast ingest", "fast"),
        ("windowed", "windowed"),
        ("fast ingest, its frames ready before", "fast", "--ready"),
        ("windowed, its frames ready before", "windowed", "--ready"),
        ("fast ingest, ready and without headers", "fast", "--ready", "--bare"),
        ("fast ingest by nats-py's publish()", "public"),
    ):
        with bench.servers.stream(batched=how != "windowed"):
            raw[name].append(limits.published(how, url, events, USUAL.bytes, *switches))
    raw["reading by psycopg"].append(limits.rows_read(dsn, events))
    with bench.servers.outbox() as bare_dsn:
        Ours().unburden(bare_dsn)
        rate = pgbench.commits_per_second(
            bench.servers, bare_dsn, Ours(), CLIENTS, bench.seconds(10)
        )
    raw["pgbench, no rules and no bell"].append(rate)


def told(
    rates: dict[Case, list[float]], peaks: dict[Case, list[float]], raw: dict[str, list[float]]
) -> Findings:
    """Make figures of the values of all runs."""
    found = Findings()
    for case in CASES:
        values, name = rates[case], f"drain: {case.name}"
        if case.shape is USUAL:
            limit = raw[case.path]
            found.figures += [
                at_least(name, "events/s", values, TARGETS[case.path], limit),
                at_least(f"{name}, to its limit", "ratio", ratios(values, limit), OF_LIMIT),
                at_most(f"{name}, peak memory", "MiB", peaks[case], PEAK_MIB),
            ]
        elif case.shape is SINGLE_KEY and case.path == "fast ingest":
            found.figures.append(at_least(name, "events/s", values, ONE_KEY, raw[case.path]))
        else:
            found.figures.append(Figure(name, "events/s", tuple(values)))
    for name, values in raw.items():
        unit = "commits/s" if name.startswith("pgbench") else "events/s"
        found.figures.append(Figure(f"limit: {name}", unit, tuple(values)))
    usual = [f for f in found.figures if USUAL.name in f.name and f.unit == "events/s"]
    bars = [*usual, *(f for f in found.figures if f.name.removeprefix("limit: ") in PATHS)]
    found.curves = [Curve("drain", bar.name, ((0, bar.median),)) for bar in bars]
    return found
