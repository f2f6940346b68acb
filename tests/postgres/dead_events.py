"""Parked events for tests: made, found, decided on."""

from datetime import UTC, datetime

import anyio
import psycopg

from relay.postgres.operator import Action, DeadEvents, ParkedEvent, Wanted

FAR = datetime(2100, 1, 1, tzinfo=UTC)
PARK = """
with written as (
  insert into relay.outbox (id, idempotency_key, subject, key, payload)
  overriding system value
  values (%(id)s, %(idempotency_key)s, %(subject)s, %(key)s, '{"n": 1}')
  returning id, event_id, created_at, subject, key
)
insert into relay.parked (
  id, event_id, created_at, subject, key, attempts, last_error, last_code,
  first_refused_at, dead_at, next_attempt_at, held_by, errors
)
select w.id, w.event_id, w.created_at, w.subject, w.key, %(attempts)s, %(error)s, %(code)s,
       clock_timestamp() - make_interval(secs => %(age)s),
       case when %(dead)s then clock_timestamp() - make_interval(secs => %(age)s) end,
       clock_timestamp() + make_interval(secs => %(due)s::float8), %(held_by)s,
       '[{"at": "2026-01-01T00:00:00+00:00", "attempt": 1, "code": 1, "error": "first"}]'
  from written as w
"""


def park(connection: psycopg.Connection, id_: int, **given: object) -> None:
    """Put one event among the parked; dead unless said otherwise."""
    usual = {"subject": "orders.placed", "key": None, "attempts": 10, "error": "too large"}
    usual |= {"code": 10054, "age": 60.0, "dead": True, "due": None, "held_by": ""}
    connection.execute(PARK, usual | {"id": id_, "idempotency_key": None} | given)


async def ids(dead_events: DeadEvents, **wanted: object) -> list[int]:
    found = await dead_events.find(Wanted(**wanted), 100)  # type: ignore[arg-type]
    assert found.total == len(found.events)
    return [event.id for event in found.events]


async def decide(dead_events: DeadEvents, action: Action, *ids: int) -> list[int]:
    """Decide on these, or on all."""
    done: list[int] = []
    named: list[ParkedEvent] = []
    if ids:
        found = await dead_events.find(Wanted(parked=True, ids=ids), 100)
        named.extend(found.events)
        if not named:
            return []
    await dead_events.decide(
        action,
        named or Wanted(),
        by="anna",
        as_of=FAR,
        done=done.extend,
    )
    return done


def row(look: psycopg.Connection, what: str, id_: int) -> tuple[object, ...] | None:
    return look.execute(f"select {what} from relay.parked where id = %s", (id_,)).fetchone()


async def until_blocked(look: psycopg.Connection) -> None:
    """Wait until some session of this database waits for a lock."""
    with anyio.fail_after(20):
        while look.execute(
            "select count(*) from pg_stat_activity where datname = current_database()"
            " and wait_event_type = 'Lock'"
        ).fetchone() == (0,):
            await anyio.sleep(0.01)
