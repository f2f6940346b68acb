"""Brings a database's schema to what this relay requires, and says whether it is there.

``sql/migrations`` is authoritative for tables: numbered files, forward only, each applied once and
never edited afterwards (their checksums are kept in the table ``migration``). ``sql/functions`` and
``sql/views`` are replaced, all together, whenever their text or the schema's name differs from what
was recorded; a change of theirs on which the relay itself relies comes with a numbered migration,
so that an older relay stands aside.

    functions (tables name them) ──► migrations ──► views ──► triggers, where missing ──► roles

Functions find tables only when they are called. Views are replaced after any migration as well: one
that changes a column drops the views that show it.

One run is one transaction under an advisory lock: whatever goes wrong, nothing has changed, and
any number of processes may run it at once. It waits for a table at most ``LOCK_TIMEOUT_MS`` at a
time, because producers queue behind a waiting migration, and tries again: see ``patience``.

``verify`` says whether a term may begin; ``sql/queries/verify_rights.sql`` and ``verify_facts.sql``
hold what it requires, for ``doctor`` as well.
"""

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import psycopg
from psycopg import errors

from relay.errors import SchemaError
from relay.postgres import patience
from relay.postgres.session import Connection, Session
from relay.postgres.sqlfiles import MIGRATION_CLASS, compose, load, names, text

LOCK_TIMEOUT_MS: Final = 90
"""How long producers may queue behind one attempt."""

REPLACED: Final = 0
"""The version under which the common checksum of functions and views is recorded."""

BEFORE_RELEASE: Final = "0001_migration"
"""The first migration's name in schemas that no release has made."""

RIGHTS: Final = "queries/verify_rights"  # what a term requires: each row is what is not so
FACTS: Final = "queries/verify_facts"  # the same, asked after it

_SETTINGS: Final = f"""\
set local search_path = pg_catalog, pg_temp;
set local client_min_messages = notice;
set local statement_timeout = 0;
set local lock_timeout = {LOCK_TIMEOUT_MS};
"""
_LOCK: Final = f"select pg_advisory_xact_lock({MIGRATION_CLASS}, hashtext(:'schema'));\n"
_CREATE: Final = 'create schema if not exists :"schema";\n'
_EXISTS: Final = "select exists (select from pg_namespace as n where n.nspname = :'schema')"
_HAS_LEDGER: Final = "select to_regclass(format('%I.migration', :'schema')) is not null"
_LEDGER: Final = 'select version, name, checksum from :"schema".migration order by version'
_RECORD: Final = """\
insert into :"schema".migration (version, name, checksum) values ({}, '{}', '{}')
on conflict (version) do update
   set name = excluded.name, checksum = excluded.checksum, applied_at = excluded.applied_at;
"""
_OUTDATED: Final = """\
schema "{0}" was made before the first release of the relay, and can't be brought up to date: let \
the relay that made it deliver what waits, rename it (alter schema "{0}" rename to "{0}_old"), and \
migrate again"""
_WHO: Final = "migrate as a login that owns the schema, or may create it in this database"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Step:
    """Something to apply: a numbered migration, or (version 0) all functions and views.

    Attributes:
        version: the order.
        name: e.g. ``0001_outbox``.
        checksum: SHA-256 of the files' text, in hex.
    """

    version: int
    name: str
    checksum: str

    @property
    def record(self) -> str:
        """The statement that records the step as applied."""
        return _RECORD.format(self.version, self.name, self.checksum)


def all_steps(schema: str) -> list[Step]:
    """Return every step of this relay, in the order of applying."""
    replaced = [*names("functions"), *names("views")]
    return [
        # emit and others hold the schema's name: after a rename they are replaced
        Step(REPLACED, "functions and views", _digest(*map(text, replaced), schema)),
        *(
            Step(int(name[:4]), name, _digest(text(f"migrations/{name}")))
            for name in (file.removeprefix("migrations/") for file in names("migrations"))
        ),
    ]


