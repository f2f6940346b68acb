"""How fast ``relay audit`` judges a delivered outbox, and how much memory that takes.

The time is that of the whole command, its start included.
"""

import json
import os
import subprocess
import time

from bench.backlog import fill
from bench.figures import Findings, at_least, at_most
from bench.processes import python
from bench.relaying import relaying
from bench.scenario import Bench

EVENTS = 1_000_000
RATE = 100_000
PEAK_MIB = 200
DELIVER_TIMEOUT = 600


def run(bench: Bench) -> Findings:
    """Deliver once, audit several times."""
    events, rates, peaks = bench.events(EVENTS), list[float](), list[float]()
    bench.plan(1 + bench.runs)
    with bench.servers.outbox() as dsn, bench.servers.stream() as stream:
        bench.step("deliver")
        fill(dsn, events)
        with relaying(bench.servers, dsn, stream, "--events", str(events)) as relay:
            relay.finish(DELIVER_TIMEOUT)
        for _ in range(bench.runs):
            bench.step("audit")
            seconds, peak = audited(dsn, bench.servers.nats.url, stream, events)
            rates.append(events / seconds)
            peaks.append(peak)
    name = f"audit: {events:,} events"
    return Findings(
        [
            at_least(f"{name}, rate", "events/s", rates, RATE),
            at_most(f"{name}, peak memory", "MiB", peaks, PEAK_MIB),
        ]
    )


def audited(dsn: str, url: str, stream: str, events: int) -> tuple[float, float]:
    """Return the command's seconds, and its peak memory in MiB."""
    command = python("relay", "audit", "--json", "--stream", stream)
    environment = os.environ | {"RELAY_POSTGRES_DSN": dsn, "RELAY_NATS_URL": url}
    began = time.monotonic()
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        *findings, last = process.stdout.read().splitlines()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.monotonic() - began
    assert (process.returncode, findings) == (0, []), findings[:3]
    assert json.loads(last)["report"]["matched"] == events
    return seconds, usage.ru_maxrss / 1024
