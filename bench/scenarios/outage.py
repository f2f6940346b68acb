"""After a stream's outage: how fast what waited behind it is delivered, in order per key.

The stream is full and refuses everything; a relay that finds the streams by itself sets its events
aside meanwhile, the first of each key as held up and the others behind it. Then there is room, and
the clock runs from the stream's answer that says so. Twice: with producers that go on all the time,
until nothing is parked and less than a tenth of a second's events waits; and with a million events
behind the outage, beside a plain drain of the same million by the same relay.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import ExitStack

import psycopg

from bench import pgbench, streams
from bench.backlog import Shape, fill, wait_again
from bench.figures import Figure, Findings, at_least, at_most, ratios
from bench.ours import Ours
from bench.processes import Child
from bench.relaying import ANY_STREAM, drained, relaying, report_of
from bench.scenario import Bench

KEYS, BEHIND, RATE, CLIENTS = 100, 40_000, 6_000, 8
LEAST_RATE = 30_000
MILLION = 1_000_000
TIMES = 1.2
PATIENCE = 300.0
WRITTEN = "select coalesce(pg_sequence_last_value('relay.outbox_id_seq'::regclass), 0)"
PARKED = "select count(*) from relay.parked"
ANY_PARKED = "select count(*) from (select from relay.parked limit 1) as p"


def run(bench: Bench) -> Findings:
    """Measure both, ``bench.runs`` times."""
    going: list[tuple[float, float]] = []
    plain: list[dict[str, float]] = []
    after: list[dict[str, float]] = []
    events = bench.events(MILLION)
    bench.plan(1 + 3 * bench.runs)
    with bench.servers.outbox() as dsn:
        bench.step(f"fill: {events:,}")
        fill(dsn, events, Shape("100 keys", key=f"'k' || n % {KEYS}"))
        for _ in range(bench.runs):
            bench.step("producers going on")
            going.append(producers_going_on(bench))
            bench.step("plain drain")
            wait_again(dsn)
            plain.append(drained(bench.servers, dsn, "fast ingest", events, any_stream=True))
            bench.step(f"{events:,} behind an outage")
            wait_again(dsn)
            after.append(behind_an_outage(bench, dsn, events))
    name, rates = "outage: back to normal, producers going on", [rate for rate, _ in going]
    findings = Findings([at_least(name, "events/s", rates, LEAST_RATE)])
    findings.figures.append(Figure(f"{name}: written", "events/s", tuple(w for _, w in going)))
    name = f"outage: {events:,} behind it"
    for what, unit in (("seconds", "s"), ("peak_mib", "MiB")):
        usual, found = [r[what] for r in plain], [r[what] for r in after]
        findings.figures += [
            Figure(f"{name}, plain drain", unit, tuple(usual)),
            Figure(f"{name}, after it", unit, tuple(found)),
            at_most(f"{name}, to the plain drain, {unit}", "ratio", ratios(found, usual), TIMES),
        ]
    findings.figures.append(
        Figure(f"{name}, set aside before", "s", tuple(r["parking"] for r in after))
    )
    return findings


def producers_going_on(bench: Bench) -> tuple[float, float]:
    """Events stored/s from the stream's return until all is as usual; events written/s."""
    servers, wanted = bench.servers, bench.events(BEHIND)
    url, seconds = servers.nats.url, round(wanted / RATE) + 60
    with ExitStack() as stack:
        dsn = stack.enter_context(servers.outbox())
        stream = stack.enter_context(servers.stream())
        asyncio.run(streams.take_nothing(url, stream, full=True))
        connection = stack.enter_context(psycopg.connect(dsn, autocommit=True))
        relay = stack.enter_context(relaying(servers, dsn, ANY_STREAM))
        many = {"keys": KEYS, "rate": RATE}
        stack.enter_context(pgbench.producing(servers, dsn, Ours(), CLIENTS, seconds, **many))
        wait(lambda: number(connection, PARKED) >= wanted, relay)
        written = number(connection, WRITTEN)
        asyncio.run(streams.take_nothing(url, stream, full=False))
        began = time.monotonic()

        def stored() -> int:
            return asyncio.run(streams.state(url, stream)).messages

        def as_usual() -> bool:
            return not number(connection, ANY_PARKED) and (
                number(connection, WRITTEN) - stored() < RATE / 10
            )

        wait(as_usual, relay)
        took = time.monotonic() - began
        return stored() / took, (number(connection, WRITTEN) - written) / took


def behind_an_outage(bench: Bench, dsn: str, events: int) -> dict[str, float]:
    """Have all that waits set aside, let go; times in s, and peak memory."""
    servers, url = bench.servers, bench.servers.nats.url
    with servers.stream() as stream, psycopg.connect(dsn, autocommit=True) as connection:
        asyncio.run(streams.take_nothing(url, stream, full=True))
        with relaying(servers, dsn, ANY_STREAM) as relay:
            began = time.monotonic()
            wait(lambda: number(connection, PARKED) >= events - 1, relay)
            parking = time.monotonic() - began
            cleared_at = time.time()
            asyncio.run(streams.take_nothing(url, stream, full=False))
            last_at = asyncio.run(streams.wait_for(url, stream, events, PATIENCE)).last_at
            wait(lambda: not number(connection, ANY_PARKED), relay)
            report = report_of(relay.stop())
    return {"seconds": last_at - cleared_at, "parking": parking, "peak_mib": report["peak_mib"]}


def number(connection: "psycopg.Connection", query: str) -> int:
    """Return the one number that is asked for."""
    row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return int(row[0])


def wait(fact: Callable[[], bool], relay: Child) -> None:
    """Look for ``fact`` for a tenth of the time, while ``relay`` lives."""
    deadline = time.monotonic() + PATIENCE
    while True:
        began = time.monotonic()
        if fact():
            return
        if not relay.running or began > deadline:
            raise TimeoutError(f"the relay ended, or it took more than {PATIENCE:g} s")
        time.sleep(max(0.02, 10 * (time.monotonic() - began)))
