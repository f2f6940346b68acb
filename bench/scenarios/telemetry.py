"""What telemetry costs: the same backlog drained without it and with it, in turn.

With it means metrics and traces over OTLP to a collector that takes everything, on this machine.
The producers' events carry a ``traceparent``, once sampled and once not. A pair of runs gives one
ratio; who goes first alternates. The target bounds the cost at a tenth.
"""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bench.backlog import Shape, fill, wait_again
from bench.figures import Figure, Findings, at_least
from bench.processes import python
from bench.relaying import PATHS, drained
from bench.scenario import Bench

HEADERS = """
    jsonb_build_object('traceparent',
                       '00-' || md5(n::text) || '-' || left(md5('s' || n), 16) || '-{flags}')
"""
FLAGS = {"unsampled": "00", "sampled": "01"}
EVENTS = 500_000
LEAST_RATIO = 0.9


def run(bench: Bench) -> Findings:
    """Drain with and without telemetry, ``bench.runs`` times each."""
    found, events = Findings(), bench.events(EVENTS)
    bench.plan(len(FLAGS) * len(PATHS) * bench.runs)
    for producers, flags in FLAGS.items():
        with bench.servers.outbox() as dsn:
            fill(dsn, events, Shape(producers, headers=HEADERS.format(flags=flags)))
            pairs: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {p: [] for p in PATHS}
            for turn, paths in bench.turns(PATHS):
                for path in paths:
                    bench.step(f"{path}, {producers} producers")
                    pairs[path].append(pair(bench, dsn, path, events, off_first=turn % 2 == 0))
        for path in PATHS:
            found.figures += told(f"{path}, {producers} producers", pairs[path])
    return found


def pair(
    bench: Bench, dsn: str, path: str, events: int, *, off_first: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Drain twice; the reports without telemetry and with it."""

    def without() -> dict[str, Any]:
        wait_again(dsn)
        return drained(bench.servers, dsn, path, events)

    def measured() -> dict[str, Any]:
        wait_again(dsn)
        with collector() as taking:
            report = drained(bench.servers, dsn, path, events, variables=taking.variables)
        return report | {"spans": float(taking.spans)}

    if off_first:
        return without(), measured()
    on = measured()
    return without(), on


def told(name: str, pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> list[Figure]:
    """Make figures of the pairs of one kind."""
    rates = [off["seconds"] / on["seconds"] for off, on in pairs]
    cpu = [on["drain_cpu_seconds"] / off["drain_cpu_seconds"] for off, on in pairs]
    return [
        at_least(f"telemetry: {name}: throughput", "on / off", rates, LEAST_RATIO),
        Figure(f"telemetry: {name}: relay's CPU time", "on / off", tuple(cpu)),
        Figure(
            f"telemetry: {name}: spans that arrived", "spans", tuple(on["spans"] for _, on in pairs)
        ),
    ]


class Taking:
    """A running collector: the variables that name it, and in the end what it took."""

    def __init__(self, port: int) -> None:
        """It listens on ``port``."""
        self.spans = 0
        self.variables = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_METRIC_EXPORT_INTERVAL": "1000",  # a minute is usual: this has to show
        }


@contextmanager
def collector() -> Iterator[Taking]:
    """Run a collector in a process of its own; it ends when its standard input does."""
    with subprocess.Popen(
        python("bench.collector"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        taking = Taking(int(process.stdout.readline()))
        yield taking
        out, _ = process.communicate(timeout=60)
        taking.spans = int(out)
