"""The producers: processes that change orders and emit the events about it, as one transaction.

    python -m relay.demo.producer '{"dsn": …, "rate": events/s, "events": N or null, "seed": N}'

    Workload ──starts──► producer ──commits──► Postgres
        ▲ ──stdin, closed to end it──► │
        └──stdout: a line a commit──── ┘

A producer writes one line to stdout after each commit that succeeded: a JSON array with one
``[event_id, key, sequence, digest]`` for each event. What was rolled back is never mentioned. It
ends after N events, or when its stdin ends, as it does with the process that started it.

Several producers advance the same orders. ``for update`` makes them take turns on one order, so
that its versions, and with them the events of its key, have one order for all of them.
"""

import json
import os
import random
import select
import signal
import sys
import time
from typing import Final
from uuid import UUID

import anyio
import psycopg
from anyio.abc import Process
from anyio.streams.text import TextReceiveStream
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from relay.audit.oracle import Committed, digest
from relay.devstack import DevstackError

Row = tuple[int, str, int, int]

_ROLLED_BACK: Final = 0.10
"""The share of transactions that are rolled back after they emitted."""
_PLACING: Final = 0.36
"""Above a third: an order is placed once and changed twice, and some orders stay open."""
_TWO_AT_ONCE: Final = 0.10
_AS_BYTES: Final = 0.2
_AS_INSERT: Final = 0.2
_END_TIMEOUT: Final = 10.0

_PLACE = """
insert into demo.orders (amount_cents) values (%s)
returning id, state, version, amount_cents
"""
_ADVANCE = """
update demo.orders
   set state = case state when 'placed' then 'paid' else 'shipped' end, version = version + 1
 where id = (select id
               from demo.orders
              where state <> 'shipped'
              order by id
              limit 1
                for update skip locked)
returning id, state, version, amount_cents
"""
_EMIT_JSON = "select relay.emit(%s::text, %s::json, %s::text)"
_EMIT_BYTES = "select relay.emit_bytes(%s::text, %s::bytea, %s::text)"
_INSERT = """
insert into relay.outbox (subject, payload, key, headers)
values (%s, %s::json, %s, '{"Content-Type": "application/json"}'::jsonb)
returning event_id
"""


class Workload:
    """Producers, and in ``events`` what they committed, in the order in which their lines came in.

    ``rate`` (committed events/s) and ``events`` (exactly so many; None is without end) are those of
    all ``producers`` together.
    """

    def __init__(self, dsn: str, *, producers: int, rate: float, events: int | None) -> None:
        """Take the database of outbox and orders; ``run`` starts."""
        self.events: list[Committed] = []
        # The password goes into the environment: other users of this machine see command lines.
        parts = {name: str(value) for name, value in conninfo_to_dict(dsn).items()}
        password = parts.pop("password", None)
        self._environment = dict(os.environ) | ({"PGPASSWORD": password} if password else {})
        self._commands: list[list[str]] = []
        for number in range(producers):
            share = None if events is None else len(range(number, events, producers))
            options = {"dsn": make_conninfo("", **parts), "rate": rate / producers}
            options |= {"events": share, "seed": number}
            command = [sys.executable, "-m", "relay.demo.producer", json.dumps(options)]
            if share != 0:
                self._commands.append(command)
        self._stop = anyio.Event()
        self._begun: float | None = None
        self._ended: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds from the first producer's start to now, or to the last one's end."""
        if self._begun is None:
            return 0.0
        return (self._ended or time.monotonic()) - self._begun

    def stop(self) -> None:
        """Let each producer finish the transaction that it is in, and end."""
        self._stop.set()

    async def run(self) -> None:
        """Run the producers until they are done or stopped; returns when all have ended.

        Raises:
            DevstackError: a producer failed; its message is on stderr. In a group.
        """
        self._begun = time.monotonic()
        async with anyio.create_task_group() as tasks:
            for command in self._commands:
                tasks.start_soon(self._run_one, command)
        self._ended = time.monotonic()

    async def _run_one(self, command: list[str]) -> None:
        # Its own session: Ctrl-C in a terminal is ours to answer.
        process = await anyio.open_process(
            command, env=self._environment, stderr=None, start_new_session=True
        )
        async with process:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._end_when_stopped, process)
                await self._collect(process)
                tasks.cancel_scope.cancel()
            with anyio.fail_after(_END_TIMEOUT):
                code = await process.wait()
        if code != 0:
            raise DevstackError(f"a producer failed with exit code {code}")

    async def _end_when_stopped(self, process: Process) -> None:
        await self._stop.wait()
        assert process.stdin is not None
        await process.stdin.aclose()

    async def _collect(self, process: Process) -> None:
        assert process.stdout is not None
        rest = ""
        async for text in TextReceiveStream(process.stdout):
            *lines, rest = (rest + text).split("\n")
            for line in lines:
                self.events.extend(Committed(*event) for event in json.loads(line))


def _main() -> None:
    # A terminal's Ctrl-C is for the demo, which then closes our stdin.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        _produce(**json.loads(sys.argv[1]))
    except BrokenPipeError:
        # Nobody listens any more. What stdout still holds must not be flushed again at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _produce(dsn: str, rate: float, events: int | None, seed: int) -> None:
    """Commit transactions at the asked rate, catching up after delays, and report each one."""
    chance = random.Random(seed)
    done, begun = 0, time.monotonic()
    with psycopg.connect(dsn, autocommit=True) as connection:
        while events is None or done < events:
            due = begun + done / rate
            if select.select([sys.stdin], [], [], max(0.0, due - time.monotonic()))[0]:
                return
            committed = _transact(connection, chance, 2 if events is None else events - done)
            if committed:
                print(json.dumps(committed), flush=True)
            done += len(committed)


def _transact(connection: psycopg.Connection, chance: random.Random, room: int) -> list[Committed]:
    """Run one transaction with one or two events, at most ``room``; what it committed.

    Empty if it was rolled back. Orders and events go, or stay, together.
    """
    emitted: list[Committed] = []
    with connection.transaction():
        for _ in range(2 if room > 1 and chance.random() < _TWO_AT_ONCE else 1):
            emitted.append(_emit(connection, chance, _change(connection, chance)))  # noqa: PERF401 - each step depends on the one before
        if chance.random() < _ROLLED_BACK:
            emitted = []
            raise psycopg.Rollback
    return emitted


def _change(connection: psycopg.Connection, chance: random.Random) -> Row:
    if chance.random() >= _PLACING:
        advanced = connection.execute(_ADVANCE).fetchone()
        if advanced is not None:
            return advanced
    placed = connection.execute(_PLACE, [chance.randint(100, 100_000)]).fetchone()
    assert placed is not None
    return placed


def _emit(connection: psycopg.Connection, chance: random.Random, row: Row) -> Committed:
    number, state, version, amount_cents = row
    subject, key = f"orders.{state}", f"order-{number}"
    order = {"order": number, "state": state, "version": version}
    text = json.dumps({**order, "amount": f"{amount_cents / 100} €"}, ensure_ascii=False)
    payload = text.encode()
    draw = chance.random()
    if draw < _AS_BYTES:
        cursor = connection.execute(_EMIT_BYTES, [subject, payload, key])
    elif draw < _AS_BYTES + _AS_INSERT:
        cursor = connection.execute(_INSERT, [subject, text, key])
    else:
        cursor = connection.execute(_EMIT_JSON, [subject, text, key])
    found: tuple[UUID] | None = cursor.fetchone()
    assert found is not None
    return Committed(str(found[0]), key, version, digest(payload))


if __name__ == "__main__":
    _main()
