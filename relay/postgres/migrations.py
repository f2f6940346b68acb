"""Brings a database's schema to what this relay knows, and tells whether it is there.

``sql/migrations`` is authoritative for tables, triggers and views: numbered files, forward only,
each applied once and never edited afterwards (their checksums are kept). ``sql/functions`` are
replaced, all together and before any migration (triggers name them, and they find tables only when
called), whenever their text differs from the recorded one; a change of theirs on which the relay
itself relies comes with a numbered migration, so that an older relay stands aside.
``sql/roles.sql`` runs every time, at the end.

One run is one transaction under an advisory lock: whatever goes wrong, nothing has changed, and
any number of processes may run it at once. It waits for a table at most ``LOCK_TIMEOUT_MS`` at a
time, because producers queue behind a waiting migration, and tries again for up to ``PATIENCE`` s.
"""

import hashlib
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import anyio
import psycopg
from psycopg import errors

from relay.errors import SchemaError, StoreOutage
from relay.postgres.locks import MIGRATION_CLASS
from relay.postgres.session import Session, translated
from relay.postgres.sqlfiles import compose, names, text

LOCK_TIMEOUT_MS = 500
"""How long producers may queue behind one attempt."""

PATIENCE = 60.0
"""Seconds for which a run that can't get its locks tries again."""

DEADLINE = 600.0
"""Seconds after which a server that does not answer is given up."""

FUNCTIONS = 0
"""The version under which the functions' common checksum is recorded."""

_SETTINGS = f"""\
set local search_path = pg_catalog, pg_temp;
set local client_min_messages = notice;
set local statement_timeout = 0;
set local lock_timeout = {LOCK_TIMEOUT_MS};
"""
_LOCK = f"select pg_advisory_xact_lock({MIGRATION_CLASS}, hashtext(:'schema'));\n"
_EXISTS = "select exists (select from pg_namespace as n where n.nspname = :'schema')"
_CREATE = 'create schema if not exists :"schema";\n'
_HAS_LEDGER = "select to_regclass(format('%I.migration', :'schema')) is not null"
_LEDGER = 'select version, name, checksum from :"schema".migration order by version'
_RECORD = """\
insert into :"schema".migration (version, name, checksum) values ({}, '{}', '{}')
on conflict (version) do update
   set checksum = excluded.checksum, applied_at = excluded.applied_at;
"""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Step:
    """Something to apply: a numbered migration, or (version 0) all functions.

    Attributes:
        version: the order.
        name: what people see, e.g. ``0002_outbox``.
        files: names as ``sqlfiles.load`` takes them, in order.
        checksum: SHA-256 of the files' text, in hex.
    """

    version: int
    name: str
    files: Sequence[str]
    checksum: str


def known() -> list[Step]:
    """Return every step of this relay, in the order of applying."""
    return [
        _step(FUNCTIONS, "functions", names("functions")),
        *(
            _step(
                int(name.removeprefix("migrations/")[:4]), name.removeprefix("migrations/"), [name]
            )
            for name in names("migrations")
        ),
    ]


def pending(steps: Sequence[Step], applied: Mapping[int, tuple[str, str]]) -> list[Step]:
    """Return the steps that a schema lacks, given its name and checksum by applied version.

    Raises:
        SchemaError: an applied migration has another text here, or is not known here.
    """
    here = {step.version: step for step in steps}
    for version, (name, checksum) in sorted(applied.items()):
        if version not in here:
            raise SchemaError(
                f"the schema is newer than this relay: it has migration {name}, the last one known "
                f"here is {max(here):04}; install the release that applied it, or a later one"
            )
        if version != FUNCTIONS and checksum != here[version].checksum:
            raise SchemaError(
                f"migration {here[version].name} is not the one that was applied here as {name} "
                f"(checksum {here[version].checksum[:12]}, applied {checksum[:12]}): applied "
                "migrations are never edited; install an unchanged release of the relay"
            )
    return [step for step in steps if applied.get(step.version, ("", ""))[1] != step.checksum]


async def migrate(
    dsn: str,
    schema: str,
    *,
    notify: bool = True,
    say: Callable[[str], None] = _log.warning,
) -> list[str]:
    """Bring ``schema`` up to date; return the names of what was applied, in order.

    Args:
        dsn: libpq connection string of a login that owns the schema or may create it.
        schema: its name, unquoted.
        notify: whether writers ring the doorbell.
        say: told what a person should know, one line each, e.g. that the roles were left out.

    Raises:
        SchemaError: the schema is newer than this relay or was changed, or this login may not.
        StoreOutage: the database is away, or stayed locked for ``PATIENCE`` s.
    """
    give_up_at = time.monotonic() + PATIENCE
    async with await Session.connect(dsn, "migrate") as session:
        session.connection.add_notice_handler(lambda notice: say(_line(notice)))
        try:
            with anyio.fail_after(DEADLINE):
                while True:
                    try:
                        return await _attempt(session.connection, schema, notify=notify)
                    except (errors.LockNotAvailable, errors.DeadlockDetected) as error:
                        if time.monotonic() > give_up_at:
                            raise StoreOutage(_locked(schema, error)) from error
                        await anyio.sleep(random.uniform(0.1, 1.0))
        except TimeoutError:
            session.drop()
            raise StoreOutage(f"Postgres did not answer within {DEADLINE:g} s") from None
        except psycopg.Error as error:
            raise _explained(error) from error


