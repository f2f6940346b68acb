"""The checks of Postgres: the server, the schema, and what the relay needs there.

Authoritative: ``sql/queries/verify_rights.sql`` and ``verify_facts.sql``, by which a term of the
relay is refused as well; ``relay.postgres.migrations`` for the schema's version. What is checked
beyond them can't stop a relay. How events fare: ``outbox``.
"""

from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import anyio

from relay.core.durations import lasting
from relay.doctor.connecting import Connecting
from relay.doctor.report import Check, Seen, check, fault, ok, warning
from relay.errors import SchemaError, StoreOutage
from relay.postgres import migrations
from relay.postgres.session import Session
from relay.postgres.sqlfiles import load
from relay.settings import Settings

OLDEST, NEWEST = 15, 18
"""Major versions that the relay is tested with."""

SESSIONS: Final = 5
"""What a leader has: term, reader, listener, two of the pool."""

CLOCKS_APART: Final = 1.0
"""Seconds by which two clocks may differ."""

BRIEF_LOCK: Final = 1.0
"""Seconds that a lock may last: a migration, or a decision on dead events, is under way."""

SET: Final = "alter system set {} = on"
MIGRATE: Final = "python -m relay migrate"


CHECKS: Final[list[Check[Any]]] = [
    Check(
        "dsn",
        "whether libpq can read the connection string, and whom it names",
        lambda each: each.connecting.dsn(),
        deadline=8.0,
    ),
    Check("postgres", "whether it answers", lambda each: each.connecting.postgres(), ("dsn",)),
    Check(
        "tls",
        "whether the connection is encrypted, and the server's name checked",
        lambda each: each.connecting.tls(),
        ("postgres",),
    ),
    Check("pooler", "whether one is in between", lambda each: each.connecting.pooler(), ("tls",)),
    Check("login", "whether it is let in", lambda each: each.connecting.login(), ("pooler",)),
    Check(
        "primary",
        "whether the server takes writes, and whom a standby follows",
        lambda each: each.connecting.primary(),
        ("login",),
    ),
]
_check = partial(check, CHECKS)


