"""The outbox's status for people: its status row, and which relays stand by. Changes nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from relay.errors import SchemaError
from relay.postgres.session import Session
from relay.postgres.sqlfiles import LEASE_CLASS, load


@dataclass(frozen=True, slots=True)
class Standby:
    """Another relay's session; ``address`` is None over a Unix socket."""

    pid: int
    address: str | None
    since: datetime


async def status(session: Session, schema: str) -> dict[str, Any]:
    """Return the columns of ``queries/status``; ``led`` says whether anybody holds the lease.

    Raises:
        StoreOutage: Postgres is away.
        SchemaError: the schema is missing, or may not be read by this login.
    """
    cursor = await session.execute(load("queries/status", schema), {"lease_class": LEASE_CLASS})
    row = await cursor.fetchone()
    if row is None:
        raise SchemaError(f"the cursor row of schema {schema} is gone; restore it from a backup")
    names = [column.name for column in cursor.description or ()]
    return dict(zip(names, row, strict=True))


async def stranger(session: Session, schema: str) -> str:
    """Say who holds the lease and is no relay; "" if nobody does. Raises as ``status`` does."""
    rows = await session.rows(load("queries/lease_holder", schema), {"lock_class": LEASE_CLASS})
    if not rows or rows[0][2] == "relay term":
        return ""
    pid, login, application = rows[0]
    if pid is None:
        return "a prepared transaction"
    return f"pid {pid}, login {login}, application {application!r}"


@dataclass(frozen=True, slots=True)
class Reason:
    """Why ``events`` parked events are parked, dead or alive; ``first_id`` is the lowest id.

    ``held_by`` is empty unless an outage holds them; ``code`` is JetStream's, if it gave one;
    ``error`` is that of the latest try.
    """

    dead: bool
    held_by: str
    code: int | None
    error: str
    events: int
    first_id: int


async def reasons(session: Session, schema: str) -> Sequence[Reason]:
    """Return why events are parked, the most frequent reason first. Raises as ``status`` does.

    It reads the parked themselves, which a monitor may not.
    """
    rows = await session.rows(load("queries/parked_reasons", schema))
    return [Reason(*row) for row in rows]


async def standbys(session: Session, schema: str) -> Sequence[Standby]:
    """Return who stands by, the longest standing first. Raises as ``status`` does."""
    rows = await session.rows(load("queries/standbys", schema), {"lease_class": LEASE_CLASS})
    return [Standby(*row) for row in rows]
