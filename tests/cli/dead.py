"""Dead events for the tests of what people do about them."""

from collections.abc import Callable

import psycopg
from typer.testing import Result

Run = Callable[..., Result]
DEAD = """
with written as (
  insert into relay.outbox (id, subject, key, payload)
  overriding system value
  select i, 'orders.placed', %(key)s, '{"n": 1.50}' from unnest(%(ids)s::bigint[]) as i
  returning id, event_id, created_at, subject, key
)
insert into relay.parked (
  id, event_id, created_at, subject, key, attempts, last_error, last_code, dead_at, errors
)
select w.id, w.event_id, w.created_at, w.subject, w.key, 10, %(error)s, 10054,
       clock_timestamp() - interval '1 hour',
       '[{"at": "2026-01-01T00:00:00+00:00", "attempt": 1, "code": 7, "error": "the first"}]'
  from written as w
"""


def die(look: psycopg.Connection, *ids: int, key: str | None = "k", error: str = "no") -> None:
    look.execute(DEAD, {"ids": list(ids), "key": key, "error": error})


def live(look: psycopg.Connection, id_: int) -> None:
    die(look, id_)
    look.execute(
        "update relay.parked set dead_at = null, next_attempt_at = clock_timestamp()"
        " + interval '1h' where id = %s",
        (id_,),
    )


def left(look: psycopg.Connection) -> list[int]:
    """The ids of the dead."""
    rows = look.execute("select id from relay.parked where dead_at is not null order by id")
    return [id_ for (id_,) in rows.fetchall()]
