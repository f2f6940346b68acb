"""How a session comes about, and why it does not: one try, told as the checks that it passes.

    dsn ──► postgres ──► tls ──► pooler ──► login ──► primary ──► a session

What decides is ``relay.postgres.connecting``, which the relay itself connects by. libpq gives no
code for a failed connection, so its words say which of these checks has failed; all before it have
passed, and all behind it are skipped.
"""

import os
import re
from typing import Any, Final

import anyio
import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from relay.doctor.report import Seen, fault, ok, warning
from relay.errors import RelayError, SettingsError, StoreOutage
from relay.jetstream.servers import is_loopback
from relay.postgres.connecting import in_words
from relay.postgres.session import Session
from relay.postgres.sqlfiles import load

CONNECT_WITHIN: Final = 6.5
"""Seconds for all hosts of the connection string; an own connect_timeout of it may be longer."""

_LOCK_TIMEOUT: Final = {"lock_timeout": "1s"}

STAGES: Final = (
    (
        "dsn",
        (
            r"invalid (port|integer|sslmode|sslnegotiation|gssencmode|target_session_attrs"
            r"|connection)|definition of service|service file|can't be used"
        ),
        "mend RELAY_POSTGRES_DSN: see libpq's connection keywords",
    ),
    (
        "pooler",
        r"connection pooler|unsupported startup parameter|unsupported pkt type|pgbouncer",
        "let RELAY_POSTGRES_DSN name Postgres itself: the lease needs a session of its own",
    ),
    ("primary", r"is read-only|hot standby|during recovery", ""),
    (
        "login",
        r"password authentication failed",
        "alter role {user} password '…', or mend RELAY_POSTGRES_DSN or _PASSWORD, or its _FILE",
    ),
    (
        "login",
        r"no password (supplied|can be read)",
        "give one: in RELAY_POSTGRES_PASSWORD_FILE, RELAY_POSTGRES_DSN_FILE or PGPASSFILE",
    ),
    (
        "login",
        r'role ".*" does not exist',
        "create role {user} login password '…'; grant {schema}_relay to {user}",
    ),
    ("login", r"not permitted to log in", "alter role {user} login"),
    (
        "login",
        r'database ".*" does not exist',
        "name the right dbname in RELAY_POSTGRES_DSN, or: create database {dbname}",
    ),
    (
        "login",
        r"too many connections for (role|database)",
        "alter role {user} connection limit -1, or the same of the database",
    ),
    (
        "login",
        r"permission denied for database",
        "grant connect on database {dbname} to {user}",
    ),
    (
        "login",
        r"pg_hba\.conf",
        (
            "add a line for this host, database and login to pg_hba.conf, and: select"
            " pg_reload_conf(); if it has hostssl lines alone, set sslmode=verify-full"
        ),
    ),
    (
        "tls",
        r"certificate|\bSSL\b|sslmode|channel binding|private key file",
        "mend sslmode, sslrootcert, sslcert, sslkey in RELAY_POSTGRES_DSN, or the server's own",
    ),
    (
        "login",
        r"authentication|no such (user|database)",
        "mend user, password and dbname in RELAY_POSTGRES_DSN",
    ),
    (
        "postgres",
        r"too many clients|remaining connection slots",
        "end sessions that are not needed, or raise max_connections",
    ),
    (
        "postgres",
        r"starting up|not yet accepting|shutting down|recovery",
        "wait until it has started; its log says what it does",
    ),
    (
        "postgres",
        r"could not translate host name|[Nn]ame or service not known|resolve|getaddrinfo",
        "mend the host in RELAY_POSTGRES_DSN, or the name service",
    ),
    (
        "postgres",
        r"refused|No such file",
        "start Postgres there, or mend host and port in RELAY_POSTGRES_DSN",
    ),
    (
        "postgres",
        r"",
        "look whether Postgres runs at this host and port, is frozen, or is cut off by a firewall",
    ),
)
"""Of the words that fit, the first: the check that has failed, and the remedy."""


