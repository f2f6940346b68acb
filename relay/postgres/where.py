"""Where an event is, as far as Postgres knows: its row, its fate, who has not committed yet.

Authoritative for what is committed and settled; what the leader has read and not settled yet lives
in the leader's memory, and the stream says what of it is stored.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from relay.core.subjects import matches
from relay.postgres.session import Session
from relay.postgres.sqlfiles import load

_DEADLINE: Final = 60.0
_LARGEST_ID: Final = (1 << 63) - 1
_OWN_ID: Final = re.compile(r"relay-([0-9a-f-]{36})(?:-r\d+)?(?:-\d+)?")
_TRACE: Final = re.compile(r"(?:[0-9a-f]{2}-)?([0-9a-f]{32})(?:-[0-9a-f]{16}(?:-[0-9a-f]{2}.*)?)?")

NAMES: Final = ("id", "event_id", "idempotency_key", "key", "trace")
"""By what an event can be named."""


@dataclass(frozen=True, slots=True)
class Row:
    """One committed event. ``fate`` is pending, settled, parked or dead, as of one snapshot.

    The last seven speak of a parked event; ``waits_for`` is the event of its key that goes first.
    """

    id: int
    event_id: str
    message_id: str
    subject: str
    key: str | None
    created_at: datetime
    xid: str
    committed_at: datetime | None
    fate: str
    attempts: int | None
    next_attempt_at: datetime | None
    last_error: str | None
    last_code: int | None
    dead_at: datetime | None
    held_by: str | None
    waits_for: int | None


@dataclass(frozen=True, slots=True)
class Writer:
    """A transaction that has written to the outbox and is open; None is what we may not see."""

    pid: int | None
    prepared: str | None
    login: str | None
    application: str | None
    state: str | None
    began_at: datetime | None

    def __str__(self) -> str:
        """Name it."""
        if self.pid is None:
            return f"prepared transaction {self.prepared!r}"
        state = f" is {self.state}" if self.state else ""
        since = f" since {self.began_at:%H:%M:%SZ}" if self.began_at else ""
        return f"pid {self.pid} ({self.login}, {self.application!r}){state}{since}"


def readings(ref: str, prefix: str = "") -> list[tuple[str, str]]:
    """Return how ``ref`` can be read, the surest first: (one of ``NAMES``, the value).

    A number is an id; a UUID an event id; what the relay makes of it a message id. Anything else
    can be a producer's message id or a key, and 32 hexadecimal digits a trace.
    """
    found: list[tuple[str, str]] = []
    bare = ref.removeprefix(prefix)
    own = _OWN_ID.fullmatch(bare.lower())
    if re.fullmatch(r"[0-9]{1,19}", ref) and int(ref) <= _LARGEST_ID:
        found.append(("id", str(int(ref))))
    if (event_id := _uuid(own[1] if own else ref)) is not None:
        found.append(("event_id", event_id))
    if own is None:
        trace = _TRACE.fullmatch(ref.lower())
        if trace is not None and event_id is None:
            found.append(("trace", trace[1]))
        found += [("idempotency_key", bare), ("key", ref)]
    return found


def _uuid(text: str) -> str | None:
    try:
        return str(UUID(text)) if len(text) == len(str(UUID(int=0))) else None
    except ValueError:
        return None


async def rows(
    session: Session, schema: str, name: str, value: str, *, prefix: str, limit: int
) -> Sequence[Row]:
    """Return the newest events that ``name`` = ``value`` names, in the order of id.

    Raises:
        StoreOutage: Postgres is away.
        SchemaError: the schema is not as required, or this login may not read the outbox.
    """
    params: dict[str, Any] = dict.fromkeys(NAMES)
    params |= {name: int(value) if name == "id" else value}
    params |= {"prefix": prefix, "limit_rows": limit}
    query = load("queries/where", schema)
    return [Row(*row) for row in await session.rows(query, params, deadline=_DEADLINE)]


async def open_writers(
    session: Session, schema: str, id_: int | None
) -> tuple[bool | None, Sequence[Writer]]:
    """Return whether the id was ever given, and who has written and not committed. Raises as above.

    Sessions that belong to a relay are left out.
    """
    found = await session.rows(load("queries/where_open", schema), {"id": id_})
    given = found[0][0] if found else None
    return given, [Writer(*row[1:]) for row in found if row[1] is not None or row[2] is not None]


async def streams_of(session: Session, schema: str, subject: str) -> Sequence[str]:
    """Return the streams that were ever learnt to capture ``subject``. Raises as above."""
    learnt = await session.rows(load("queries/streams", schema))
    return [name for name, subjects in learnt if any(matches(each, subject) for each in subjects)]


def plain_values(row: Row) -> Mapping[str, Any]:
    """Return the row for JSON."""
    values = {name: getattr(row, name) for name in Row.__slots__}
    return {n: v.isoformat() if isinstance(v, datetime) else v for n, v in values.items()}
