"""Adopting a table in a test, and what then stands in the outbox."""

from collections.abc import Callable
from typing import Any

import psycopg

from relay.postgres.adoption import Adoption
from relay.postgres.session import Session
from tests.postgres.databases import execute

DEBEZIUM = """
create table public.outboxevent (
  id uuid primary key default gen_random_uuid(), aggregatetype varchar(255) not null,
  aggregateid varchar(255) not null, type varchar(255) not null, payload jsonb
)"""
NUMBERED = """
create table public.events (
  id bigint generated always as identity primary key, topic text not null, ref text, body jsonb
)"""
NUMBERED_FIELDS = {"subject": "topic", "key": "ref", "payload": "body"}


async def adopt(
    dsn: str,
    table: str = "public.outboxevent",
    fields: dict[str, str] | None = None,
    moved: Callable[[int, int], None] = lambda _done, _total: None,
    schema: str = "relay",
    **more: Any,
) -> int:
    """Adopt it; return how many rows were copied."""
    async with await Session.connect(dsn, "adopt") as session:
        adoption = await Adoption.look(session, schema, table)
        adoption.ask(fields or {}, **more)
        return await adoption.adopt(moved)


async def undo(dsn: str, table: str = "public.outboxevent") -> None:
    async with await Session.connect(dsn, "adopt") as session:
        await (await Adoption.look(session, "relay", table)).undo()


def events(dsn: str, columns: str = "subject, key, payload::text") -> list[tuple[Any, ...]]:
    return execute(dsn, f"select {columns} from relay.outbox order by id")


def write(connection: psycopg.Connection[Any], *rows: tuple[Any, ...]) -> None:
    """Insert rows of Debezium's layout, one a statement."""
    for row in rows:
        connection.execute(
            "insert into public.outboxevent (aggregatetype, aggregateid, type, payload)"
            " values (%s, %s, %s, %s)",
            row,
        )
