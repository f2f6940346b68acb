"""One producer process: changes orders and emits the events about it in the same transaction.

    python -m relay.demo.producer --dsn DSN --rate EVENTS_PER_SECOND [--events N] [--seed N]

Writes one line to stdout after each commit that succeeded: a JSON array with one
``[event_id, key, sequence, digest]`` for each event. What was rolled back is never mentioned. Ends
after N events, or when its stdin ends, which it does with whoever started it.

Several producers advance the same orders. ``for update`` makes them take turns on one order, so
that its versions, and with them the events of its key, have one order for all of them.
"""

import argparse
import json
import os
import random
import select
import signal
import sys
import time
from collections.abc import Sequence
from typing import Final, NamedTuple
from uuid import UUID

import psycopg

from relay.demo.check import Committed, digest

Row = tuple[int, str, int, int]

ROLLED_BACK: Final = 0.10
"""The share of transactions that are rolled back after they emitted."""
PLACING: Final = 0.36
"""Above a third: an order is placed once and changed twice, and some orders stay open."""
_TWO_AT_ONCE: Final = 0.10
_AS_BYTES: Final = 0.2
_AS_INSERT: Final = 0.2

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
values (%s, %s::json, %s, %s::jsonb)
returning event_id
"""
_HEADERS = '{"Content-Type": "application/json"}'


class Options(NamedTuple):
    """What one producer is told; ``events`` None means without end."""

    dsn: str
    rate: float
    events: int | None
    seed: int


def main(arguments: Sequence[str] | None = None) -> None:
    """Produce until told to end."""
    parser = argparse.ArgumentParser(prog="python -m relay.demo.producer")
    parser.add_argument("--dsn", required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--events", type=int)
    parser.add_argument("--seed", type=int, default=0)
    # A terminal's Ctrl-C is for the demo, which then closes our stdin.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        produce(Options(**vars(parser.parse_args(arguments))))
    except BrokenPipeError:
        # Nobody listens any more. What stdout still holds must not be flushed again at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def produce(options: Options) -> None:
    """Commit transactions at the asked rate, catching up after delays, and report each one."""
    chance = random.Random(options.seed)
    done, begun = 0, time.monotonic()
    with psycopg.connect(options.dsn, autocommit=True) as connection:
        while options.events is None or done < options.events:
            due = begun + done / options.rate
            if select.select([sys.stdin], [], [], max(0.0, due - time.monotonic()))[0]:
                return
            room = 2 if options.events is None else options.events - done
            committed = transact(connection, chance, room)
            if committed:
                print(json.dumps(committed), flush=True)
            done += len(committed)


def transact(connection: psycopg.Connection, chance: random.Random, room: int) -> list[Committed]:
    """Run one transaction with one or two events, at most ``room``; what it committed.

    Empty if it was rolled back. Orders and events go, or stay, together.
    """
    emitted: list[Committed] = []
    with connection.transaction():
        for _ in range(2 if room > 1 and chance.random() < _TWO_AT_ONCE else 1):
            emitted.append(_emit(connection, chance, _change(connection, chance)))  # noqa: PERF401 - each step depends on the one before
        if chance.random() < ROLLED_BACK:
            emitted = []
            raise psycopg.Rollback
    return emitted


def _change(connection: psycopg.Connection, chance: random.Random) -> Row:
    if chance.random() >= PLACING:
        advanced = connection.execute(_ADVANCE).fetchone()
        if advanced is not None:
            return advanced
    placed = connection.execute(_PLACE, [chance.randint(100, 100_000)]).fetchone()
    assert placed is not None
    return placed


def _emit(connection: psycopg.Connection, chance: random.Random, row: Row) -> Committed:
    number, state, version, amount_cents = row
    key = f"order-{number}"
    text = json.dumps(
        {"order": number, "state": state, "version": version, "amount": f"{amount_cents / 100} €"},
        ensure_ascii=False,
    )
    payload = text.encode()
    draw = chance.random()
    if draw < _AS_BYTES:
        cursor = connection.execute(_EMIT_BYTES, [f"orders.{state}", payload, key])
    elif draw < _AS_BYTES + _AS_INSERT:
        cursor = connection.execute(_INSERT, [f"orders.{state}", text, key, _HEADERS])
    else:
        cursor = connection.execute(_EMIT_JSON, [f"orders.{state}", text, key])
    found: tuple[UUID] | None = cursor.fetchone()
    assert found is not None
    return Committed(str(found[0]), key, version, digest(payload))


if __name__ == "__main__":
    main()