def pending(
    steps: Sequence[Step], applied: Mapping[int, tuple[str, str]], schema: str
) -> list[Step]:
    """Return the steps that a schema lacks, given its name and checksum by applied version.

    Raises:
        SchemaError: an applied migration has another text here, or is not known here.
    """
    if applied.get(1, ("",))[0] == BEFORE_RELEASE:
        raise SchemaError(_OUTDATED.format(schema))
    here = {step.version: step for step in steps}
    for version, (name, checksum) in sorted(applied.items()):
        if version not in here:
            raise SchemaError(
                f"the schema is newer than this relay: it has migration {name}, the last one known "
                f"here is {max(here):04}; install the release that applied it, or a later one"
            )
        if version != REPLACED and checksum != here[version].checksum:
            raise SchemaError(
                f"migration {here[version].name} is not the one that was applied here as {name} "
                f"(checksum {here[version].checksum[:12]}, applied {checksum[:12]}): applied "
                "migrations are never edited; install an unchanged release of the relay"
            )
    return [step for step in steps if applied.get(step.version, ("", ""))[1] != step.checksum]


def script(schema: str) -> str:
    """Return the SQL that makes the whole schema in a database without one; psql can run it."""
    files = [*names("functions"), *names("migrations"), *names("views"), *names("triggers")]
    records = [step.record for step in all_steps(schema)]
    parts = [_LOCK + _CREATE, *map(text, files), *records, text("roles")]
    return "\n".join(
        [
            "set search_path = pg_catalog, pg_temp;",
            "-- The whole outbox, for a database that has none. One transaction: all or nothing.",
            "begin;",
            *(_SETTINGS + compose(part, schema).as_string() for part in parts),
            "commit;\n",
        ]
    )


async def migrate(
    dsn: str,
    schema: str,
    *,
    notify: bool | None = None,
    roles: bool = True,
    say: Callable[[str], None] = _log.warning,
) -> list[str]:
    """Bring ``schema`` up to date; return what was done, a line each; nothing if it was so already.

    Args:
        dsn: libpq connection string of a login that owns the schema or may create it.
        schema: its name, unquoted.
        notify: whether writers ring the bell; None leaves it as it is, on in a new schema.
        roles: whether the roles are made, which the whole cluster sees.
        say: takes what a person should know, one line each, e.g. that the roles were left out.

    Raises:
        SchemaError: the schema is newer than this relay or was changed, or this login may not.
        StoreOutage: the database is away, or stayed locked.
    """
    async with await Session.connect(dsn, "migrate") as session:
        run = _Run(session, schema, roles=roles)
        session.connection.add_notice_handler(run.note)
        await patience.patiently(session, partial(run.attempt, notify), f'schema "{schema}"', _WHO)
    for line in run.notices:
        say(line)
    return run.done


async def check(dsn: str, schema: str) -> None:
    """Change nothing; return if ``schema`` is exactly what this relay would make of it.

    Raises:
        SchemaError: it is missing, changed, newer, or something is not applied; with the remedy.
        StoreOutage: the database is away.
    """
    async with await Session.connect(dsn, "migrate") as session:
        _refuse(await missing(session, schema), schema)


async def up_to_date(session: Session, schema: str) -> None:
    """Return if ``schema`` has every migration, by one query. For those who lead no term.

    Raises as ``check``.
    """
    lacking = await missing(session, schema)
    _refuse([step for step in lacking if step.version != REPLACED], schema)


async def verify(connection: Connection, schema: str) -> None:
    """Return if a term may begin, by three queries; log what is not right but harmless.

    Raises:
        SchemaError: as ``check``; or this login lacks a right, rows would be hidden from it, or
            the outbox is not what the promises rest on; every fault with its remedy.
        StoreOutage: the connection is gone, or does not answer.
    """
    session = Session(connection)
    await up_to_date(session, schema)
    for query in (RIGHTS, FACTS):
        faults = await session.rows(load(query, schema))
        fatal = [f"{seen}: {remedy}" for is_fatal, _, seen, remedy in faults if is_fatal]
        if fatal:
            raise SchemaError("; ".join(fatal))
        for _, _, seen, remedy in faults:
            _log.warning("%s: %s", seen, remedy)


