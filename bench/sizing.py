"""The formulas of README.md's "How much it takes", and what they say beside what is measured.

    python -m bench.sizing                              # checks the formulas; some seven minutes
    python -m bench.sizing --rate 300 --payload 800     # says what that load would take

A formula holds when it is within 15 % of what is measured here. Rows, bytes, WAL, sessions and the
duplicate window's memory do not depend on the machine. CPU does: its constants are taken at some
rates, and the formula is checked at rates between them. Exit code 1 if one does not hold.

Retention is 20 s here, Postgres looks every second for what to vacuum, from 1,000 dead rows on, and
a checkpoint comes every 10 s, so that hours of steady state fit into a minute. Where a busy machine
is slower, the formulas are asked about the rate, the checkpoints and the vacuums that there were.
Linux only: /proc says what CPU takes.
"""

import asyncio
import json
import re
import socket
import statistics
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from typing import Annotated, Any

import nats
import psycopg
import typer

from bench import limits
from bench.formulas import (
    Load,
    Machine,
    disk_bytes,
    reads,
    row_bytes,
    rows,
    sessions,
    wal_bytes,
    window_bytes,
)
from bench.meter import metered
from bench.ours import Ours
from bench.peers.base import payload
from bench.processes import python, running
from bench.relaying import relaying
from bench.stack import Stack, stack
from relay import devstack

WITHIN = 0.15


@dataclass(frozen=True)
class Checked:
    """What a formula says and what was measured, in the same unit."""

    what: str
    unit: str
    said: float
    measured: float

    @property
    def holds(self) -> bool:
        """Whether they are close enough."""
        return abs(self.said / self.measured - 1) <= WITHIN


POINTS = tuple(
    Load(rate, size, retention=20.0, naptime=1.0, checkpoint=10.0)
    for rate, size in ((500, 256), (1_000, 1_024), (300, 4_096))
)
SETTINGS = {"autovacuum_naptime": "1s"}
VACUUM_SOONER = """alter table relay.outbox set
    (autovacuum_vacuum_threshold = 1000, toast.autovacuum_vacuum_threshold = 1000)"""
SECONDS, FIRST = 80, 35
"""For how long a point is held, and which of these seconds are not counted."""

RATES = (0, 50, 150, 4_000, 5_600, 8_000)
IDS = 300_000

_WAL = "select pg_current_wal_lsn() - '0/0'"
_EVENTS = "select coalesce(pg_sequence_last_value('relay.outbox_id_seq'), 0)"
_VACUUMS = "select autovacuum_count from pg_stat_user_tables where relid = 'relay.outbox'::regclass"
_SESSIONS = """
select count(*) from pg_stat_activity
 where datname = current_database() and application_name like 'relay %'
"""


def sized(servers: Stack, load: Load) -> Iterator[Checked]:
    """Hold one load, and compare rows, bytes, WAL and sessions at the rate that was kept."""
    kept, at = list[float](), list[float]()
    seen: dict[str, list[float]] = {query: [] for query in (_WAL, _EVENTS, _VACUUMS)}
    with (
        servers.outbox() as dsn,
        servers.stream() as stream,
        psycopg.connect(dsn, autocommit=True) as look,
        relaying(servers, dsn, stream, "--retention", f"{load.retention:g}s"),
    ):
        look.execute(VACUUM_SOONER)
        with producing(dsn, load, SECONDS):
            began = time.monotonic()
            while (now := time.monotonic() - began) < SECONDS - 1:
                if now > FIRST:
                    kept += [_number(look, "select count(*) from relay.outbox")]
                    for query, values in seen.items():
                        values.append(_number(look, query))
                    at.append(time.monotonic())
                look.execute("checkpoint")
                time.sleep(max(0.0, load.checkpoint - (time.monotonic() - began - now)))
            size = _number(look, "select pg_total_relation_size('relay.outbox')")
            own = _number(look, _SESSIONS)
    seconds = at[-1] - at[0]
    wal, events, vacuums = (values[-1] - values[0] for values in seen.values())
    load = replace(
        load,
        rate=events / seconds,
        vacuumed_every=seconds / max(vacuums, 1),
        checkpoint=seconds / (len(at) - 1),
    )
    name = f"{load.rate:,.0f}/s of {load.payload:,} bytes"
    yield Checked(f"{name}: rows", "", rows(load), statistics.mean(kept))
    yield Checked(f"{name}: the outbox", "MB", disk_bytes(load) / 1e6, size / 1e6)
    yield Checked(f"{name}: WAL", "kB/s", wal_bytes(load) / 1e3, wal / seconds / 1e3)
    yield Checked(f"{name}: sessions", "", sessions(0), own)


@contextmanager
def producing(dsn: str, load: Load, seconds: float) -> Iterator[None]:
    """Commit events on schedule for the length of the block, in a process of its own."""
    statement = Ours().events_from(f"(select $1::text, {payload('$2::text', load.payload)})")
    if not load.rate:
        yield
        return
    with running(python("bench.openloop", dsn, statement, round(load.rate), seconds)):
        yield


