"""How a session is opened: on which host, never left half-way, with every setting pinned.

    open_connection ──a task that nobody cancels──► libpq connects ──► one question ──► ready
          │ the caller's deadline passes, or the caller is cancelled
          └──────────► the task goes on, and closes what it gets

A connect that is dropped between the socket and the first message keeps its backend, and a
Postgres that is told to stop waits for that backend for a minute. libpq's time-out bounds the task.

``PINNED`` is the one table of server settings that can change what our statements mean, or end
them; it overrules what is set for the role or the database. Older servers and other platforms lack
a few of its names: a server that refuses one is asked again without it.

The question asks for the backend's process id. A pooler's sessions begin with an invented one, and
their settings and locks belong to no session: poolers are refused here.

Hosts. libpq gives every host of a connection string the whole of ``connect_timeout``, so two
silent hosts before the primary would use up any deadline: ``patience`` shares the time among them.
``hosts`` finds the primary among them; ``one_host`` keeps the term's other sessions with that
server, for two servers may take writes at once.

A password may change while the relay runs: where ``passfile`` says ``password:PATH`` (the password
alone) or ``dsn:PATH`` (a connection string), that file is read anew at each connect.

Source: psycopg/psycopg issues 1371 and 1435 (cancelling a session of a server that is frozen).
"""

import asyncio
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from relay.errors import SettingsError, StoreLoginRefused, StoreOutage

CONNECT_DEADLINE: Final = 5.0
"""Seconds for connecting, shared by the hosts that the connection string names."""

LEAST_EACH: Final = 2
"""Seconds a host is given at least; libpq takes nothing shorter."""

A_POOLER: Final = "this is a connection pooler: let RELAY_POSTGRES_DSN name Postgres itself"

_LIBPQ: Mapping[str, Any] = {
    # A peer that vanished is noticed by the kernel on idle sessions, too.
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 8000,
    "target_session_attrs": "read-write",  # a standby would show what is not yet durable
}

PINNED: Mapping[str, str] = {
    # what names mean, and who sees which rows
    "search_path": "pg_catalog, pg_temp",
    "row_security": "off",
    "restrict_nonsystem_relation_kind": "",
    # how texts are read and written
    "standard_conforming_strings": "on",
    "backslash_quote": "safe_encoding",
    "array_nulls": "on",
    "transform_null_equals": "off",
    "quote_all_identifiers": "off",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "xmlbinary": "base64",
    "xmloption": "content",
    # how transactions behave
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "default_transaction_deferrable": "off",
    # what would end a statement or a session; each has a deadline of ours
    "statement_timeout": "0",
    "lock_timeout": "0",
    "transaction_timeout": "0",
    "idle_session_timeout": "0",
    "idle_in_transaction_session_timeout": "60s",
    "exit_on_error": "off",
    "local_preload_libraries": "",
    # a client that is gone does not keep a backend, and its locks
    "client_connection_check_interval": "1s",
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "8s",
    # what plans may cost; the notices that migrations say things by
    "jit": "off",
    "max_parallel_workers_per_gather": "0",
    "client_min_messages": "notice",
}
"""The server settings of every session."""

_NOT_EVERYWHERE: Final = (
    "transaction_timeout",  # Postgres 17
    "restrict_nonsystem_relation_kind",  # minor releases of August 2024
    "client_connection_check_interval",  # only where the system can watch a socket
)

_SURE = """\
select pg_catalog.pg_backend_pid(), pg_catalog.current_setting('search_path'),
       pg_catalog.set_config('TimeZone', 'UTC', false),
       pg_catalog.set_config('DateStyle', 'ISO, MDY', false)"""
"""The first statement. The two settings again, for PGTZ and PGDATESTYLE come later than ours."""

_C = TypeVar("_C", bound=psycopg.AsyncConnection[Any])


