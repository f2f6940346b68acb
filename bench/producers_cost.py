"""What ``relay.producer`` costs over raw SQL: ``python -m bench.producers_cost``, half a minute.

    raw       the framework's own execute of `select relay.emit(...)`, the payload by json.dumps
    helper    emit of the same event
    traced    emit of the same event within a span

By turns, in one transaction that is rolled back, on a real Postgres; medians of single calls in us,
and of ``emit_many`` of 1,000 events in ms; beside the clock this process's own processor time, for
other work on the machine changes that less. A framework that is not installed is left out. One line
of JSON a framework; exit code 0 only if every helper keeps its limits.
"""

import asyncio
import json
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import Annotated, Any

import typer
from opentelemetry import trace
from psycopg.conninfo import conninfo_to_dict

from bench.stack import POSTGRES_SETTINGS
from relay import devstack
from relay.postgres import migrations
from relay.producer import Event

PAYLOAD = {"order": 7, "state": "paid", "amount": "9.90", "lines": ["a" * 60, "b" * 60]}
HEADERS = {"source": "shop"}
MORE_US_MOST = 30.0
MANY, MANY_MS_MOST = 1_000, 15.0
MANY_RUNS = 20
WARMING = 200
"""Calls that are not counted."""

SPAN = trace.NonRecordingSpan(
    trace.SpanContext(1 << 100, 1 << 50, is_remote=False, trace_flags=trace.TraceFlags(1))
)

NAMED = "select relay.emit(:s, cast(:p as text), key => :k, headers => cast(:h as jsonb))"

Call = Callable[[], Awaitable[Any]]
Calls = tuple[Call, Call, Call]
"""Raw; by the helper; 1,000 by the helper."""


EVENTS = [
    Event("orders.paid", PAYLOAD, f"order-{n % 100}", None if n % 3 else HEADERS)
    for n in range(MANY)
]
"""Of some keys, a third of them with a header."""


def values() -> tuple[str, str, str, str]:
    """Return what raw SQL is given."""
    return "orders.paid", json.dumps(PAYLOAD), "order-7", json.dumps(HEADERS)


def _awaitable(function: Callable[[], Any]) -> Call:
    async def call() -> Any:
        return function()

    return call


@asynccontextmanager
async def by_psycopg(dsn: str) -> AsyncIterator[Calls]:
    """psycopg, sync."""
    import psycopg

    from relay.producer.psycopg import emit, emit_many

    query = "select relay.emit(%s, %s::text, key => %s, headers => %s)"
    with psycopg.connect(dsn) as connection:
        yield (
            _awaitable(lambda: connection.execute(query, values()).fetchone()),
            _awaitable(
                lambda: emit(connection, "orders.paid", PAYLOAD, key="order-7", headers=HEADERS)
            ),
            _awaitable(lambda: emit_many(connection, EVENTS)),
        )
        connection.rollback()


@asynccontextmanager
async def by_psycopg_async(dsn: str) -> AsyncIterator[Calls]:
    """psycopg, async."""
    import psycopg

    from relay.producer.psycopg import aemit, aemit_many

    query = "select relay.emit(%s, %s::text, key => %s, headers => %s)"

    async def raw() -> Any:
        return await (await connection.execute(query, values())).fetchone()

    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        yield (
            raw,
            lambda: aemit(connection, "orders.paid", PAYLOAD, key="order-7", headers=HEADERS),
            lambda: aemit_many(connection, EVENTS),
        )
        await connection.rollback()


@asynccontextmanager
async def by_asyncpg(dsn: str) -> AsyncIterator[Calls]:
    """By asyncpg."""
    import asyncpg

    from relay.producer.asyncpg import emit, emit_many

    query = "select relay.emit($1, $2::text, key => $3, headers => $4)"
    connection = await asyncpg.connect(url_of(dsn))
    transaction = connection.transaction()
    await transaction.start()
    yield (
        lambda: connection.fetchval(query, *values()),
        lambda: emit(connection, "orders.paid", PAYLOAD, key="order-7", headers=HEADERS),
        lambda: emit_many(connection, EVENTS),
    )
    await transaction.rollback()
    await connection.close()


@asynccontextmanager
async def by_sqlalchemy(dsn: str) -> AsyncIterator[Calls]:
    """SQLAlchemy's Session over psycopg."""
    from sqlalchemy import create_engine, text
    from sqlalchemy.orm import Session

    from relay.producer.sqlalchemy import emit, emit_many

    query = text(NAMED)
    engine = create_engine(url_of(dsn, "postgresql+psycopg"))
    with Session(engine) as session:
        yield (
            _awaitable(
                lambda: session.execute(
                    query, dict(zip("spkh", values(), strict=True))
                ).scalar_one()
            ),
            _awaitable(
                lambda: emit(session, "orders.paid", PAYLOAD, key="order-7", headers=HEADERS)
            ),
            _awaitable(lambda: emit_many(session, EVENTS)),
        )
        session.rollback()
    engine.dispose()