async def check(dsn: str, schema: str) -> None:
    """Change nothing; return if ``schema`` is exactly what this relay would make of it.

    Raises:
        SchemaError: it is missing, changed, newer, or something is not applied; with the remedy.
        StoreOutage: the database is away.
    """
    async with await Session.connect(dsn, "migrate") as session:
        _refuse(await _missing(session.connection, schema), schema)


async def verify(connection: psycopg.AsyncConnection[Any], schema: str) -> None:
    """Return if this relay can work with ``schema``, by one query. Ignores the functions' text.

    Raises:
        SchemaError: it is missing, changed, newer, or a migration is not applied; with the remedy.
        StoreOutage: the connection is gone, or does not answer.
    """
    missing = await _missing(connection, schema)
    _refuse([step for step in missing if step.version != FUNCTIONS], schema)


def script(schema: str) -> str:
    """Return the SQL that makes the whole schema in a database without one; psql can run it."""
    files = [text(file) for step in known() for file in step.files]
    records = [_record(step) for step in known()]
    return "\n".join(
        [
            "-- The whole outbox, for a database that has none. One transaction: all or nothing.",
            "begin;",
            _SETTINGS + _text(_LOCK + _CREATE, schema),
            *(_SETTINGS + _text(part, schema) for part in [*files, *records, text("roles")]),
            "commit;\n",
        ]
    )


async def _attempt(
    connection: psycopg.AsyncConnection[Any], schema: str, *, notify: bool
) -> list[str]:
    """Apply everything in one transaction."""

    async def run(statement: str) -> None:
        await connection.execute(compose(statement, schema), prepare=False)

    async def holds(question: str) -> bool:
        answer = await (await connection.execute(compose(question, schema))).fetchone()
        return answer is not None and bool(answer[0])

    async with connection.transaction():
        await run(_SETTINGS + f"set local lock_timeout = {int(PATIENCE)}000;\n" + _LOCK)
        if not await holds(_EXISTS):  # creating one that exists asks for a right on the database
            await run(_CREATE)
        applied = await _applied(connection, schema) if await holds(_HAS_LEDGER) else {}
        steps = pending(known(), applied)
        for step in steps:
            for file in step.files:
                await run(_SETTINGS)  # each file finds the same, whatever the one before has set
                await run(text(file))
        for step in steps:
            await run(_record(step))
        await run(_SETTINGS)
        await run(text("roles"))
        if await holds(text("queries/doorbell_rings")) is not notify:
            # asked first: the switch locks out writers
            await run(text("queries/doorbell_on" if notify else "queries/doorbell_off"))
    return [step.name for step in steps]


async def _applied(
    connection: psycopg.AsyncConnection[Any], schema: str
) -> dict[int, tuple[str, str]]:
    rows = await (await connection.execute(compose(_LEDGER, schema))).fetchall()
    return {version: (name, checksum) for version, name, checksum in rows}


async def _missing(connection: psycopg.AsyncConnection[Any], schema: str) -> list[Step]:
    rows = await Session(connection).rows(compose(_LEDGER, schema))
    return pending(known(), {version: (name, checksum) for version, name, checksum in rows})


def _refuse(missing: Sequence[Step], schema: str) -> None:
    if missing:
        what = ", ".join(step.name for step in missing)
        raise SchemaError(
            f'schema "{schema}" lacks {what}: run `python -m relay migrate` of this release'
        )


def _step(version: int, name: str, files: Sequence[str]) -> Step:
    digest = hashlib.sha256()
    for file in files:
        digest.update(text(file).encode())
    return Step(version, name, files, digest.hexdigest())


def _text(statement: str, schema: str) -> str:
    return compose(statement, schema).as_string()


def _record(step: Step) -> str:
    return _RECORD.format(step.version, step.name, step.checksum)


def _line(notice: psycopg.errors.Diagnostic) -> str:
    return "; ".join(part for part in (notice.message_primary, notice.message_hint) if part)


def _locked(schema: str, error: psycopg.Error) -> str:
    return (
        f'schema "{schema}" stayed locked for {PATIENCE:g} s ({error}): end the long transactions '
        "that use it (pg_stat_activity, oldest xact_start first), then migrate again"
    )


def _explained(error: psycopg.Error) -> Exception:
    """Return our error for what Postgres said while migrating."""
    message = " ".join(str(error).split())
    if isinstance(error, errors.InsufficientPrivilege):
        return SchemaError(
            f"{message}: migrate as a login that owns the schema, or may create it in this database"
        )
    if isinstance(error, errors.RaiseException):  # our own files say what is wrong
        return SchemaError(message)
    return translated(error)