async def open_connection(
    dsn: str,
    name: str,
    options: Mapping[str, str],
    connection_class: type[_C],
) -> _C:
    """Open a connection in autocommit, named ``relay <name>`` in pg_stat_activity.

    ``dsn`` is a libpq connection string or URI; what it leaves out comes from the PG* variables.

    Raises:
        StoreLoginRefused: a person has to change something: login, its file, TLS, a pooler.
        StoreOutage: the server is away, is a standby, or does not answer.
        SettingsError: ``dsn`` can't be read.
        psycopg.Error: anything else.
    """
    given = parsed(dsn)
    each, deadline = patience(given, int(CONNECT_DEADLINE))
    ours = {
        key: value for key, value in {**_LIBPQ, "connect_timeout": each}.items() if key not in given
    }
    ours |= {
        "application_name": f"relay {name}",
        "client_encoding": "UTF8",  # the keyword: it beats PGCLIENTENCODING
        **_password(str(given.get("passfile") or "")),
    }
    settings = {**PINNED, **options}
    while True:
        for key in _missing.get(dsn, ()):
            settings.pop(key, None)
        flags = " ".join(f"-c {key}={_escaped(value)}" for key, value in settings.items())
        ours["options"] = f"{given.get('options') or ''} {flags}".strip()
        try:
            return await _never_abandoned(
                make_conninfo(dsn, **ours), name, deadline, connection_class
            )
        except psycopg.Error as error:
            unknown = [key for key in _NOT_EVERYWHERE if key in settings and key in str(error)]
            if not unknown:
                raise _refused(error) or error from None
            _missing.setdefault(dsn, set()).update(unknown)


def _password(passfile: str) -> dict[str, Any]:
    """Return the password that a file of ours holds now; nothing where ``passfile`` is libpq's."""
    form, _, path = passfile.partition(":")
    if form not in {"password", "dsn"}:
        return {}
    try:
        text = Path(path).read_text(encoding="utf-8").rstrip("\r\n")
        return {"password": conninfo_to_dict(text)["password"] if form == "dsn" else text}
    except (OSError, ValueError, KeyError, psycopg.ProgrammingError) as error:
        why = getattr(error, "strerror", None) or "it holds none"
        raise StoreLoginRefused(f"no password can be read from {path}: {why}") from None


def host_count(given: Mapping[str, Any]) -> int:
    """Count the hosts of a connection string's parameters, or of the PG* variables."""
    lists = (
        given.get("host") or os.environ.get("PGHOST"),
        given.get("hostaddr") or os.environ.get("PGHOSTADDR"),
    )
    return max(1 + str(each or "").count(",") for each in lists)


