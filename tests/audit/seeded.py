"""Relays that are wrong in known ways, and what the audit has to find of each.

Writers with keys of their own insert into a table that is not ours; a relay publishes from it. The
truth is written down where it happens: what was committed, what was published and as which message.
The expectation is made of that in the plainest way, not by the oracle.
"""

import asyncio
import json
import random
import sys
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

import nats
import psycopg
from nats.js import JetStreamContext

from tests import warm
from tests.system.harness import ROOT

Fault = tuple[str, str, int | None]
"""What, the event's id, the message's sequence; a lost event has none."""

TABLE = """
drop table if exists incumbent;
create table incumbent (
  id bigint generated always as identity primary key, key text, body text not null,
  written_at timestamptz not null default clock_timestamp(), sent_at timestamptz
)
"""
COLUMNS = [
    *("--table", "public.incumbent", "--key", "key", "--payload", "body"),
    *("--written-at", "written_at", "--message-id", "header:X-Id", "--message-key", "header:X-Key"),
    *("--serial-keys", "--grace", "0s"),
]
UNSENT = "select id, key, body from incumbent where sent_at is null"
TRANSACTION = 0.02
"""Seconds for which a writer's transaction is open, at most."""


@dataclass
class Run:
    """One relay at work."""

    dsn: str
    url: str
    stream: str
    chance: random.Random
    committed: dict[int, str] = field(default_factory=dict)  # key by id
    published: list[tuple[int, int]] = field(default_factory=list)  # (seq, id)
    corrupted: set[int] = field(default_factory=set)  # seqs
    writing: bool = True

    async def publish(
        self, jetstream: JetStreamContext, id_: int, key: str, body: str, corrupt: float = 0.0
    ) -> None:
        wrong = self.chance.random() < corrupt
        headers = {"X-Id": str(id_), "X-Key": key}
        payload = (body + "!" * wrong).encode()
        answer = await jetstream.publish(f"{self.stream}.x", payload, headers=headers)
        self.published.append((answer.seq, id_))
        if wrong:
            self.corrupted.add(answer.seq)

    @property
    def truth(self) -> set[Fault]:
        faults: set[Fault] = set()
        first: dict[int, int] = {}
        for seq, id_ in sorted(self.published):
            if id_ not in self.committed:
                faults.add(("phantom", str(id_), seq))
                continue
            if seq in self.corrupted:
                faults.add(("corrupt", str(id_), seq))
            if id_ in first:
                faults.add(("duplicate", str(id_), seq))
                continue
            key = self.committed[id_]
            if any(other > id_ and self.committed[other] == key for other in first):
                faults.add(("reordered", str(id_), seq))
            first[id_] = seq
        return faults | {("lost", str(id_), None) for id_ in self.committed.keys() - first.keys()}


Loop = Callable[[Run, psycopg.AsyncConnection, JetStreamContext], Coroutine[Any, Any, None]]


async def by_last_id(run: Run, connection: psycopg.AsyncConnection, js: JetStreamContext) -> None:
    """Read ``id > last``: what commits late is never seen."""
    last, again = 0, True
    while run.writing or again:
        again = run.writing
        await asyncio.sleep(0.005)
        query = "select id, key, body from incumbent where id > %s order by id limit 50"
        for id_, key, body in await (await connection.execute(query, (last,))).fetchall():
            await run.publish(js, id_, key, body)
            last, again = id_, True


async def skip_locked(run: Run, connection: psycopg.AsyncConnection, js: JetStreamContext) -> None:
    """Take a page that nobody else has, and lose, repeat or spoil a part of it now and then."""

    async def publish(row: tuple[int, str, str]) -> None:
        await asyncio.sleep(run.chance.random() * 0.02)
        await run.publish(js, *row, corrupt=0.06)

    again = True
    while run.writing or again:
        again = run.writing
        await asyncio.sleep(0.005)
        async with connection.transaction(force_rollback=run.chance.random() < 0.1):
            query = f"{UNSENT} order by id limit 7 for update skip locked"
            page = await (await connection.execute(query)).fetchall()
            taken = [row for row in page if run.chance.random() > 0.06]
            await asyncio.gather(*map(publish, taken))
            sent = "update incumbent set sent_at = now() where id = any(%s)"
            await connection.execute(sent, ([id_ for id_, _, _ in page],))
        again = again or bool(page)


