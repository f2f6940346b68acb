"""Counts that may not get worse: ``python -m bench.counts --check``, which the tests run as well.

How many statements, bytes of WAL, dead rows, messages and notifications an event costs is the same
on every machine, so these gate where the clock can't. The servers' own statistics say them, at a
fixed load: 20,000 waiting events are drained, then 500 are committed one by one, each when the one
before is stored, then 1,000 as fast as one connection goes.

``counts.json`` holds what was counted last, and a count fails when it exceeds that by more than its
tolerance (see ``COUNTS``). Counts that depend on the machine's speed have a generous one.
``--update`` writes the file anew: say in the commit why a count went up.
"""

import asyncio
import json
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

BASELINE = Path(__file__).with_name("counts.json")
WAITING, ONE_BY_ONE, AT_ONCE = 20_000, 500, 1_000
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
RELAY_S = "query not like '%pg_stat%' and query not like '%pg_current_wal%'"


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
    Count("WAL bytes per event of the producer's INSERT and commit", share=0.1),
    Count("draining: reads per 1,000 events", share=0.1, slack=0.2),
    Count("draining: statements per 1,000 events", share=0.5, slack=1),
    Count("draining: WAL bytes of the relay per 1,000 events", share=0.5, slack=200),
    Count("draining: messages to NATS per event", share=0.002),
    Count("draining: dead rows of the outbox per event"),
    Count("one by one: statements of the relay per event", share=1, slack=2),
    Count("one by one: WAL bytes of the relay per event", share=0.5, slack=100),
    Count("one by one: messages to NATS per event", share=0.05),
    Count("one by one: dead rows of the outbox per event"),
    Count("WAL bytes per settlement", share=0.25),
    Count("notifications per 1,000 commits while awake", slack=300),
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
        found = {}
        before = self._number("select pg_current_wal_lsn() - '0/0'")
        for _ in range(ONE_BY_ONE):
            self._connection.execute(self._insert)
        after = self._number("select pg_current_wal_lsn() - '0/0'")
        found[COUNTS[0].name] = (after - before) / ONE_BY_ONE
        fill(self._dsn, WAITING - ONE_BY_ONE)
        found |= self._drain()
        with relaying(self._servers, self._dsn, self._stream):
            found |= self._one_by_one()
            found["notifications per 1,000 commits while awake"] = self._notifications()
        return {count.name: round(found[count.name], 3) for count in COUNTS}

    def _drain(self) -> dict[str, float]:
        with self._seen(WAITING) as seen:
            flags = ("--events", str(WAITING))
            with relaying(self._servers, self._dsn, self._stream, *flags) as relay:
                relay.finish(60)
        return {
            "draining: reads per 1,000 events": seen.reads * 1000,
            "draining: statements per 1,000 events": seen.statements * 1000,
            "draining: WAL bytes of the relay per 1,000 events": seen.wal_bytes * 1000,
            "draining: messages to NATS per event": seen.messages,
            "draining: dead rows of the outbox per event": seen.dead_rows,
        }

    def _one_by_one(self) -> dict[str, float]:
        with self._seen(ONE_BY_ONE, own=ONE_BY_ONE) as seen:
            asyncio.run(self._commit_one_by_one())
        return {
            "one by one: statements of the relay per event": seen.statements,
            "one by one: WAL bytes of the relay per event": seen.wal_bytes,
            "one by one: messages to NATS per event": seen.messages,
            "one by one: dead rows of the outbox per event": seen.dead_rows,
            "WAL bytes per settlement": seen.wal_bytes_per_settlement,
        }

    async def _commit_one_by_one(self) -> None:
        async with await nats.connect(self._servers.nats.url) as client:
            stored = await client.subscribe("orders.>")
            await client.flush()
            for _ in range(ONE_BY_ONE):
                self._connection.execute(self._insert)
                await stored.next_msg(10)

    def _notifications(self) -> float:
        with psycopg.connect(self._dsn, autocommit=True) as listener:
            listener.execute('listen "relay.outbox"')
            for _ in range(AT_ONCE):
                self._connection.execute(self._insert)
            rung = sum(1 for _ in listener.notifies(timeout=0.2))
        return rung * 1000 / AT_ONCE

    @contextmanager
    def _seen(self, events: int, own: int = 0) -> "Iterator[Seen]":
        """Reset the statistics, and after the block read them; ``own`` statements were ours."""
        seen = Seen()
        self._connection.execute("select pg_stat_statements_reset()")
        before = asyncio.run(incoming(self._servers.nats.url))
        yield seen
        seen.messages = (asyncio.run(incoming(self._servers.nats.url)) - before) / events
        row = self._connection.execute(
            f"""
            select sum(calls) filter (where {RELAY_S}),
                   sum(calls) filter (where query ~ 'running_bytes' or query ~ 'overflow'),
                   sum(wal_bytes) filter (where query !~ 'insert into relay.outbox'),
                   sum(wal_bytes) filter (where query ~ 'settled_at = '),
                   sum(calls) filter (where query ~ 'settled_at = ')
              from pg_stat_statements(true) as s
              join pg_database as d on d.oid = s.dbid and d.datname = current_database()
            """.encode()
        ).fetchone()
        assert row is not None
        statements, reads, wal_bytes, settled_bytes, settlements = map(float, row)
        seen.statements = (statements - own) / events
        seen.reads = reads / events
        seen.wal_bytes = wal_bytes / events
        seen.wal_bytes_per_settlement = settled_bytes / settlements
        seen.dead_rows = (
            self._number(
                "select n_tup_upd + n_tup_del from pg_stat_user_tables where relid = 'relay.outbox'"
                "::regclass"
            )
            / events
        )

    def _number(self, query: str) -> float:
        row = self._connection.execute(query.encode()).fetchone()
        assert row is not None
        return float(row[0])


@dataclass
class Seen:
    """What the servers counted during a load, per event."""

    statements: float = 0
    reads: float = 0
    wal_bytes: float = 0
    wal_bytes_per_settlement: float = 0
    messages: float = 0
    dead_rows: float = 0


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
