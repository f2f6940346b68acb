"""What the relay costs its producers: commits/s of 32 pgbench clients, one event a transaction.

Four cases take turns on the same table: without any trigger, which lets poison in; without the
doorbell's; with both, bell awake and nobody reading; with both and a relay that delivers everything
on the same cores. What is compared is compared within one turn.
"""

import re
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
import psycopg
from rich.progress import Progress

from bench.drain import delete_stream, make_stream
from bench.figures import Figure, at_least
from bench.stack import Stack

SCRIPT = """\\set key random(1, 1000)
insert into relay.outbox (subject, key, payload) values ('orders.placed', 'k' || :key, '{payload}');
"""
PAYLOAD = '{"filler": "' + "x" * 240 + '"}'
CLIENTS = 32
TRIGGERS = {
    "no trigger at all": (),
    "no doorbell": ("refuse_poison",),
    "doorbell, nobody reads": ("refuse_poison", "doorbell"),
    "relay delivering": ("refuse_poison", "doorbell"),
}
RATIOS = (
    ("doorbell, nobody reads", "no doorbell", 0.95),
    ("doorbell, nobody reads", "no trigger at all", 0.95),
    ("relay delivering", "no doorbell", 0.75),
    ("relay delivering", "no trigger at all", 0.75),
)


def run(servers: Stack, runs: int, seconds: int, progress: Progress) -> list[Figure]:
    """Measure the cases ``runs`` times in turn, ``seconds`` each."""
    bar = progress.add_task("producers", total=runs * len(TRIGGERS))
    rates: dict[str, list[float]] = {case: [] for case in TRIGGERS}
    with servers.outbox() as dsn:
        pgbench(servers, dsn, 2)  # warms the table's pages
        for _ in range(runs):
            for case, found in rates.items():
                with prepared(servers, dsn, case):
                    found.append(pgbench(servers, dsn, seconds))
                progress.advance(bar)
    figures = [
        Figure(f"producers, {case}", "commits/s", tuple(found)) for case, found in rates.items()
    ]
    for case, base, bound in RATIOS:
        ratios = [one / other for one, other in zip(rates[case], rates[base], strict=True)]
        figures.append(at_least(f"producers, {case} / {base}", "ratio", ratios, bound))
    return figures


@contextmanager
def prepared(servers: Stack, dsn: str, case: str) -> Iterator[None]:
    """Set the triggers, empty the table, and run a relay where the case asks for one."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("truncate relay.outbox")
        for trigger in ("refuse_poison", "doorbell"):
            switch = "enable" if trigger in TRIGGERS[case] else "disable"
            connection.execute(f"alter table relay.outbox {switch} trigger {trigger}".encode())
        connection.execute(
            "update relay.cursor set base = pg_current_snapshot(), target = null, last_id = 0"
        )
        connection.execute("vacuum relay.cursor")
        connection.execute("checkpoint")
    if case != "relay delivering":
        yield
        return
    stream = f"BENCH-{uuid.uuid4().hex[:8]}"
    anyio.run(make_stream, servers.nats.url, stream, True)
    command = [sys.executable, "-m", "bench.subject", dsn, servers.nats.url, stream]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as relay:
        assert relay.stdout is not None
        relay.stdout.readline()  # it leads
        yield
        relay.terminate()
        relay.stdout.read()
    anyio.run(delete_stream, servers.nats.url, stream)


def pgbench(servers: Stack, dsn: str, seconds: int) -> float:
    """Run 32 clients; their commits/s."""
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
        script.write(SCRIPT.replace("{payload}", PAYLOAD))
        script.flush()
        answer = subprocess.run(
            [
                str(servers.postgres.installation.bin_dir / "pgbench"),
                *("--no-vacuum", "--protocol", "prepared", "--client", str(CLIENTS)),
                *("--jobs", "2", "--time", str(seconds), "--file", script.name, dsn),
            ],
            capture_output=True,
            text=True,
            check=True,
        )
    found = re.search(r"tps = ([0-9.]+)", answer.stdout)
    assert found is not None, answer.stdout
    return float(found[1])