async def in_order(run: Run, connection: psycopg.AsyncConnection, js: JetStreamContext) -> None:
    """Do nothing wrong."""
    again = True
    while run.writing or again:
        again = run.writing
        await asyncio.sleep(0.005)
        page = await (await connection.execute(f"{UNSENT} order by id limit 50")).fetchall()
        for row in page:
            await run.publish(js, *row)
        sent = "update incumbent set sent_at = now() where id = any(%s)"
        await connection.execute(sent, ([id_ for id_, _, _ in page],))
        again = again or bool(page)


async def incumbent(run: Run, loop: Loop, *, workers: int, writers: int, events: int) -> None:
    """Let ``writers`` commit ``events`` each, and ``workers`` publish them, to the end."""
    async with await nats.connect(run.url) as client:
        js = client.jetstream()
        await js.add_stream(name=run.stream, subjects=[f"{run.stream}.>"])
        async with await psycopg.AsyncConnection.connect(run.dsn, autocommit=True) as admin:
            await admin.execute(TABLE)
            # Were the first row rolled back, what is below the lowest could be pruned: not judged.
            await admin.execute("insert into incumbent (key, body) values ('first', '{}')")
            run.committed[1] = "first"
        async with asyncio.TaskGroup() as tasks:
            for _ in range(workers):
                tasks.create_task(_work(run, loop, js))
            async with asyncio.TaskGroup() as writing:
                for number in range(writers):
                    writing.create_task(_write(run, js, number, events))
            run.writing = False


async def _work(run: Run, loop: Loop, js: JetStreamContext) -> None:
    async with await psycopg.AsyncConnection.connect(run.dsn, autocommit=True) as connection:
        await loop(run, connection, js)


async def _write(run: Run, js: JetStreamContext, number: int, events: int) -> None:
    insert = "insert into incumbent (key, body) values (%s, %s) returning id"
    async with await psycopg.AsyncConnection.connect(run.dsn) as connection:
        for n in range(events):
            key, body = f"{number}-{run.chance.randrange(2)}", json.dumps({"n": n, "by": number})
            row = await (await connection.execute(insert, (key, body))).fetchone()
            assert row is not None
            await asyncio.sleep(run.chance.random() * TRANSACTION)
            if run.chance.random() < 0.1:
                if run.chance.random() < 0.6:  # told the world before it was true
                    await run.publish(js, row[0], key, body)
                await connection.rollback()
            else:
                await connection.commit()
                run.committed[row[0]] = key


async def write_to_ours(dsn: str, *, writers: int, transactions: int) -> None:
    """Let writers that share keys and lock nothing write to our outbox; a tenth is undone."""
    insert = "insert into relay.outbox (subject, key, payload) values (%s, %s, '{}')"

    async def write(number: int) -> None:
        chance = random.Random(number)
        async with await psycopg.AsyncConnection.connect(dsn) as connection:
            for _ in range(transactions):
                for _ in range(chance.choice([1, 1, 3])):
                    await connection.execute(insert, ("orders.placed", f"{chance.randrange(10)}"))
                await asyncio.sleep(chance.random() * TRANSACTION)
                await (connection.commit if chance.random() > 0.1 else connection.rollback)()

    async with asyncio.TaskGroup() as tasks:
        for number in range(writers):
            tasks.create_task(write(number))


def audit(dsn: str, url: str, stream: str, *args: str) -> tuple[int, set[Fault], dict[str, Any]]:
    """Run the command; its exit code, its findings, its report."""
    done = warm.run(
        [sys.executable, "-m", "relay", "audit", "--json", "--stream", stream, *args],
        env={"PATH": "", "PYTHONPATH": str(ROOT), "RELAY_POSTGRES_DSN": dsn, "RELAY_NATS_URL": url},
        timeout=120,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines, done.stderr
    return done.returncode, findings(lines), lines[-1]["report"]


def findings(lines: Sequence[dict[str, Any]]) -> set[Fault]:
    found = [line for line in lines if "finding" in line]
    faults = {(each["finding"], each["event_id"], each["seq"]) for each in found}
    assert len(faults) == len(found), "a finding came twice"
    return faults
