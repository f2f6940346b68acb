"""How many modules one event passes in steady delivery: ``python -m bench.modules``.

A profile of the relay's own process, telemetry off, while events come one by one: every module of
``relay`` whose functions were called once the relay was at work. What starts, ends or keeps house
once a second is left out by taking the profile between two housekeeping turns.
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
BESIDE = ("engine/housekeeping.py", "engine/outage.py", "postgres/housekeeping.py")
"""What keeps house beside the delivery, once a second."""


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
    passed = {name: n for name, n in calls.items() if not name.startswith(BESIDE)}
    for name, number in sorted(passed.items()):
        sys.stdout.write(f"{number / EVENTS:8.1f}  relay/{name}\n")
    sys.stdout.write(f"{len(passed)} modules, {sum(passed.values()) / EVENTS:.0f} calls an event\n")


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