class Connecting:
    """One try to open a session as the relay does."""

    def __init__(self, dsn: str, schema: str) -> None:
        """Connect to nothing yet; ``dsn`` is as libpq takes it."""
        self.session: Session | None = None
        self._dsn = dsn
        self._schema = schema
        self._given: dict[str, Any] = {}
        self._failed = ""
        self._why = ok("")

    async def dsn(self) -> list[Seen]:
        """Read the connection string, and try."""
        try:
            self._given = dict(conninfo_to_dict(self._dsn))
        except psycopg.ProgrammingError:  # its text can quote the password
            return [fault("it is no connection string of libpq's", STAGES[0][2])]
        try:
            with anyio.fail_after(CONNECT_WITHIN):
                self.session = await Session.connect(self._dsn, "doctor", options=_LOCK_TIMEOUT)
        except TimeoutError:
            await self._fail(f"no answer within {CONNECT_WITHIN:g} s")
        except (StoreOutage, SettingsError) as error:
            await self._fail(str(error))
        except psycopg.Error as error:
            await self._fail(in_words(error))
        return self.passed("dsn", f"{self._where}, database {self._name('dbname')}, {self._login}")

    async def postgres(self) -> list[Seen]:
        """Say whether it answers."""
        return self.passed("postgres", "answers")

    async def tls(self) -> list[Seen]:
        """Say whether the connection is encrypted, and the server's name checked."""
        if self.session is None:
            return self.passed("tls", "not refused")
        mode = str(self._given.get("sslmode") or os.environ.get("PGSSLMODE") or "prefer")
        if self._is_local:
            return [ok("not needed: the server is on this host")]
        if not self.session.connection.pgconn.ssl_in_use:
            seen = f"what is sent to {self._where} is not encrypted (sslmode={mode})"
            remedy = "set sslmode=verify-full and sslrootcert in RELAY_POSTGRES_DSN"
            return [warning(seen, remedy)]
        if mode != "verify-full":
            seen = f"encrypted, but nobody checks who answers (sslmode={mode})"
            return [warning(seen, "set sslmode=verify-full and sslrootcert in RELAY_POSTGRES_DSN")]
        return [ok("encrypted, and the server's name is checked (sslmode=verify-full)")]

    async def pooler(self) -> list[Seen]:
        """Say whether a connection pooler is in between."""
        return self.passed("pooler", "none is in between" if self.session else "no sign of one")

    async def login(self) -> list[Seen]:
        """Say whether the login is let in."""
        return self.passed("login", f"{self._login} is let in")

    async def primary(self) -> list[Seen]:
        """Say whether the server takes writes."""
        return self.passed("primary", "it takes writes")

    def passed(self, stage: str, seen: str) -> list[Seen]:
        """Return why ``stage`` has failed, or that it has not."""
        return [self._why] if stage == self._failed else [ok(seen)]

    async def _fail(self, why: str) -> None:
        stage, _, remedy = next(each for each in STAGES if re.search(each[1], why))
        if stage == "primary":
            why, remedy = await self._follow_the_standby(why)
        names = {name: self._quoted(name) for name in ("user", "dbname")}
        self._failed = stage
        self._why = fault(why, remedy.format(schema=self._schema, **names))

    async def _follow_the_standby(self, why: str) -> tuple[str, str]:
        """Ask the standby whom it follows; the reason and the remedy."""
        remedy = "let RELAY_POSTGRES_DSN name the primary, or all hosts with commas between"
        anywhere = make_conninfo(self._dsn, target_session_attrs="any")
        try:
            with anyio.fail_after(1):
                async with await Session.connect(anywhere, "doctor") as session:
                    row = await session.row(load("queries/doctor_standby", self._schema))
        except (TimeoutError, RelayError, psycopg.Error):
            return why, remedy
        recovering, host, port = row or (False, None, None)
        if not recovering:
            return why, remedy
        of = f" of {host}:{port}" if host else ""
        return f"{self._where} is a standby{of}, and takes no writes", remedy

    @property
    def _where(self) -> str:
        host = self._given.get("host") or self._given.get("hostaddr") or os.environ.get("PGHOST")
        port = self._given.get("port") or os.environ.get("PGPORT") or 5432
        return f"host {host or '(local socket)'} port {port}"

    @property
    def _login(self) -> str:
        return f"login {self._name('user')}"

    @property
    def _is_local(self) -> bool:
        host = "" if self.session is None else self.session.connection.info.host
        return not host or host.startswith("/") or is_loopback(host)

    def _name(self, keyword: str) -> str:
        if self.session is not None:
            info = self.session.connection.info
            return info.user if keyword == "user" else info.dbname
        variable = {"user": "PGUSER", "dbname": "PGDATABASE"}[keyword]
        return str(self._given.get(keyword) or os.environ.get(variable) or "(default)")

    def _quoted(self, keyword: str) -> str:
        return sql.Identifier(self._name(keyword)).as_string()