def _number(look: psycopg.Connection, query: str) -> float:
    row = look.execute(query.encode()).fetchone()
    assert row is not None
    return float(row[0])


def remembered() -> Iterator[Checked]:
    """Compare the heap of a nats-server that remembers ids with that of the same without them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with devstack.nats_server(f"prof_port: {port}") as server:
        asyncio.run(_stream(server.url, 600, "add_stream"))
        limits.published("fast", server.url, IDS, 256)
        full = _heap(port)
        asyncio.run(_stream(server.url, 0.1, "update_stream"))
        time.sleep(5)
        empty = _heap(port)
    load = Load(IDS / 120, 256)
    yield Checked(f"{IDS:,} ids remembered", "MB", window_bytes(load) / 1e6, (full - empty) / 1e6)


async def _stream(url: str, window: float, how: str) -> None:
    async with await nats.connect(url) as client:
        await getattr(client.jetstream(), how)(
            name="IDS", subjects=["orders.>"], allow_batched=True, duplicate_window=window
        )


def _heap(port: int) -> int:
    """Return the bytes that are alive behind a garbage collection."""
    url = f"http://127.0.0.1:{port}/debug/pprof/heap?gc=1&debug=1"
    with urllib.request.urlopen(url, timeout=30) as answer:
        found = re.search(r"# HeapAlloc = (\d+)", answer.read().decode())
    assert found is not None
    return int(found[1])


def cpu(servers: Stack, seconds: float = 20) -> Iterator[Checked]:
    """Take the machine's constants, and compare at the rates between."""
    found = [_cpu(servers, rate, seconds) for rate in RATES]
    (_, rest), (low, rung), checked_low, (high, over), checked_high, (highest, most) = found
    # two equations, of over and of most
    share = high / highest
    read = (over - rest - (most - rest) * share) / (reads(high) - reads(highest) * share)
    here = Machine(
        rest=rest,
        ring=(rung - rest) / low,
        read=read,
        event=(most - rest - read * reads(highest)) / highest,
    )
    for (rate, taken), say in ((checked_low, here.rung), (checked_high, here.paced)):
        yield Checked(f"{rate:,.0f}/s: CPU", "% of a core", 100 * say(rate), 100 * taken)


def _cpu(servers: Stack, rate: int, seconds: float) -> tuple[float, float]:
    """Return the rate that was kept, and the share of a core of the relay and its sessions."""
    with (
        servers.outbox() as dsn,
        servers.stream() as stream,
        psycopg.connect(dsn, autocommit=True) as look,
        relaying(servers, dsn, stream) as relay,
    ):
        time.sleep(2)
        # the sessions are those that are there before the producers come
        with metered(servers, relay, dsn) as taken, producing(dsn, Load(rate, 256), seconds):
            time.sleep(seconds)
        return _number(look, _EVENTS) / seconds, (taken.worker + taken.sessions) / seconds


app = typer.Typer()


@app.command()
def main(
    rate: Annotated[
        float | None, typer.Option(help="Events/s of a load; measures nothing.")
    ] = None,
    size: Annotated[int, typer.Option("--payload", help="Bytes of its payload.")] = 256,
    retention: Annotated[float, typer.Option(help="RELAY_RETENTION, in s.")] = 900.0,
    only: Annotated[str, typer.Option(help="Check sizes, cpu or ids alone.")] = "",
) -> None:
    """Check the formulas, or say what one load would take."""
    if rate is not None:
        load = Load(rate, size, retention=retention)
        print(json.dumps(told(load), indent=2))
        return
    holds = True
    with stack(SETTINGS) as servers:
        every = {
            "sizes": (each for load in POINTS for each in sized(servers, load)),
            "cpu": cpu(servers),
            "ids": remembered(),
        }
        for each in chain.from_iterable(
            found for name, found in every.items() if only in {"", name}
        ):
            holds &= each.holds
            verdict = "holds" if each.holds else "DOES NOT HOLD"
            off = f"{100 * (each.said / each.measured - 1):+.0f} %"
            typer.echo(
                f"{each.what:<44}formula {each.said:>9,.4g}   measured {each.measured:>9,.4g}"
                f" {each.unit:<12}{off:>6}   {verdict}"
            )
    if not holds:
        raise typer.Exit(1)


def told(load: Load) -> dict[str, Any]:
    """Return what a load takes."""
    return {
        "rows": round(rows(load)),
        "outbox_bytes": round(disk_bytes(load)),
        "outbox_bytes_a_minute_of_outage": round(load.rate * 60 * row_bytes(load)),
        "wal_bytes_a_second": round(wal_bytes(load)),
        "sessions": sessions(),
        "duplicate_window_bytes": round(window_bytes(load)),
    }


if __name__ == "__main__":
    app()