class _Run:
    """One run of ``migrate``.

    ``done`` says what was done, ``notices`` what a person should know, a line each.
    """

    def __init__(self, session: Session, schema: str, *, roles: bool) -> None:
        self._session = session
        self._schema = schema
        self._beside = [*names("triggers"), *(["roles"] if roles else [])]
        self.done: list[str] = []
        self.notices: list[str] = []

    async def attempt(self, notify: bool | None) -> None:
        """Apply everything in one transaction."""
        self.done.clear()
        self.notices.clear()
        async with self._session.connection.transaction():
            await self._run(
                _SETTINGS + f"set local lock_timeout = {int(patience.PATIENCE)}000;\n" + _LOCK
            )
            if not await self._ask(_EXISTS):  # an existing one asks for a right, too
                await self._run(_CREATE)
            await self._apply()
            for file in self._beside:
                await self._file(file)
            await self._switch(notify)

    def note(self, notice: errors.Diagnostic) -> None:
        """Keep a notice of our files: with a hint it is for a person, without it was done."""
        parts = (notice.message_primary, notice.message_hint)
        line = "; ".join(part for part in parts if part)
        (self.notices if notice.message_hint else self.done).append(line)

    async def _apply(self) -> None:
        """Apply and record the steps that are missing."""
        if await self._ask(_HAS_LEDGER):
            steps = await missing(self._session, self._schema)
        else:
            steps = all_steps(self._schema)
        if any(step.version == REPLACED for step in steps):
            for file in names("functions"):
                await self._file(file)
        for step in steps:
            if step.version != REPLACED:
                await self._file(f"migrations/{step.name}")
        for file in names("views") if steps else ():
            await self._view(file)
        for step in steps:
            await self._run(step.record)
            self.done.append(f"applied {step.name}")

    async def _view(self, file: str) -> None:
        """Replace a view; one whose columns have changed is dropped first."""
        try:
            async with self._session.connection.transaction():
                await self._file(file)
        except errors.InvalidTableDefinition:
            await self._run(f'drop view :"schema".{file.removeprefix("views/")};')
            await self._file(file)

    async def _switch(self, notify: bool | None) -> None:
        """Let writers ring, or keep silent. Asked first: the switch locks out writers."""
        if notify is None or await self._ask(text("queries/trigger_state")) is notify:
            return
        await self._file("queries/trigger_on" if notify else "queries/trigger_off")
        self.done.append(
            "switched the bell on: writers notify a relay that sleeps"
            if notify
            else "switched the bell off: writers do not notify, the relay polls"
        )

    async def _file(self, file: str) -> None:
        await self._run(_SETTINGS)  # each file finds the same, whatever the one before has set
        await self._run(text(file))

    async def _run(self, statement: str) -> psycopg.AsyncCursor[Any]:
        query = compose(statement, self._schema)
        return await self._session.connection.execute(query, prepare=False)

    async def _ask(self, question: str) -> bool | None:
        row = await (await self._run(question)).fetchone()
        return None if row is None else row[0]


async def missing(session: Session, schema: str) -> list[Step]:
    """Return the steps that the schema lacks, by one query. Raises as ``check``."""
    rows = await session.rows(compose(_LEDGER, schema))
    applied = {version: (name, checksum) for version, name, checksum in rows}
    return pending(all_steps(schema), applied, schema)


def _refuse(lacking: Sequence[Step], schema: str) -> None:
    if lacking:
        what = ", ".join(step.name for step in lacking)
        raise SchemaError(
            f'schema "{schema}" lacks {what}: run `python -m relay migrate` of this release'
        )


def _digest(*texts: str) -> str:
    return hashlib.sha256("".join(texts).encode()).hexdigest()
