"""``relay measure``: what events would cost in a database that you have.

What is done there, and how it is cleaned up: ``relay.postgres.measure``. The rows are delivered to
``relay.memory``: NATS is not asked.
"""

import logging
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from statistics import quantiles
from typing import TYPE_CHECKING, Annotated, Any, Final

import anyio
import typer

from relay.cli.deciding import Yes, ask
from relay.cli.options import ALWAYS, INTERRUPTED, Json, progress_bar, report, with_settings
from relay.settings import Settings

if TYPE_CHECKING:
    from relay.facts import Fact
    from relay.postgres.measure import Bystander, Scratch

ONE_BY_ONE: Final = 500
WAITING: Final = 20_000
"""Events that are written one by one and counted, and that are drained, those included: as in
``bench.counts``. Of large ones fewer are drained: all are in memory."""

_DRAINED_BYTES: Final = 64 << 20

_RETAIN: Final = 3_600.0
"""Seconds: nothing is deleted meanwhile."""

_WHAT: Final = """\
This writes some {events:,} events of {size:,} bytes, about {mb:,.0f} MB with their WAL, into a
schema of its own, for {seconds:g} s, over up to eight sessions, and drops the schema. It neither
reads nor locks what is yours, publishes nothing, and stops when others' commits get slow."""


@with_settings(*ALWAYS, check_files=False)
def measure(
    settings: Settings,
    *,
    seconds: Annotated[
        float, typer.Option("--seconds", min=2, max=600, help="For how long, about.")
    ] = 10,
    payload_bytes: Annotated[
        int, typer.Option("--payload-bytes", min=40, max=100_000, help="Of each event.")
    ] = 256,
    yes: Yes = False,
    json_: Json = False,
) -> None:
    """Measure what events would cost in your database, in a schema that is dropped again.

    Commits with and without the outbox's trigger and checks, WAL an event, and how fast a relay
    here could read and settle. Needs a login that may create a schema; asks first.
    """
    events = _waiting(payload_bytes) + int(seconds * 1_000)
    mb = events * (payload_bytes * 2 + 600) / 1e6
    what = _WHAT.format(events=events, size=payload_bytes, mb=mb, seconds=seconds)
    if not yes:
        typer.echo(what, err=True)
        ask("write to the database", "Measure")
    found = anyio.run(_until_signalled, settings, seconds, payload_bytes)
    if found is None:
        typer.echo("interrupted: the schema is dropped", err=True)
        sys.exit(INTERRUPTED)
    report(found, _lines(found), as_json=json_)


async def _until_signalled(
    settings: Settings, seconds: float, payload_bytes: int
) -> dict[str, Any] | None:
    """Measure; None if SIGINT or SIGTERM came."""
    found = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_stop_on_signal, tasks.cancel_scope)
        found = await _measured(settings, seconds, payload_of(payload_bytes))
        tasks.cancel_scope.cancel()
    return found


