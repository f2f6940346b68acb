"""How soon something is published when a server that was killed is back.

    python -m tests.soak.restarts --times 100

Each time Postgres, and then NATS, is killed with SIGKILL under load and started again at once. What
is measured is the time from when it accepts clients to the next message that is stored. One line of
JSON says what was found; exit code 0 only if all but the worst are quick, and nothing is lost,
repeated or reordered.
"""

import asyncio
import json
import sys
import tempfile
from bisect import bisect_left
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from relay import devstack
from relay.audit.stream import read_stream
from tests.soak.takeover import servers, summary
from tests.system.harness import STREAM, Load, RelayProcess, delivered, until, verdict

MOST = {"postgres": 2.0, "nats": 1.0}
EVENTS = 50
"""Delivered between two kills."""

WAIT = 30.0


def measure(times: int, folder: Path) -> dict[str, Any]:
    """Kill both servers ``times`` times."""
    with (
        servers(None) as (pg, nats),
        RelayProcess(pg.dsn, nats.url, folder / "relay.log"),
        Load(pg.dsn, producers=2, pause=0.005) as load,
    ):
        flows(pg)
        both: dict[str, devstack.Postgres | devstack.NatsServer] = {"postgres": pg, "nats": nats}
        ready: dict[str, list[datetime]] = {name: [] for name in both}
        for _ in range(times):
            for name, server in both.items():
                server.kill()
                server.start()
                ready[name].append(datetime.now(UTC))
                flows(pg)
        load.stop()
        found = asyncio.run(verdict(load, nats.url))
        stored = sorted(
            each.stored_at.timestamp()
            for each in asyncio.run(read_stream(nats.url, STREAM))
            if each.stored_at is not None
        )
    report: dict[str, Any] = {
        name: summary([soonest(stored, each.timestamp()) for each in ready[name]], most, but=1)
        for name, most in MOST.items()
    }
    return report | {"stream": found.counts | {"met": found.is_clean}}


def flows(pg: devstack.Postgres) -> None:
    """Wait until more is delivered."""
    before = delivered(pg.dsn)
    until(lambda: delivered(pg.dsn) >= before + EVENTS, WAIT)


def soonest(stored: list[float], since: float) -> float:
    """Return how long after ``since`` the next message was stored, in s."""
    return stored[bisect_left(stored, since)] - since


def main(*, times: Annotated[int, typer.Option(min=1)] = 100) -> None:
    """Measure restarts; about three seconds each."""
    with tempfile.TemporaryDirectory(prefix="relay-restarts-") as folder:
        found = measure(times, Path(folder))
    typer.echo(json.dumps(found))
    sys.exit(0 if all(part["met"] for part in found.values()) else 1)


if __name__ == "__main__":
    typer.run(main)
