"""Counts that may not get worse: ``python -m bench.counts --check``, which the tests run as well.

How many statements, bytes of WAL, dead rows, messages and notifications an event costs is the same
on every machine, so these gate where the clock can't. The servers' own statistics say them, and of
an INSERT its EXPLAIN, by the code of ``relay measure``, at a fixed load: 20,000 waiting events are
drained; 500 are committed one by one, at most 100 a second, each when the one before is stored,
while the bell is on and the poll is a minute; then nothing comes for 4 seconds; then commits of 20
events each, of which the first 100 do not count, keep the relay awake.

What the relay says once a second whatever comes (its heartbeats, looks and trial commits) is
counted by the second, for a slow machine takes more seconds for the same events. Where commits are
slow the relay puts the bell off, and reads twice an event instead of once, which is allowed for. So
a busy machine makes no count fail.

``counts.json`` holds what was counted last, and a count fails when it exceeds that by more than its
tolerance (see ``COUNTS``). ``--update`` writes the file anew: say in the commit why a count went
up.
"""

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import nats
import psycopg
import typer
from rich.console import Console
from rich.table import Table

from bench.backlog import fill
from bench.ours import Ours
from bench.peers.base import payload
from bench.relaying import relaying
from bench.stack import Stack
from relay import devstack
from relay.postgres.measure import DEAD_ROWS, Scratch
from relay.postgres.session import Session
from relay.postgres.sqlfiles import compose

BASELINE = Path(__file__).with_name("counts.json")
WAITING, ONE_BY_ONE = 20_000, 500
APART = 0.01
"""Seconds from one lone commit to the next, at least: the bell stays on below 500 events/s."""

REST = 4.0
"""Seconds."""

BULKS, BULK_ROWS = 300, 20
WARM = 100
"""Commits before these, by which the relay comes to know the rate."""

POLL_SELDOM = {"RELAY_POLL_INTERVAL": "60s"}
POSTGRES = {
    "shared_preload_libraries": "pg_stat_statements",
    "pg_stat_statements.max": "1000",
    "autovacuum": "off",  # it would come when it likes
    "full_page_writes": "off",  # their number depends on checkpoints
    "checkpoint_timeout": "1h",
    "fsync": "off",
}
NATS = """
accounts {
  USERS: { jetstream: enabled, users: [ { user: user, password: user } ] }
  SYSTEM: { users: [ { user: system, password: system } ] }
}
system_account: SYSTEM
no_auth_user: user
"""
OURS = "query ~ 'pg_stat' or query ~ 'pg_current_wal' or query ~ 'insert into relay.outbox'"
READS = "query ~ 'message_id' and query !~ 'parked' or query ~ 'as top_id'"
SETTLEMENTS = "query ~ 'settled_at = clock_timestamp'"


@dataclass(frozen=True)
class Count:
    """One count and how much it may exceed the baseline: by a share of it, and by ``slack``."""

    name: str
    share: float = 0.0
    slack: float = 0.0

    def at_most(self, baseline: float) -> float:
        """Return the largest value that passes."""
        return baseline * (1 + self.share) + self.slack


COUNTS = (
    Count("WAL bytes per event of the producer's INSERT", share=0.1),
    Count("WAL bytes per event of the producer's INSERT and commit", share=0.1),
    Count("draining: reads per 1,000 events", share=0.1, slack=0.5),
    Count("draining: settlements per second", share=0.2, slack=1),
    Count("draining: other statements per second", share=0.2, slack=10),
    Count("draining: WAL bytes of the relay per second", share=0.5, slack=1000),
    Count("draining: messages to NATS per event", share=0.002),
    Count("draining: dead rows of the outbox per event"),
    Count("at rest: reads per second", slack=12),
    Count("at rest: settlements per second", slack=0.5),
    Count("at rest: other statements per second", share=0.2, slack=1),
    Count("at rest: WAL bytes of the relay per second", share=0.5, slack=100),
    Count("at rest: messages to NATS per second", slack=1),
    Count("one by one: notifications per event"),
    Count("one by one: reads per event", slack=1.4),
    Count("one by one: settlements per second", share=0.2, slack=0.5),
    Count("one by one: other statements per second", share=0.2, slack=1),
    Count("one by one: WAL bytes of the relay per second", share=0.5, slack=200),
    Count("one by one: messages to NATS per event", share=0.05),
    Count("one by one: dead rows of the outbox per event"),
    Count("WAL bytes per settlement", share=0.25),
    Count("notifications per 1,000 commits while awake", slack=100),
    Count("awake: settlements per second", slack=1),
    Count("awake: other statements per second", share=0.2, slack=5),
)