async def _stop_on_signal(work: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            work.cancel()


async def _measured(settings: Settings, seconds: float, payload: str) -> dict[str, Any]:
    from relay.postgres.measure import Bystander, made
    from relay.postgres.session import Session

    dsn, found = settings.conninfo, dict[str, Any]()
    async with await Session.connect(dsn, "bystander") as session:
        bystander = Bystander(session)
        with progress_bar("measuring") as progress:
            await bystander.begin()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(bystander.watch)
                async with made(dsn) as scratch:
                    found = await _phases(settings, scratch, seconds, payload, progress)
                tasks.cancel_scope.cancel()
    return found | _others(bystander)


async def _phases(
    settings: Settings,
    scratch: "Scratch",
    seconds: float,
    payload: str,
    progress: Callable[[int, int], None],
) -> dict[str, Any]:
    """Measure one thing after the other."""
    progress(1, 5)
    outbox = await scratch.inserted(payload, ONE_BY_ONE, seconds)
    bare = await scratch.inserted(payload, ONE_BY_ONE, seconds / 8, table="bare")
    progress(2, 5)
    waiting = _waiting(len(payload))
    await scratch.fill(payload, waiting - outbox.events)
    progress(3, 5)
    ours = {"schema_name": scratch.schema, "retention": _RETAIN}
    drain = await _drain(settings.model_copy(update=ours), waiting)
    progress(4, 5)
    commits = await scratch.commits(payload, seconds * 0.4)
    database, version, _ = scratch.database
    return {
        "database": database,
        "postgres": version,
        "payload_bytes": len(payload),
        "counts": {
            "WAL bytes per event of the producer's INSERT": round(outbox.wal_bytes, 3),
            "dead rows of the outbox": await scratch.dead_rows(),
        },
        "commit_ms": {name: _percentiles(took) for name, took in commits.items()},
        "us_per_event": {
            "insert": round(outbox.seconds * 1e6, 1),
            "insert_bare": round(bare.seconds * 1e6, 1),
            "drain": round(drain["seconds"] / waiting * 1e6, 1),
            "drain_cpu": round(drain["cpu_seconds"] / waiting * 1e6, 1),
        },
        "commits_per_second": round(len(commits["outbox"]) / sum(commits["outbox"])),
        "drain_per_second": round(waiting / drain["seconds"]),
    }


async def _drain(settings: Settings, waiting: int) -> dict[str, float]:
    """Let a relay take all that waits to a list in memory."""
    from relay.app import Relay
    from relay.facts import PageDelivered, TermBegan
    from relay.memory import MemoryBus

    seen, delivered = {"seconds": 0.0, "cpu_seconds": 0.0}, 0
    began = time.monotonic(), time.process_time()

    def observe(fact: "Fact") -> None:
        nonlocal began, delivered
        if isinstance(fact, TermBegan):
            began = time.monotonic(), time.process_time()
        elif isinstance(fact, PageDelivered):
            delivered += fact.delivered
            seen["seconds"] = time.monotonic() - began[0]
            seen["cpu_seconds"] = time.process_time() - began[1]
        if delivered >= waiting:
            relay.stop()

    quiet = logging.getLogger("relay")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    relay = Relay(settings, bus=MemoryBus(), observer=observe)
    try:
        await relay.run()
    finally:
        quiet.setLevel(level)
    return seen


def _waiting(size: int) -> int:
    """Return how many events of ``size`` bytes are drained."""
    return max(2 * ONE_BY_ONE, min(WAITING, _DRAINED_BYTES // size))


def payload_of(size: int) -> str:
    """Return JSON of ``size`` bytes, as ``bench.counts`` writes it."""
    head, tail = '{"event_number": 1, "filler": "', '"}'
    return head + "x" * (size - len(head) - len(tail)) + tail


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    percents = quantiles(seconds, n=100, method="inclusive")
    return {
        "p50": round(percents[49] * 1000, 3),
        "p99": round(percents[98] * 1000, 3),
        "commits": len(seconds),
    }


def _others(bystander: "Bystander") -> dict[str, Any]:
    times = {"before": bystander.before, "meanwhile": bystander.now}
    return {"other_commits_ms": {name: round(each * 1000, 3) for name, each in times.items()}}


def _lines(found: dict[str, Any]) -> Iterator[str]:
    commits, cost, others = found["commit_ms"], found["us_per_event"], found["other_commits_ms"]
    wal, dead = found["counts"].values()
    yield (
        f"database {found['database']}, Postgres {found['postgres']}, events of"
        f" {found['payload_bytes']} bytes"
    )
    for name, what in (("outbox", "with trigger and checks"), ("bare", "the bare table")):
        each = commits[name]
        yield _row(f"commit, {what}", f"p50 {each['p50']:.2f} ms, p99 {each['p99']:.2f} ms")
    yield _row(
        "INSERT, in the server", f"{cost['insert']:.0f} µs, bare {cost['insert_bare']:.0f} µs"
    )
    yield _row("WAL", f"{wal:.0f} bytes an event, and the commit's own record")
    yield _row(
        "read and settled",
        f"{cost['drain']:.1f} µs an event, {cost['drain_cpu']:.1f} of them CPU here;"
        f" {dead} dead rows",
    )
    yield _row(
        "others' commits",
        f"{others['before']:.2f} ms before, {others['meanwhile']:.2f} ms meanwhile",
    )
    yield _row(
        "expect",
        f"{found['commits_per_second']:,} events/s of one session that commits each; at most"
        f" {found['drain_per_second']:,}/s drained, less what NATS takes",
    )


def _row(what: str, found: str) -> str:
    return f"{what:<33}{found}"
