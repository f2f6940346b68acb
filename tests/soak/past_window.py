"""A relay that is killed and started again: second copies, and what it asks before it publishes.

    python -m tests.soak.past_window --kills 200 --starts 50 --tail 1000000

Kills: the stream's duplicate window is one second. Under load the relay is killed with -9, and
started when the window is over; ``outstanding`` counts the kills after which the stream held events
that were not settled. ``relay audit`` judges in the end.

Starts: the relay is stopped in order, one event is written, and the relay started, in turn with
``RELAY_REPAIR`` auto and off. A plain subscription hears what it asks of JetStream: the requests
about what the stream holds, and the time from the connection's first request to the message.

Tail: so many events are delivered, then the cursor and the checkpoints are put back to where they
were before, as if none of it had been settled. What is measured is how long a relay takes from its
start until it has passed over all of them and published one new event, and its memory above that of
an idle one.

One line of JSON; exit code 0 only if there was no second copy, comparing took one request at most
and, of the medians, 20 ms at most, and the tail took less than 20 s and 120 MiB.
"""

import asyncio
import json
import random
import statistics
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, Self

import nats
import typer
from nats.aio.msg import Msg

from bench.backlog import fill
from relay import devstack
from relay.postgres import migrations
from tests.audit.seeded import audit
from tests.system import streams
from tests.system.harness import (
    STREAM,
    Load,
    RelayProcess,
    alone,
    connected,
    delivered,
    emit,
    until,
)

WINDOW = 1.0
PAST = WINDOW + 0.3
PATIENCE = 60.0
MOST_REQUESTS = 1
MOST_SECONDS = 0.02
MOST_TAIL_SECONDS, MOST_TAIL_MIB = 20.0, 120
ABOUT_CONTENT = ("STREAM.MSG.GET", "CONSUMER.")
"""What the relay asks only to compare a stream with what was settled."""


KEEP = (
    "create table kept_cursor as select base, target, last_id from relay.cursor",
    "create table kept_checkpoint as table relay.checkpoint",
)
PUT_BACK = (
    "update relay.cursor set (base, target, last_id) = (table kept_cursor)",
    "delete from relay.checkpoint",
    "insert into relay.checkpoint table kept_checkpoint",
)
NOTHING_WAITS = "select not exists (select from relay.pending)"


class Heard:
    """Every request to JetStream, and every message, as they pass: (monotonic s, subject)."""

    def __init__(self, url: str) -> None:
        self.passed: list[tuple[float, str]] = []
        self._url = url
        self._over, self._listens = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._listen()), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._listens.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(10)

    async def _listen(self) -> None:
        async def take(message: Msg) -> None:
            self.passed.append((time.monotonic(), message.subject))

        async with await nats.connect(self._url) as client:
            for subject in ("$JS.API.>", "orders.>"):
                await client.subscribe(subject, cb=take)
            await client.flush()
            self._listens.set()
            while not self._over.is_set():
                await asyncio.sleep(0.02)


