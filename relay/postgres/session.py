"""One Postgres session: a connection with deadlines, and the one table of what its errors mean.

Every statement has a deadline; a session that misses one is dropped, never repaired, because
nothing is known of it any more. Who needs a session again makes another one.

What an error means is decided in ``translated``, by SQLSTATE:

    no answer, connection gone, server starting or stopping, standby   StoreOutage
    schema, table or column missing, no privilege                      SchemaError
    wrong password, no such database or role                           StoreLoginRefused
    a lock's time-out, a cancelled statement                           kinds of StoreOutage
    anything else                                                      passes through: a bug

Only a refused login is told by its text: libpq does not hand over the SQLSTATE of a connection that
failed. A server that speaks another language than English is an outage then, with its own words.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self

import anyio
import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from relay.errors import (
    RelayError,
    SchemaError,
    SettingsError,
    StoreFull,
    StoreLoginRefused,
    StoreOutage,
    StoreReadOnly,
)
from relay.postgres import hosts

STATEMENT_DEADLINE = 8.0
"""Seconds a statement may take; with psycopg's own bound on cancelling, a frozen server is
noticed in time to be reported within ten seconds."""

CONNECT_DEADLINE = 5.0
"""Seconds for connecting, shared by the hosts that the connection string names."""

_OURS: Mapping[str, Any] = {
    # A peer that vanished is noticed by the kernel on idle sessions, too.
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 8000,
    "target_session_attrs": "read-write",  # a standby would show what is not yet durable
}

_SERVER: Mapping[str, str] = {
    "timezone": "UTC",
    "client_encoding": "UTF8",
    # What a role's or a database's defaults would end is bounded here, by deadlines.
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_session_timeout": "0",
}


class LockTimedOut(StoreOutage):
    """The session's lock_timeout ended a wait; the session is as good as before."""


class StatementCanceled(StoreOutage):
    """Somebody cancelled the statement; the session is as good as before."""


