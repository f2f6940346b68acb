"""Several outboxes in one database: a process for each, or all in one: ``python -m bench.several``.

    python -m bench.several --outboxes 20 --seconds 20

Each outbox is a schema of its own, with a stream of its own. Both ways the relays lead, and for
``seconds`` nothing comes; then each outbox gets one event, which has to arrive. Printed, a line of
JSON a way: memory, processor time of the relays and of their sessions in % of a core, sessions,
connections to NATS. ``--together DSN URL COUNT`` is the one process.
"""

import asyncio
import json
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import anyio
import psycopg
import typer
import uvloop

from bench.meter import cpu_seconds
from bench.peers.base import READY
from bench.processes import Child, python, running
from bench.stack import Stack, stack
from relay import Relay, Settings
from relay.postgres import migrations

WITHIN = 60.0
SESSIONS = """
    select pid from pg_stat_activity where datname = current_database()
       and backend_type = 'client backend' and application_name like 'relay %'
"""


def settings_of(number: int) -> dict[str, str]:
    """Return what one outbox's relay is told, by the names of its settings."""
    name = f"outbox_{number}"
    return {
        "schema": name,
        "stream": name.upper(),
        "stream_subjects": f"{name}.>",
        "stream_create": "true",
        "http": "off",
        "log_level": "error",
    }


async def together(dsn: str, url: str, count: int) -> None:
    """Run all relays in this process until SIGTERM."""
    where = {"postgres_dsn": dsn, "nats_url": url}
    relays = [Relay(Settings(**where, **settings_of(number))) for number in range(count)]
    with anyio.open_signal_receiver(signal.SIGTERM) as signals:
        async with anyio.create_task_group() as tasks:
            for relay in relays:
                tasks.start_soon(relay.run)
            print(READY, flush=True)
            await anext(signals)
            for relay in relays:
                relay.stop()


def measure(servers: Stack, way: str, count: int, seconds: float) -> dict[str, Any]:
    """Measure one way over outboxes of its own."""
    with servers.database() as dsn, ExitStack() as children:
        for number in range(count):
            asyncio.run(migrations.migrate(dsn, settings_of(number)["schema"]))
        pids = _start(servers, way, dsn, count, children)
        with psycopg.connect(dsn, autocommit=True) as look:
            _until(lambda: _leading(look, count) == count)
            time.sleep(seconds / 4)  # what a start costs is over
            sessions = [pid for (pid,) in look.execute(SESSIONS)]
            before = cpu_seconds(*pids), cpu_seconds(*sessions), cpu_seconds(servers.nats.pid)
            time.sleep(seconds)
            after = cpu_seconds(*pids), cpu_seconds(*sessions), cpu_seconds(servers.nats.pid)
            memory = sum(map(_own_mib, pids)), sum(map(_own_mib, sessions))
            for number in range(count):
                name = settings_of(number)["schema"]
                look.execute(f"select {name}.emit('{name}.a', '1')".encode())
            _until(lambda: _pending(look, count) == 0)
    relays, own, nats = (
        round(100 * (end - start) / seconds, 1) for start, end in zip(before, after, strict=True)
    )
    return {
        "way": way,
        "outboxes": count,
        "memory_mib": round(memory[0]),
        "sessions": len(sessions),
        "sessions_memory_mib": round(memory[1]),
        "idle_cpu_percent": {"relays": relays, "sessions": own, "nats": nats},
    }


def _start(servers: Stack, way: str, dsn: str, count: int, children: ExitStack) -> Sequence[int]:
    """Start the relays; the processes that they are."""
    started = list[Child]()
    if way == "one process":
        command = python("bench.several", "--together", dsn, servers.nats.url, count)
        started.append(children.enter_context(running(command)))
        started[0].ready()
        return [started[0].pid]
    for number in range(count):
        told = {"postgres_dsn": dsn, "nats_url": servers.nats.url, **settings_of(number)}
        variables = {f"RELAY_{name.upper()}": value for name, value in told.items()}
        started.append(children.enter_context(running(python("relay", "run"), variables)))
    return [child.pid for child in started]


def _own_mib(pid: int) -> float:
    """Return a process's proportional share of the memory in use: what is shared counts once."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def _leading(look: psycopg.Connection, count: int) -> int:
    return _sum(look, count, "(select count(*) from {}.cursor where holder is not null)")


def _pending(look: psycopg.Connection, count: int) -> int:
    return _sum(look, count, "(select count(*) from {}.pending)")


def _sum(look: psycopg.Connection, count: int, of: str) -> int:
    parts = (of.format(settings_of(number)["schema"]) for number in range(count))
    row = look.execute(f"select {' + '.join(parts)}".encode()).fetchone()
    assert row is not None
    return int(row[0])


def _until(fact: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN
    while not fact():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not so within {WITHIN} s")
        time.sleep(0.1)


def main(
    *,
    outboxes: Annotated[int, typer.Option(min=1)] = 20,
    seconds: Annotated[float, typer.Option(min=1.0, help="How long nothing comes.")] = 20.0,
    together_: Annotated[
        tuple[str, str, int] | None, typer.Option("--together", hidden=True)
    ] = None,
) -> None:
    """Measure a relay for each of several outboxes, in processes and in one."""
    if together_ is not None:
        uvloop.run(together(*together_))
        return
    with stack({"max_connections": "200"}) as servers:
        for way in ("one process", "a process each"):
            typer.echo(json.dumps(measure(servers, way, outboxes, seconds)))


if __name__ == "__main__":
    typer.run(main)
