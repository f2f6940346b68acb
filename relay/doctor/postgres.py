"""The checks of Postgres: the server, the schema, and what the relay needs there.

Authoritative: ``sql/queries/verify_rights.sql`` and ``verify_facts.sql``, by which a term of the
relay is refused as well; ``relay.postgres.migrations`` for the schema's version. What is checked
beyond them can't stop a relay. How events fare: ``outbox``.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import anyio

from relay.core.durations import lasting
from relay.doctor.connecting import Connecting
from relay.doctor.report import Check, Seen, fault, ok, warning
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

SET: Final = "alter system set {} = on"
MIGRATE: Final = "python -m relay migrate"


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

    async def version(self) -> list[Seen]:
        """Compare the version with those that are tested."""
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

    async def clock(self) -> list[Seen]:
        """Compare the server's clock with this host's."""
        apart = (self.server["now"] - self.server["asked"]).total_seconds()
        return [clocks_apart("Postgres", apart)]

    async def role(self) -> list[Seen]:
        """Warn of more rights than the relay needs."""
        login = self.server["login"]
        if self.server["superuser"]:
            seen = f"{login} is a superuser: whoever gets hold of the relay has the whole cluster"
            remedy = f"give the relay a login of its own, and: grant {self.schema}_relay to it"
            return [warning(seen, remedy)]
        return [ok(f"{login} is no superuser")]

    async def sessions(self) -> list[Seen]:
        """Count the sessions that can still be opened."""
        left, limit = self.server["slots_left"], self.server["slots_of"]
        if left < SESSIONS:
            seen = f"{max(left, 0)} sessions are left by {limit}; a relay that leads has {SESSIONS}"
            return [warning(seen, f"raise {limit}, or end sessions that are not needed")]
        return [ok(f"{left} are left by {limit}")]

    async def durability(self) -> list[Seen]:
        """Warn of settings by which a crash loses what was committed."""
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

    async def schema_is_there(self) -> list[Seen]:
        """Look for the schema, by the catalogs alone."""
        (row,) = await self.rows("doctor_schema")
        where = f'database "{row["database"]}"'
        if not row["present"]:
            seen = f'there is no schema "{self.schema}" in {where}'
            return [fault(seen, f"{MIGRATE}, or mend RELAY_SCHEMA or the dbname")]
        if not row["ledger"]:
            seen = f'schema "{self.schema}" of {where} holds no outbox'
            return [fault(seen, f"{MIGRATE}, or mend RELAY_SCHEMA or the dbname")]
        return [ok(f'schema "{self.schema}" of {where}')]

    async def grants(self) -> list[Seen]:
        """Name each right that a term needs and this login lacks."""
        fine = f"{self.server['login']} has every right that a term needs"
        return await self.verified(migrations.RIGHTS, "grants", fine)

    async def rls(self) -> list[Seen]:
        """Look for row-level security that hides rows."""
        return await self.verified(migrations.RIGHTS, "rls", "row-level security hides no row")

    async def locks(self) -> list[Seen]:
        """Name who locks the tables against the relay."""
        found = []
        for row in await self.rows("doctor_locks"):
            if row["age"] is not None and row["age"] < 1:
                continue  # a migration, or a decision on dead events, under way
            age = "" if row["age"] is None else f" for {lasting(row['age'])}"
            who = f"pid {row['pid']}, login {row['login']}, application {row['application']!r}"
            remedy = f"end its transaction: select pg_terminate_backend({row['pid']})"
            if row["pid"] is None:
                who = "a prepared transaction"
                remedy = "see pg_prepared_xacts: rollback prepared '…', or commit prepared '…'"
            seen = f"{who} holds {row['relation']} in {row['mode']}{age}"
            found.append(fault(seen, remedy))
        return found or [ok("nobody locks a table of the outbox against the relay")]

    async def migrations(self) -> list[Seen]:
        """Compare the schema with this release."""
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

    async def tables(self) -> list[Seen]:
        """Look whether every table is there."""
        return await self.verified(migrations.RIGHTS, "tables", "every table is there")

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


def _facts(topic: str, fine: str) -> Any:
    async def run(database: Database) -> Sequence[Seen]:
        return await database.facts(topic, fine)

    return run


CHECKS: Final[tuple[Check[Database], ...]] = (
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
    Check("version", "PostgreSQL's version", Database.version, ("primary",)),
    Check("clock", "Postgres's clock and this host's", Database.clock, ("version",)),
    Check("role", "more rights than needed", Database.role, ("version",)),
    Check("sessions", "how many can still be opened", Database.sessions, ("version",)),
    Check(
        "durability",
        "`fsync`, `full_page_writes`, `synchronous_commit`",
        Database.durability,
        ("version",),
    ),
    Check("schema", "whether it is there", Database.schema_is_there, ("version",)),
    Check("grants", "each right that a term needs", Database.grants, ("schema",)),
    Check("rls", "whether row-level security hides rows", Database.rls, ("schema",)),
    Check("locks", "who locks a table against the relay", Database.locks, ("schema",)),
    Check("migrations", "the schema's version", Database.migrations, ("schema", "locks")),
    Check("tables", "whether every table is there", Database.tables, ("migrations",)),
    Check(
        "outbox",
        "one logged table with its cursor",
        _facts("tables", "one logged table, with its cursor"),
        ("grants", "tables"),
    ),
    Check(
        "sequence",
        "whether ids ascend one by one",
        _facts("sequence", "ids ascend one by one"),
        ("grants", "tables"),
    ),
    Check(
        "subscription",
        "whether another cluster's rows come in",
        _facts("subscription", "the outbox is the target of none"),
        ("grants", "tables"),
    ),
    Check(
        "functions",
        "whether they look for this schema",
        _facts("functions", "they look for this schema"),
        ("grants", "tables"),
    ),
)