class Session:
    """A connection in autocommit whose every wait is bounded. Not to be used by two tasks at once.

    Make it by ``await Session.connect(...)``; leave it by ``close()`` or ``async with``.
    """

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        """Wrap an open connection; use ``connect``."""
        self.connection = connection

    @classmethod
    async def connect(
        cls, dsn: str, name: str, *, options: Mapping[str, str] | None = None
    ) -> Self:
        """Connect under a deadline.

        Args:
            dsn: libpq connection string or URI; what it leaves out comes from the PG* variables.
            name: the session's duty; shown by pg_stat_activity as ``relay <name>``.
            options: server settings for this session.

        Raises:
            StoreLoginRefused: it refuses the role, its password, or the database's name.
            StoreOutage: the server is away, is a standby, or does not answer.
            SettingsError: ``dsn`` can't be read.
        """
        try:
            given = conninfo_to_dict(dsn)
        except psycopg.ProgrammingError:  # its text can quote the password
            raise SettingsError(
                ["postgres_dsn is no connection string: see libpq's keywords, or use a URI"]
            ) from None
        each, deadline = hosts.patience(given, int(CONNECT_DEADLINE))
        ours = {
            name_: value
            for name_, value in {**_OURS, "connect_timeout": each}.items()
            if name_ not in given
        }
        server = {**_SERVER, **(options or {})}
        flags = " ".join(f"-c {option}={value}" for option, value in server.items())
        ours["options"] = f"{given.get('options', '') or ''} {flags}".strip()
        ours.setdefault("application_name", f"relay {name}")
        try:
            with anyio.fail_after(deadline):
                connection = await psycopg.AsyncConnection.connect(
                    make_conninfo(dsn, **ours), autocommit=True
                )
        except TimeoutError:
            raise StoreOutage(
                f"Postgres did not answer within {deadline:g} s of connecting ({name})"
            ) from None
        except psycopg.Error as error:
            if isinstance(error, psycopg.ProgrammingError) and error.sqlstate is None:
                raise SettingsError([f"postgres_dsn can't be used: {error}"]) from None
            raise _refused(error) or translated(error) from None
        return cls(connection)

    async def rows(
        self,
        query: sql.Composed,
        params: Mapping[str, Any] | None = None,
        *,
        deadline: float = STATEMENT_DEADLINE,
    ) -> list[tuple[Any, ...]]:
        """Run one prepared statement and return all its rows.

        Raises:
            StoreOutage: no answer within ``deadline`` s, or the connection is gone.
            SchemaError: something the statement names does not exist, or may not be used.
        """
        try:
            with anyio.fail_after(deadline):
                async with self.connection.cursor(binary=True) as cursor:
                    await cursor.execute(query, params, prepare=True)
                    return await cursor.fetchall() if cursor.description else []
        except TimeoutError:
            self.drop()
            raise StoreOutage(f"Postgres did not answer within {deadline:g} s") from None
        except psycopg.Error as error:
            raise translated(error) from error

    async def row(
        self,
        query: sql.Composed,
        params: Mapping[str, Any] | None = None,
        *,
        deadline: float = STATEMENT_DEADLINE,
    ) -> tuple[Any, ...] | None:
        """Run one prepared statement and return its first row, or None. Raises as ``rows`` does."""
        found = await self.rows(query, params, deadline=deadline)
        return found[0] if found else None

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """Make several statements one transaction, all of it within one deadline.

        Raises:
            StoreOutage: whether it committed is not known.
        """
        try:
            with anyio.fail_after(STATEMENT_DEADLINE):
                async with self.connection.transaction():
                    yield
        except TimeoutError:
            self.drop()
            raise StoreOutage(f"Postgres did not answer within {STATEMENT_DEADLINE:g} s") from None
        except psycopg.Error as error:
            raise translated(error) from error

    def drop(self) -> None:
        """Forget the connection at once; the server notices by the closed socket."""
        self.connection.pgconn.finish()

    async def close(self) -> None:
        """Say goodbye if that can be done at once. Never raises."""
        if not self.connection.closed:
            await self.connection.close()

    async def __aenter__(self) -> Self:
        """Return itself."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""
        await self.close()


Connect = Callable[[str], Awaitable[Session]]
"""Opens a session for the duty it is named by."""


def translated(error: psycopg.Error) -> RelayError | psycopg.Error:
    """Return our error for a driver's one, or the driver's own where it can only be a bug."""
    message = " ".join(str(error).split()) or type(error).__name__
    known = _KINDS.get(error.sqlstate or "")
    if known is not None:
        kind, remedy = known
        return kind(f"{message}: {remedy}")
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return StoreOutage(message)
    return error


def _refused(error: psycopg.Error) -> StoreLoginRefused | None:
    """Return our error if that is why a connection failed."""
    message = " ".join(str(error).split())
    if _REFUSAL.search(message) or (error.pgconn is not None and error.pgconn.needs_password):
        return StoreLoginRefused(message)
    return None


_REFUSAL = re.compile(
    r"authentication failed for user"  # 28P01, 28000
    r"|no password supplied"  # libpq itself
    r'|role ".*" (does not exist|is not permitted to log in)'  # 28000
    r"|no pg_hba\.conf entry|pg_hba\.conf rejects"  # 28000
    r'|database ".*" does not exist'  # 3D000
    r"|permission denied for database"  # 42501
    r"|no such (user|database)|SASL authentication failed"  # poolers
)
"""What a refused login says, with its SQLSTATE."""

_MIGRATE = "something of the outbox is missing; run `python -m relay migrate`"

_KINDS: Mapping[str, tuple[type[SchemaError | StoreOutage], str]] = {
    "3F000": (SchemaError, _MIGRATE),  # schema
    "42P01": (SchemaError, _MIGRATE),  # table or view
    "42703": (SchemaError, _MIGRATE),  # column
    "42883": (SchemaError, _MIGRATE),  # function
    "42501": (
        SchemaError,
        "grant this login the schema's relay role, or run as the schema's owner",
    ),
    "25006": (StoreReadOnly, "Postgres is read-only here: a standby, or a demoted primary"),
    "53100": (StoreFull, "waiting and trying again"),  # disk full
    "55P03": (LockTimedOut, "the session's lock_timeout"),
    "57014": (StatementCanceled, "waiting and trying again"),
}
"""SQLSTATE to the kind of our error and what to do about it."""
