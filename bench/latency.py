"""From commit to PubAck, open loop: producers commit on schedule, whatever the relay does.

The producer notes the moment when its commit has returned, the relay's process the moment when the
event's PubAck has come; both read the same wall clock. Not counted: the first second.
"""

import json
import subprocess
import sys
import threading
import time
import uuid

import anyio
import psycopg
from rich.progress import Progress

from bench.drain import delete_stream, make_stream
from bench.figures import Figure, below, percentile
from bench.stack import Stack

INSERT = """
    insert into relay.outbox (subject, key, payload_bytes)
    values ('orders.placed', %s, %s) returning event_id::text
"""
PRODUCERS = 4
WARM_UP = 1.0
P50_MS, P99_MS = 1.5, 8.0


def run(servers: Stack, runs: int, seconds: float, rate: int, progress: Progress) -> list[Figure]:
    """Commit ``rate`` events/s for ``seconds``, ``runs`` times."""
    bar = progress.add_task("latency", total=runs)
    halves, tails = [], []
    for _ in range(runs):
        samples = measure(servers, seconds, rate)
        halves.append(percentile(samples, 50) * 1000)
        tails.append(percentile(samples, 99) * 1000)
        progress.advance(bar)
    return [
        below(f"commit to PubAck at {rate}/s, p50", "ms", halves, P50_MS),
        below(f"commit to PubAck at {rate}/s, p99", "ms", tails, P99_MS),
    ]


def measure(servers: Stack, seconds: float, rate: int) -> list[float]:
    """Run producers and relay once; the seconds that each event took."""
    stream = f"BENCH-{uuid.uuid4().hex[:8]}"
    anyio.run(make_stream, servers.nats.url, stream, True)
    try:
        with servers.outbox() as dsn:
            command = [sys.executable, "-m", "bench.subject", dsn, servers.nats.url, stream]
            with subprocess.Popen(
                [*command, "--samples"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            ) as relay:
                assert relay.stdout is not None
                relay.stdout.readline()  # it leads
                producer = subprocess.run(
                    [sys.executable, "-m", "bench.latency", dsn, str(seconds), str(rate)],
                    stdout=subprocess.PIPE,
                    check=True,
                    timeout=seconds + 60,
                )
                relay.terminate()
                report = json.loads(relay.stdout.read().splitlines()[-1])
    finally:
        anyio.run(delete_stream, servers.nats.url, stream)
    committed_at: dict[str, float] = json.loads(producer.stdout)
    begin = min(committed_at.values()) + WARM_UP
    acked_at = report["acked_at"]
    return [acked_at[event] - at for event, at in committed_at.items() if at >= begin]


def produce(dsn: str, seconds: float, rate: float) -> dict[str, float]:
    """Commit on schedule from a few connections; when each commit had returned."""
    committed_at: dict[str, float] = {}
    start = time.monotonic() + 0.2

    def work(number: int) -> None:
        payload, pause = b"x" * 256, threading.Event()
        with psycopg.connect(dsn, autocommit=True) as connection:
            for turn in range(int(seconds * rate / PRODUCERS)):
                due = start + (turn * PRODUCERS + number) / rate
                pause.wait(max(0.0, due - time.monotonic()))
                row = connection.execute(INSERT, (f"k{turn % 250}", payload), prepare=True)
                now = time.time()
                found = row.fetchone()
                assert found is not None
                committed_at[found[0]] = now

    threads = [threading.Thread(target=work, args=(number,)) for number in range(PRODUCERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return committed_at


if __name__ == "__main__":
    print(json.dumps(produce(sys.argv[1], float(sys.argv[2]), float(sys.argv[3]))))
