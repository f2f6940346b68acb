"""What telemetry costs: the same backlog drained without it and with it, in turn.

With it means metrics and traces over OTLP to a collector that takes everything, on this machine.
The producers' events carry a ``traceparent``, once sampled and once not. A pair of runs gives one
ratio; who goes first alternates. The target bounds the cost at a tenth.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import Progress

from bench.drain import drain
from bench.figures import Figure, at_least
from bench.stack import Stack

FILL = """
    insert into relay.outbox (subject, key, payload_bytes, headers)
    select 'orders.placed', 'k' || n % 1000, convert_to(repeat('x', 256), 'UTF8'),
           jsonb_build_object('traceparent', '00-' || md5(n::text) || '-' || left(md5('s' || n), 16)
                                             || '-{flags}')
      from generate_series(1, {{events}}) as n
"""
FLAGS = {"unsampled": "00", "sampled": "01"}
PATHS = ("fast ingest", "windowed")
LEAST_RATIO = 0.9


def run(servers: Stack, runs: int, events: int, progress: Progress) -> list[Figure]:
    """Drain ``events`` with and without telemetry, ``runs`` times each."""
    bar = progress.add_task("telemetry", total=runs * len(FLAGS) * len(PATHS))
    figures = list[Figure]()
    for path in PATHS:
        for producers, flags in FLAGS.items():
            pairs = []
            for turn in range(runs):
                pairs.append(pair(servers, path, events, flags, off_first=turn % 2 == 0))
                progress.advance(bar)
            figures += told(f"{path}, {producers} producers", pairs)
    return figures


def pair(
    servers: Stack, path: str, events: int, flags: str, *, off_first: bool
) -> tuple[dict[str, float], dict[str, float]]:
    """Drain twice; the reports without telemetry and with it."""
    fill = FILL.format(flags=flags)

    def without() -> dict[str, float]:
        return drain(servers, path, events, fill=fill)

    def measured() -> dict[str, float]:
        with collector() as taking:
            report = drain(servers, path, events, fill=fill, variables=taking.variables)
        return report | {"spans": float(taking.spans)}

    if off_first:
        return without(), measured()
    on = measured()
    return without(), on


def told(name: str, pairs: list[tuple[dict[str, float], dict[str, float]]]) -> list[Figure]:
    """Make figures of the pairs of one kind."""
    ratios = [off["seconds"] / on["seconds"] for off, on in pairs]
    cpu = [on["drain_cpu_seconds"] / off["drain_cpu_seconds"] for off, on in pairs]
    return [
        at_least(f"telemetry, {name}: throughput", "on / off", ratios, LEAST_RATIO),
        Figure("  relay's CPU time", "on / off", tuple(cpu)),
        Figure("  spans that arrived", "spans", tuple(on["spans"] for _, on in pairs)),
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
    """Run a collector in a process of its own."""
    with subprocess.Popen(
        [sys.executable, "-m", "bench.collector"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        taking = Taking(int(process.stdout.readline()))
        yield taking
        out, _ = process.communicate(timeout=60)
        taking.spans = int(out)
