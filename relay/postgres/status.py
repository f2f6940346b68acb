"""How the outbox stands, for people: its status row, and who stands by. Changes nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from relay.errors import SchemaError
from relay.postgres.locks import LEASE_CLASS
from relay.postgres.session import Session
from relay.postgres.sqlfiles import load

_COLUMNS: Final = (
    "led",
    "epoch",
    "holder",
    "term_began_at",
    "settled_at",
    "delivered",
    "refused",
    "backlog",
    "backlog_is_capped",
    "oldest_created_at",
    "lag_seconds",
    "parked",
    "dead",
    "held",
    "held_lag_seconds",
    "base",
    "target",
    "last_id",
    "reported_at",
    "wakes_bell",
    "wakes_poll",
    "lag_breaker",
    "bus_breaker",
)
"""What ``queries/status`` returns, in its order."""


@dataclass(frozen=True, slots=True)
class Standby:
    """Another relay's session; ``address`` is None over a Unix socket."""

    pid: int
    address: str | None
    since: datetime


async def status(session: Session, schema: str) -> dict[str, Any]:
    """Return the status row by column; ``led`` says whether anybody holds the lease.

    Raises:
        StoreOutage: Postgres is away.
        SchemaError: the schema is missing, or may not be read by this login.
    """
    row = await session.row(load("queries/status", schema), {"lease_class": LEASE_CLASS})
    if row is None:
        raise SchemaError(f"the cursor row of schema {schema} is gone; restore it from a backup")
    return dict(zip(_COLUMNS, row, strict=True))


async def stranger(session: Session, schema: str) -> str:
    """Say who holds the lease and is no relay; "" if nobody does. Raises as ``status`` does."""
    rows = await session.rows(load("queries/lease_holder", schema), {"lock_class": LEASE_CLASS})
    if not rows or rows[0][2] == "relay term":
        return ""
    pid, login, application = rows[0]
    if pid is None:
        return "a prepared transaction"
    return f"pid {pid}, login {login}, application {application!r}"


async def standbys(session: Session, schema: str) -> Sequence[Standby]:
    """Return who stands by, the longest standing first. Raises as ``status`` does."""
    rows = await session.rows(load("queries/standbys", schema), {"lease_class": LEASE_CLASS})
    return [Standby(*row) for row in rows]