def patience(given: Mapping[str, Any], whole: int) -> tuple[int, float]:
    """Share ``whole`` s among the hosts: seconds for each, and until all of them have had theirs.

    A ``connect_timeout`` of the connection string is kept, but 0, which means no limit, is not;
    psycopg refuses what is no number.
    """
    hosts = host_count(given)
    theirs = str(given.get("connect_timeout") or "").strip()
    each = int(theirs) if theirs.isdecimal() else 0
    each = each or max(LEAST_EACH, whole // hosts)
    return each, float(hosts * max(each, LEAST_EACH) + 1)


def one_host(dsn: str, connection: psycopg.AsyncConnection[Any]) -> str:
    """Return ``dsn`` for the very server of ``connection``, where it names several."""
    given, info = conninfo_to_dict(dsn), connection.info
    if host_count(given) == 1 or not info.host:
        return dsn
    server: dict[str, Any] = {"host": info.host, "port": info.port}
    if given.get("hostaddr") or os.environ.get("PGHOSTADDR"):
        server["hostaddr"] = info.hostaddr
    return make_conninfo(dsn, **server)


_missing: dict[str, set[str]] = {}
"""By connection string: the settings that its servers refused, learnt once a process."""

_under_way: set[asyncio.Task[Any]] = set()
"""An event loop keeps only weak references to its tasks."""


async def _never_abandoned(
    conninfo: str, name: str, deadline: float, connection_class: type[_C]
) -> _C:
    """Connect in a task of its own, which outlives the caller if it must."""
    task = asyncio.create_task(_connect(conninfo, connection_class), name=f"connect {name}")
    _under_way.add(task)
    task.add_done_callback(_under_way.discard)
    try:
        done, _ = await asyncio.wait({task}, timeout=deadline)
    except asyncio.CancelledError:
        task.add_done_callback(_close_late)
        raise
    if not done:
        task.add_done_callback(_close_late)
        raise StoreOutage(f"Postgres did not answer within {deadline:g} s of connecting ({name})")
    return task.result()


def _close_late(task: asyncio.Task[_C]) -> None:
    """Close a connection that nobody waits for any more."""
    if not task.cancelled() and task.exception() is None:
        task.result().pgconn.finish()


async def _connect(conninfo: str, connection_class: type[_C]) -> _C:
    # Not the connect() of a subclass: that of the pool's connections calls open_connection.
    connect = psycopg.AsyncConnection.connect.__func__  # type: ignore[attr-defined]
    try:
        connection: _C = await connect(connection_class, conninfo, autocommit=True)
    except BaseException as error:
        # The traceback's frames would keep the half-open socket until the garbage is collected. An
        # event loop that ends cancels even this task.
        error.__traceback__ = None
        raise
    try:
        async with asyncio.timeout(CONNECT_DEADLINE):
            answer = await (await connection.execute(_SURE, prepare=False)).fetchone()
        if answer is None or answer[:2] != (connection.pgconn.backend_pid, PINNED["search_path"]):
            raise StoreLoginRefused(A_POOLER)  # noqa: TRY301 - closed below, like every failure
    except BaseException as error:
        connection.pgconn.finish()
        if isinstance(error, TimeoutError):
            raise StoreOutage(f"Postgres did not answer within {CONNECT_DEADLINE:g} s") from None
        raise
    return connection


def parsed(dsn: str) -> dict[str, Any]:
    """Return the parameters of a connection string; SettingsError if it is none."""
    try:
        return dict(conninfo_to_dict(dsn))
    except psycopg.ProgrammingError:  # its text can quote the password
        raise SettingsError(
            ["postgres_dsn is no connection string: see libpq's keywords, or use a URI"]
        ) from None


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace(" ", "\\ ")


def in_words(error: psycopg.Error) -> str:
    """Return what Postgres or libpq said, on one line and said once.

    The primary message alone: DETAIL and CONTEXT can quote a row.
    """
    text = " ".join((error.diag.message_primary or str(error)).split())
    return _SAID_TWICE.sub("", text) or type(error).__name__


_SAID_TWICE: Final = re.compile(
    r"\bconnection failed: (?=connection )| Is the server running [^?]*\?"
)
"""What psycopg puts before libpq's own sentence, and the question that libpq puts behind it."""


def _refused(error: psycopg.Error) -> Exception | None:
    """Return our error where a person has to act; None for an outage, or what nobody expected."""
    message = in_words(error)
    if isinstance(error, psycopg.ProgrammingError) and error.sqlstate is None:
        return SettingsError([f"postgres_dsn can't be used: {message}"])
    if _POOLER.search(message):
        return StoreLoginRefused(f"{A_POOLER} ({message})")
    if _LOGIN.search(message) or (error.pgconn is not None and error.pgconn.needs_password):
        return StoreLoginRefused(message)
    return None


_POOLER = re.compile(r"unsupported startup parameter|unsupported pkt type|pgbouncer cannot connect")

_LOGIN = re.compile(
    r"authentication failed for user"  # 28P01, 28000
    r"|no password supplied"  # libpq itself
    r'|role ".*" (does not exist|is not permitted to log in)'  # 28000
    r"|no pg_hba\.conf entry|pg_hba\.conf rejects"  # 28000
    r'|database ".*" does not exist'  # 3D000
    r"|permission denied for database"  # 42501
    r"|no such (user|database)|SASL authentication failed"  # poolers
    r"|authentication method requirement|channel binding (is )?required"
    # TLS and its files; not "SSL SYSCALL error" and the like, which a stopping server causes
    r"|does not support SSL|certificate verify failed|does not match host name|SSL error: .*alert"
    r"|SSL error: wrong version|certificate|private key file|weak sslmode|root certificates?"
    r"|invalid (sslmode|sslnegotiation|gssencmode|target_session_attrs|port|integer) "
    r"|definition of service|service file"
)
"""What a refused login says: libpq does not hand over the SQLSTATE of a failed connection. A server
that speaks another language than English is an outage then, with its own words."""