@asynccontextmanager
async def by_sqlalchemy_async(dsn: str) -> AsyncIterator[Calls]:
    """SQLAlchemy's AsyncSession over asyncpg."""
    from sqlalchemy import text
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

    from relay.producer.sqlalchemy import aemit, aemit_many

    query = text(NAMED)

    async def raw() -> Any:
        return (await session.execute(query, dict(zip("spkh", values(), strict=True)))).scalar_one()

    engine = create_async_engine(url_of(dsn, "postgresql+asyncpg"))
    async with AsyncSession(engine) as session:
        yield (
            raw,
            lambda: aemit(session, "orders.paid", PAYLOAD, key="order-7", headers=HEADERS),
            lambda: aemit_many(session, EVENTS),
        )
        await session.rollback()
    await engine.dispose()


@asynccontextmanager
async def by_django(dsn: str) -> AsyncIterator[Calls]:
    """Django over psycopg; its guard against event loops is off: this thread has nothing else."""
    import os

    import django
    from django.conf import settings
    from django.db import connection, transaction

    from relay.producer.django import emit, emit_many

    parts = conninfo_to_dict(dsn)
    names = {"NAME": "dbname", "USER": "user", "PASSWORD": "password", "HOST": "host"}
    given = {name: parts.get(keyword, "") for name, keyword in (names | {"PORT": "port"}).items()}
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "1"
    settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.postgresql", **given}})
    django.setup()
    query = "select relay.emit(%s, %s::text, key => %s, headers => %s)"

    def raw() -> Any:
        with connection.cursor() as cursor:
            cursor.execute(query, values())
            return cursor.fetchone()

    with transaction.atomic():
        yield (
            _awaitable(raw),
            _awaitable(lambda: emit("orders.paid", PAYLOAD, key="order-7", headers=HEADERS)),
            _awaitable(lambda: emit_many(EVENTS)),
        )
        transaction.set_rollback(rollback=True)
    connection.close()


WAYS = {
    "psycopg": by_psycopg,
    "psycopg async": by_psycopg_async,
    "asyncpg": by_asyncpg,
    "sqlalchemy session": by_sqlalchemy,
    "sqlalchemy async asyncpg": by_sqlalchemy_async,
    "django": by_django,
}


def url_of(dsn: str, scheme: str = "postgresql") -> str:
    """Return the connection string as a URL, with its password."""
    parts = conninfo_to_dict(dsn)
    login = f"{parts['user']}:{parts['password']}"
    return f"{scheme}://{login}@{parts['host']}:{parts['port']}/{parts['dbname']}"


async def microseconds(call: Call) -> tuple[float, float]:
    """Return how long one call takes, and how much of this process's processor time."""
    began, worked = time.perf_counter(), time.process_time()
    await call()
    return (time.perf_counter() - began) * 1e6, (time.process_time() - worked) * 1e6


async def measure(way: str, dsn: str, calls: int) -> dict[str, Any]:
    """Let raw, helper and traced take turns; return their medians."""
    found: dict[str, list[tuple[float, float]]] = {
        name: [] for name in ("raw", "helper", "traced", "many")
    }
    async with WAYS[way](dsn) as (raw, helper, many):
        for turn in range(calls + WARMING):
            one = {"raw": await microseconds(raw), "helper": await microseconds(helper)}
            with trace.use_span(SPAN):
                one["traced"] = await microseconds(helper)
            for name in one if turn >= WARMING else ():
                found[name].append(one[name])
        for _ in range(MANY_RUNS):
            found["many"].append(await microseconds(many))
    wall, cpu = (
        {name: statistics.median(each[place] for each in values) for name, values in found.items()}
        for place in (0, 1)
    )
    more = wall["helper"] - wall["raw"]
    return {
        "way": way,
        "raw_us": round(wall["raw"], 1),
        "more_us": round(more, 1),
        "more_cpu_us": round(cpu["helper"] - cpu["raw"], 1),
        "traced_more_us": round(wall["traced"] - wall["raw"], 1),
        "traced_more_cpu_us": round(cpu["traced"] - cpu["raw"], 1),
        "emit_many_ms": round(wall["many"] / 1000, 1),
        "emit_many_cpu_ms": round(cpu["many"] / 1000, 1),
        "met": more <= MORE_US_MOST and wall["many"] <= MANY_MS_MOST * 1000,
    }


def main(calls: Annotated[int, typer.Option(min=100)] = 3_000) -> None:
    """Measure each framework that is installed."""
    met = True
    with devstack.postgres(settings=POSTGRES_SETTINGS) as server:
        dsn = server.create_database("producers_cost")
        asyncio.run(migrations.migrate(dsn, "relay"))
        for way in WAYS:
            if all(find_spec(name) for name in way.split() if name not in {"session", "async"}):
                answer = asyncio.run(measure(way, dsn, calls))
                print(json.dumps(answer), flush=True)
                met = met and answer["met"]
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    typer.run(main)