class Restarts:
    """One relay after the other on the same servers."""

    def __init__(self, dsn: str, url: str, folder: Path, stack: ExitStack) -> None:
        self._dsn = dsn
        self._url = url
        self._folder = folder
        self._stack = stack
        self._number = 0

    def start(self, **settings: str) -> RelayProcess:
        self._number += 1
        log = self._folder / f"relay-{self._number}.log"
        settings |= {"stream_create": "false", "retention": "1d"}
        relay = RelayProcess(self._dsn, self._url, log, **settings)
        self._stack.callback(relay.end)
        return relay

    def kills(self, times: int, minutes: float, chance: random.Random) -> dict[str, Any]:
        done = outstanding = 0
        over = time.monotonic() + 60 * minutes
        with Load(self._dsn, producers=3):
            while done < times and time.monotonic() < over:
                done += 1
                relay, before = self.start(), delivered(self._dsn)
                until(lambda before=before: delivered(self._dsn) > before, PATIENCE)
                threading.Event().wait(chance.uniform(0.0, 1.0))
                relay.kill()
                outstanding += streams.held(self._url, STREAM) > delivered(self._dsn)
                threading.Event().wait(PAST)
        relay = self.start()
        self._settled(relay)
        code, found, report = audit(self._dsn, self._url, STREAM, "--grace", "0s")
        return {
            "kills": done,
            "outstanding": outstanding,
            "events": report["matched"],
            "findings": sorted({kind for kind, *_ in found}),
            "second_copies": sum(kind == "duplicate" for kind, *_ in found),
            "met": code == 0,
        }

    def starts(self, times: int) -> dict[str, Any]:
        found = [(self._started("auto"), self._started("off")[1]) for _ in range(times)]
        requests = max(asked for (asked, _), _ in found)
        compared, plain = (
            1000 * statistics.median(each)
            for each in ([took for (_, took), _ in found], [took for _, took in found])
        )
        return {
            "starts": times,
            "most_requests": requests,
            "median_ms": round(compared, 1),
            "without_comparing_ms": round(plain, 1),
            "met": requests <= MOST_REQUESTS and compared - plain <= 1000 * MOST_SECONDS,
        }

    def tail(self, events: int) -> dict[str, Any]:
        """Let a relay find so many events in the stream of which nothing was settled."""
        emit(self._dsn, "orders.placed", "k")
        idle = self._settled(self.start())
        with connected(self._dsn) as admin:
            for statement in KEEP:
                admin.execute(statement)
            fill(self._dsn, events)
            self._settled(self.start())
            for statement in PUT_BACK:
                admin.execute(statement)
        threading.Event().wait(PAST)
        emit(self._dsn, "orders.placed", "k")
        stored, began = streams.held(self._url, STREAM), time.monotonic()
        relay = self.start()
        until(lambda: streams.held(self._url, STREAM) > stored, 10 * PATIENCE)
        took = time.monotonic() - began
        above = self._settled(relay) - idle
        copies = streams.held(self._url, STREAM) - stored - 1
        return {
            "tail": events,
            "seconds": round(took, 1),
            "mib_above_idle": above,
            "second_copies": copies,
            "met": not copies and took <= MOST_TAIL_SECONDS and above <= MOST_TAIL_MIB,
        }

    def _settled(self, relay: RelayProcess) -> int:
        """Stop a relay once nothing waits; the most memory that it had, in MiB."""
        until(lambda: alone(self._dsn, NOTHING_WAITS), 10 * PATIENCE)
        status = Path(f"/proc/{relay.process.pid}/status").read_text(encoding="ascii")
        assert relay.terminate() == 0
        return int(status.partition("VmHWM:")[2].split()[0]) // 1024

    def _started(self, repair: str) -> tuple[int, float]:
        """Start a relay on one event; its requests about content, and the s to the message."""
        emit(self._dsn, "orders.placed", "k")
        with Heard(self._url) as heard:
            relay = self.start(repair=repair)
            until(lambda: any(on.startswith("orders.") for _, on in heard.passed), PATIENCE)
        assert relay.terminate() == 0
        stored = next(at for at, on in heard.passed if on.startswith("orders."))
        asked = [(at, on) for at, on in heard.passed if on.startswith("$JS.") and at < stored]
        about = [on for _, on in asked if on.removeprefix("$JS.API.").startswith(ABOUT_CONTENT)]
        return len(about), stored - asked[0][0]


def main(
    *,
    kills: Annotated[int, typer.Option(min=0)] = 200,
    minutes: Annotated[float, typer.Option(help="Kill no longer.")] = 60.0,
    starts: Annotated[int, typer.Option(min=0)] = 50,
    tail: Annotated[int, typer.Option(min=0, help="Needs Linux.")] = 1_000_000,
    windowed: Annotated[bool, typer.Option("--windowed", help="Without fast ingest.")] = False,
    seed: Annotated[int | None, typer.Option()] = None,
) -> None:
    """Kill a relay, start one where nothing or a lot had happened; some four seconds each time."""
    chosen = random.SystemRandom().randrange(10**6) if seed is None else seed
    found: dict[str, Any] = {}
    with (
        tempfile.TemporaryDirectory(prefix="relay-window-") as folder,
        devstack.postgres() as pg,
        devstack.nats_server() as server,
        ExitStack() as stack,
    ):
        asyncio.run(migrations.migrate(pg.dsn, "relay"))
        shape = {"duplicate_window": int(WINDOW * 1e9), "allow_batched": not windowed}
        streams.make(server.url, STREAM, "orders.>", **shape)
        restarts = Restarts(pg.dsn, server.url, Path(folder), stack)
        if kills:
            found["killed"] = restarts.kills(kills, minutes, random.Random(chosen))
        if starts:
            found["started"] = restarts.starts(starts)
        if tail:
            found["tail"] = restarts.tail(tail)
    typer.echo(json.dumps({"seed": chosen, **found}))
    sys.exit(0 if all(part["met"] for part in found.values()) else 1)


if __name__ == "__main__":
    typer.run(main)
