"""How many modules one event passes in steady delivery: ``python -m bench.modules``.

A profile of the relay's own process, telemetry off, while events come one by one: every module of
``relay`` that is called for at least every second event. What is called less often (housekeeping, a
settlement that merges many) stands beside them and is not counted.
"""

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import anyio
import psycopg

from bench.stack import stack
from relay import Relay, Settings

EVENTS = 200
INSERT = "insert into relay.outbox (subject, key, payload) values ('orders.placed', 'k', '{}')"
PACKAGE = str(Path(__file__).parents[1] / "relay") + "/"
PASSED = 0.5
"""Calls an event from which a module counts as passed."""


def main() -> None:
    """Print each module with its calls an event, and their number."""
    calls: Counter[str] = Counter()

    def count(frame: FrameType, event: str, _: Any) -> None:
        name = frame.f_code.co_filename
        if event == "call" and name.startswith(PACKAGE):
            calls[name.removeprefix(PACKAGE)] += 1

    with stack() as servers, servers.outbox() as dsn, servers.stream() as stream:
        settings = Settings(
            postgres_dsn=dsn, nats_url=(servers.nats.url,), stream=stream, http="off"
        )
        anyio.run(_profiled, Relay(settings), dsn, count)
    passed = {name for name, number in calls.items() if number / EVENTS >= PASSED}
    for name, number in sorted(calls.items()):
        beside = "" if name in passed else "  (beside)"
        sys.stdout.write(f"{number / EVENTS:8.2f}  relay/{name}{beside}\n")
    sys.stdout.write(f"{len(passed)} modules, {sum(calls.values()) / EVENTS:.0f} calls an event\n")


async def _profiled(relay: Relay, dsn: str, count: Callable[..., None]) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(relay.run)
        with psycopg.connect(dsn, autocommit=True) as connection:
            await _emit(connection, relay, 20)
            sys.setprofile(count)
            await _emit(connection, relay, EVENTS)
            sys.setprofile(None)
        relay.stop()


async def _emit(connection: psycopg.Connection[Any], relay: Relay, events: int) -> None:
    want = relay.metrics()["delivered"] + events

    def emit() -> None:
        for _ in range(events):
            connection.execute(INSERT)
            time.sleep(0.005)

    thread = threading.Thread(target=emit)
    thread.start()
    while relay.metrics()["delivered"] < want:  # noqa: ASYNC110 - the relay has no event for it
        await anyio.sleep(0.05)
    thread.join()


if __name__ == "__main__":
    main()