class Database:
    """The database, and what was learnt of it so far.

    Attributes:
        connecting: the one try to connect.
        server: the row of ``doctor_server``, and when it was ``asked``.
        newest_subjects: those of the newest events; None before they are known.
        looked: set once ``newest_subjects`` is known, or will never be.
    """

    def __init__(self, settings: Settings) -> None:
        """Connect to nothing yet."""
        self.settings = settings
        self.schema = settings.schema_name
        self.connecting = Connecting(settings.conninfo, self.schema)
        self.newest_subjects: list[str] | None = None
        self.looked = anyio.Event()
        self.server: dict[str, Any] = {}
        self._verified: dict[str, list[tuple[str, Seen]]] = {}

    @property
    def session(self) -> Session:
        """The session.

        Raises:
            StoreOutage: there is none.
        """
        if self.connecting.session is None:
            raise StoreOutage("there is no session")
        return self.connecting.session

    def close(self) -> None:
        """Let go of the session, and of those who wait for the subjects."""
        self.looked.set()
        if self.connecting.session is not None:
            self.connecting.session.drop()

    async def rows(self, name: str, **params: Any) -> list[dict[str, Any]]:
        """Return the rows of a query of ours by column."""
        cursor = await self.session.execute(load(f"queries/{name}", self.schema), params or None)
        columns = [column.name for column in cursor.description or ()]
        return [dict(zip(columns, row, strict=True)) for row in await cursor.fetchall()]

    async def verified(self, query: str, topic: str, fine: str) -> list[Seen]:
        """Return what ``query`` of the relay's own start finds of ``topic``, or ``fine``."""
        if query not in self._verified:
            rows = await self.session.rows(load(query, self.schema))
            self._verified[query] = [
                (about, (fault if fatal else warning)(seen, remedy))
                for fatal, about, seen, remedy in rows
            ]
        return [seen for about, seen in self._verified[query] if about == topic] or [ok(fine)]

    # The server.

    @_check("version", "PostgreSQL's version", "primary")
    async def _version(self) -> list[Seen]:
        asked = datetime.now(UTC)
        (self.server,) = await self.rows("doctor_server")
        self.server["asked"] = asked + (datetime.now(UTC) - asked) / 2
        major, minor = divmod(self.server["version"], 10_000)
        if major < OLDEST:
            return [
                fault(f"PostgreSQL {major}.{minor}", f"upgrade to PostgreSQL {OLDEST} or later")
            ]
        if major > NEWEST:
            seen = f"PostgreSQL {major}.{minor}: this relay is tested up to {NEWEST}"
            return [warning(seen, "look for a later release of the relay")]
        return [ok(f"PostgreSQL {major}.{minor}")]

    @_check("clock", "Postgres's clock and this host's", "version")
    async def _clock(self) -> list[Seen]:
        apart = (self.server["now"] - self.server["asked"]).total_seconds()
        return [clocks_apart("Postgres", apart)]

    @_check("role", "more rights than needed", "version")
    async def _role(self) -> list[Seen]:
        login = self.server["login"]
        if self.server["superuser"]:
            seen = f"{login} is a superuser: whoever gets hold of the relay has the whole cluster"
            remedy = f"give the relay a login of its own, and: grant {self.schema}_relay to it"
            return [warning(seen, remedy)]
        return [ok(f"{login} is no superuser")]

    @_check("sessions", "how many can still be opened", "version")
    async def _sessions(self) -> list[Seen]:
        left, limit = self.server["slots_left"], self.server["slots_of"]
        if left < SESSIONS:
            seen = f"{max(left, 0)} sessions are left by {limit}; a relay that leads has {SESSIONS}"
            return [warning(seen, f"raise {limit}, or end sessions that are not needed")]
        return [ok(f"{left} are left by {limit}")]

    @_check("durability", "`fsync`, `full_page_writes`, `synchronous_commit`", "version")
    async def _durability(self) -> list[Seen]:
        return [
            warning(f"{name} is off: {risk}", f"{SET.format(name)}; select pg_reload_conf()")
            for name, risk in (
                ("fsync", "a crash of the host loses or breaks committed events"),
                ("full_page_writes", "a crash of the host can break the tables"),
                ("synchronous_commit", "a crash can lose commits whose events are published"),
            )
            if not self.server[name]
        ] or [ok("fsync, full_page_writes and synchronous_commit are on")]

    # The schema.

    @_check("schema", "whether it is there", "version")
    async def _schema_is_there(self) -> list[Seen]:
        (row,) = await self.rows("doctor_schema")
        where = f'database "{row["database"]}"'
        if not row["present"]:
            seen = f'there is no schema "{self.schema}" in {where}'
            return [fault(seen, f"{MIGRATE}, or mend RELAY_SCHEMA or the dbname")]
        if not row["ledger"]:
            seen = f'schema "{self.schema}" of {where} holds no outbox'
            return [fault(seen, f"{MIGRATE}, or mend RELAY_SCHEMA or the dbname")]
        return [ok(f'schema "{self.schema}" of {where}')]

    @_check("grants", "each right that a term needs", "schema")
    async def _grants(self) -> list[Seen]:
        fine = f"{self.server['login']} has every right that a term needs"
        return await self.verified(migrations.RIGHTS, "grants", fine)

    @_check("rls", "whether row-level security hides rows", "schema")
    async def _rls(self) -> list[Seen]:
        return await self.verified(migrations.RIGHTS, "rls", "row-level security hides no row")

    @_check("locks", "who locks a table against the relay", "schema")
    async def _locks(self) -> list[Seen]:
        found = []
        for row in await self.rows("doctor_locks"):
            if row["age"] is not None and row["age"] < BRIEF_LOCK:
                continue
            age = "" if row["age"] is None else f" for {lasting(row['age'])}"
            who = f"pid {row['pid']}, login {row['login']}, application {row['application']!r}"
            remedy = f"end its transaction: select pg_terminate_backend({row['pid']})"
            if row["pid"] is None:
                who = "a prepared transaction"
                remedy = "see pg_prepared_xacts: rollback prepared '…', or commit prepared '…'"
            seen = f"{who} holds {row['relation']} in {row['mode']}{age}"
            found.append(fault(seen, remedy))
        return found or [ok("nobody locks a table of the outbox against the relay")]

    @_check("migrations", "the schema's version", "schema", "locks")
    async def _migrations(self) -> list[Seen]:
        try:
            lacking = await migrations.missing(self.session, self.schema)
        except SchemaError as error:
            if error.__cause__ is not None:
                raise  # by Postgres: a missing right
            text = str(error)
            seen, _, remedy = text.rpartition("; " if "; " in text else ": ")
            return [fault(seen, remedy)]
        names = ", ".join(step.name for step in lacking)
        if [step for step in lacking if step.version != migrations.REPLACED]:
            return [fault(f"the schema lacks {names}", MIGRATE)]
        if lacking:
            return [warning(f"{names} are not those of this release", MIGRATE)]
        return [ok("as this release makes it")]

    @_check("tables", "whether every table is there", "migrations")
    async def _tables(self) -> list[Seen]:
        return await self.verified(migrations.RIGHTS, "tables", "every table is there")

    @_check("outbox", "one logged table with its cursor", "grants", "tables")
    async def _outbox(self) -> list[Seen]:
        return await self.facts("tables", "one logged table, with its cursor")

    @_check("sequence", "whether ids ascend one by one", "grants", "tables")
    async def _sequence(self) -> list[Seen]:
        return await self.facts("sequence", "ids ascend one by one")

    @_check("subscription", "whether another cluster's rows come in", "grants", "tables")
    async def _subscription(self) -> list[Seen]:
        return await self.facts("subscription", "the outbox is the target of none")

    @_check("functions", "whether they look for this schema", "grants", "tables")
    async def _functions(self) -> list[Seen]:
        return await self.facts("functions", "they look for this schema")

    async def facts(self, topic: str, fine: str) -> list[Seen]:
        """Return what a relay would refuse at its start."""
        return await self.verified(migrations.FACTS, topic, fine)


def clocks_apart(whose: str, apart: float) -> Seen:
    """Judge by how many s the clock of ``whose`` server is ahead of this host's."""
    if abs(apart) > CLOCKS_APART:
        way = "ahead of" if apart > 0 else "behind"
        seen = f"the clock of {whose} is {lasting(abs(apart))} {way} this host's"
        return warning(seen, "set both by NTP: lag, ages and certificates are wrong meanwhile")
    return ok(f"within {lasting(CLOCKS_APART)} of this host's")
