"""How long nobody publishes while a leader is replaced by a standby: a deploy, over and over.

    python -m tests.soak.deploys --times 200

Two relays at 5,000 events a second. Each time the leader is sent SIGTERM, and a new relay is
started once it has ended. What is measured is the longest silence between two messages around it.
One line of JSON says what was found; exit code 0 only if the hand-over was quick, and no event was
sent twice, lost or reordered.
"""

import json
import signal
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from tests.soak.takeover import Fleet, end, judged, servers
from tests.system.flow import Flow
from tests.system.harness import RelayProcess

APART, EVENTS = 0.005, 25
MOST = 0.05
PERCENT = 99
LISTEN = 1.0
"""Seconds around a hand-over in which silences count."""


def measure(times: int, folder: Path) -> dict[str, Any]:
    """Deploy ``times`` times, on servers of its own."""
    with ExitStack() as stack:
        pg, nats = stack.enter_context(servers(None))

        def start() -> RelayProcess:
            relay = RelayProcess(pg.dsn, nats.url, folder / f"relay-{len(started)}.log")
            started.append(relay)
            stack.callback(end, relay)
            return relay

        started: list[RelayProcess] = []
        flow = stack.enter_context(Flow(pg.dsn, nats.url, apart=APART, events=EVENTS))
        fleet = Fleet(pg.dsn, flow, start, standbys=1)
        silences, began = [], time.time()
        for _ in range(times):
            fleet.fill()
            leader = fleet.settled()
            since = time.time()
            leader.process.send_signal(signal.SIGTERM)
            threading.Event().wait(LISTEN)
            silences.append(flow.longest_silence(since))
            assert leader.process.wait(10) == 0
        repeated = len(flow.repeated_after(began))
        events = len(flow.begun)
        seconds = time.time() - began
        fleet.fill()
        fleet.settled()
        found = judged(nats.url)
    ranked = sorted(silences)
    judged_by = ranked[max(0, len(ranked) * PERCENT // 100 - 1)]
    return {
        "deploys": times,
        "events_per_second": round(events / seconds),
        "median_ms": round(1000 * ranked[len(ranked) // 2], 1),
        f"p{PERCENT}_ms": round(1000 * judged_by, 1),
        "worst_ms": round(1000 * ranked[-1], 1),
        "sent_twice": repeated,
        "stream": found,
        "met": judged_by <= MOST and not repeated and found["met"],
    }


def main(*, times: Annotated[int, typer.Option(min=1)] = 200) -> None:
    """Measure hand-overs; about three seconds each."""
    with tempfile.TemporaryDirectory(prefix="relay-deploys-") as folder:
        found = measure(times, Path(folder))
    typer.echo(json.dumps(found))
    sys.exit(0 if found["met"] else 1)


if __name__ == "__main__":
    typer.run(main)