def measure() -> dict[str, float]:
    """Count everything, on servers of its own."""
    with (
        devstack.postgres(settings=POSTGRES) as postgres,
        devstack.nats_server(NATS) as nats_server,
    ):
        servers = Stack(postgres, nats_server)
        with (
            servers.outbox() as dsn,
            servers.stream() as stream,
            psycopg.connect(dsn, autocommit=True) as connection,
        ):
            connection.execute("create extension pg_stat_statements")
            found = Counter(servers, connection, dsn, stream).measure()
    assert found.keys() == {count.name for count in COUNTS}
    return found


class Counter:
    """Runs the load and reads the statistics over ``connection``."""

    def __init__(
        self, servers: Stack, connection: "psycopg.Connection", dsn: str, stream: str
    ) -> None:
        """Use a fresh outbox and a fresh stream."""
        self._servers = servers
        self._connection = connection
        self._dsn = dsn
        self._stream = stream
        self._insert = Ours().events_from(f"(values ('k', {payload('1')}))").encode()

    def measure(self) -> dict[str, float]:
        """Take the three loads one after the other."""
        before = self._number("select pg_current_wal_lsn() - '0/0'")
        found = {COUNTS[0].name: asyncio.run(self._explained())}
        after = self._number("select pg_current_wal_lsn() - '0/0'")
        found[COUNTS[1].name] = (after - before) / ONE_BY_ONE
        fill(self._dsn, WAITING - ONE_BY_ONE)
        found |= self._drain()
        with relaying(self._servers, self._dsn, self._stream, variables=POLL_SELDOM):
            found |= self._one_by_one()
            found |= self._at_rest()
            found |= self._awake()
        return {count.name: round(found[count.name], 3) for count in COUNTS}

    async def _explained(self) -> float:
        """Insert the first events, each its own commit; return the WAL bytes of an INSERT."""
        text = self._connection.execute(f"select {payload('1')}".encode()).fetchone()
        assert text is not None
        async with await Session.connect(self._dsn, "counts") as session:
            found = await Scratch(session, "relay").inserted(text[0], ONE_BY_ONE, 60)
        assert found.events == ONE_BY_ONE
        return found.wal_bytes

    def _drain(self) -> dict[str, float]:
        with self._seen() as seen:
            flags = ("--events", str(WAITING))
            with relaying(self._servers, self._dsn, self._stream, *flags) as relay:
                began = time.monotonic()
                relay.finish(60)
                seen.seconds = time.monotonic() - began
        return {
            "draining: reads per 1,000 events": seen.reads / WAITING * 1000,
            "draining: settlements per second": seen.per_second(seen.settlements),
            "draining: other statements per second": seen.per_second(seen.others),
            "draining: WAL bytes of the relay per second": seen.per_second(seen.wal_bytes),
            "draining: messages to NATS per event": seen.messages / WAITING,
            "draining: dead rows of the outbox per event": seen.dead_rows / WAITING,
        }

    def _one_by_one(self) -> dict[str, float]:
        asyncio.run(self._commit_one_by_one(ONE_BY_ONE // 10))  # the bell is on, and sure of it
        with self._seen() as seen:
            began = time.monotonic()
            asyncio.run(self._commit_one_by_one(ONE_BY_ONE))
            seen.seconds = time.monotonic() - began
        return {
            "one by one: notifications per event": seen.rings / ONE_BY_ONE,
            "one by one: reads per event": seen.reads / ONE_BY_ONE,
            "one by one: settlements per second": seen.per_second(seen.settlements),
            "one by one: other statements per second": seen.per_second(seen.others),
            "one by one: WAL bytes of the relay per second": seen.per_second(seen.wal_bytes),
            "one by one: messages to NATS per event": seen.messages / ONE_BY_ONE,
            "one by one: dead rows of the outbox per event": seen.dead_rows / ONE_BY_ONE,
            "WAL bytes per settlement": seen.settled_bytes / max(seen.settlements, 1),
        }

    async def _commit_one_by_one(self, events: int) -> None:
        async with await nats.connect(self._servers.nats.url) as client:
            stored = await client.subscribe("orders.>")
            await client.flush()
            for _ in range(events):
                next_at = time.monotonic() + APART
                self._connection.execute(self._insert)
                await stored.next_msg(10)
                await asyncio.sleep(max(0.0, next_at - time.monotonic()))

    def _at_rest(self) -> dict[str, float]:
        with self._seen() as seen:
            time.sleep(REST)
            seen.seconds = REST
        return {
            "at rest: reads per second": seen.per_second(seen.reads),
            "at rest: settlements per second": seen.per_second(seen.settlements),
            "at rest: other statements per second": seen.per_second(seen.others),
            "at rest: WAL bytes of the relay per second": seen.per_second(seen.wal_bytes),
            "at rest: messages to NATS per second": seen.per_second(seen.messages),
        }

    def _awake(self) -> dict[str, float]:
        rows = f"(select 'k', {payload('1')} from generate_series(1, {BULK_ROWS}))"
        insert = Ours().events_from(rows).encode()
        for _ in range(WARM):
            self._connection.execute(insert)
        with self._seen() as seen:
            began = time.monotonic()
            for _ in range(BULKS):
                self._connection.execute(insert)
            seen.seconds = time.monotonic() - began
        return {
            "notifications per 1,000 commits while awake": seen.rings / BULKS * 1000,
            "awake: settlements per second": seen.per_second(seen.settlements),
            "awake: other statements per second": seen.per_second(seen.others),
        }

    @contextmanager
    def _seen(self) -> "Iterator[Seen]":
        """Reset the statistics, and read them after the block."""
        seen = Seen()
        with psycopg.connect(self._dsn, autocommit=True) as listener:
            listener.execute('listen "relay.outbox"')
            self._connection.execute("select pg_stat_statements_reset()")
            before = asyncio.run(incoming(self._servers.nats.url))
            yield seen
            # The relay's own trial commits are heard as well, and ring nobody.
            seen.rings = sum(1 for each in listener.notifies(timeout=0.2) if not each.payload)
        seen.messages = asyncio.run(incoming(self._servers.nats.url)) - before
        row = self._connection.execute(
            f"""
            select coalesce(sum(calls) filter (where {READS}), 0),
                   coalesce(sum(calls) filter (where {SETTLEMENTS}), 0),
                   coalesce(sum(calls) filter (where not ({READS} or {SETTLEMENTS})), 0),
                   coalesce(sum(wal_bytes), 0),
                   coalesce(sum(wal_bytes) filter (where {SETTLEMENTS}), 0)
              from pg_stat_statements(true) as s
              join pg_database as d on d.oid = s.dbid and d.datname = current_database()
             where not ({OURS})
            """.encode()
        ).fetchone()
        assert row is not None
        figures = map(float, row)
        seen.reads, seen.settlements, seen.others, seen.wal_bytes, seen.settled_bytes = figures
        seen.dead_rows = self._number(compose(DEAD_ROWS, "relay").as_string())

    def _number(self, query: str) -> float:
        row = self._connection.execute(query.encode()).fetchone()
        assert row is not None
        return float(row[0])


@dataclass
class Seen:
    """What the servers counted during a load of so many seconds."""

    seconds: float = 0
    reads: float = 0
    settlements: float = 0
    others: float = 0
    wal_bytes: float = 0
    settled_bytes: float = 0
    messages: float = 0
    dead_rows: float = 0
    rings: int = 0

    def per_second(self, count: float) -> float:
        """Return ``count`` by the second, of a load that took one at least."""
        return count / max(self.seconds, 1.0)


async def incoming(url: str) -> float:
    """Return how many messages clients have sent to the server so far."""
    async with await nats.connect(url, user="system", password="system") as client:
        answer = await client.request("$SYS.REQ.SERVER.PING.VARZ", timeout=5)
        return float(json.loads(answer.data)["data"]["in_msgs"])


def worse(found: dict[str, float], baseline: dict[str, float]) -> list[str]:
    """Say of each count that exceeds its tolerance what it is and what it may be."""
    return [
        f"{count.name}: {found[count.name]:g}, at most {most:g} (baseline {baseline[count.name]:g})"
        for count in COUNTS
        if found[count.name] > (most := count.at_most(baseline[count.name]))
    ]


def main(
    check: Annotated[bool, typer.Option(help="Exit 1 if a count got worse.")] = False,
    update: Annotated[bool, typer.Option(help="Make what is counted now the baseline.")] = False,
) -> None:
    """Count what events cost, and compare with the baseline."""
    found = measure()
    baseline: dict[str, float] = json.loads(BASELINE.read_text()) if BASELINE.exists() else found
    table = Table("count", "now", "baseline", "at most")
    for count in COUNTS:
        before = baseline.get(count.name, found[count.name])
        shown = (found[count.name], before, count.at_most(before))
        table.add_row(count.name, *(f"{value:,g}" for value in shown))
    Console().print(table)
    if update:
        BASELINE.write_text(json.dumps(found, indent=2) + "\n")
    elif check and (faults := worse(found, baseline)):
        print("worse than the baseline:", *faults, sep="\n  ")
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
