"""Brings a database's inbox to what this release requires, or says what it lacks.

``sql/inbox/migrations`` are numbered files, forward only, each applied once and never edited;
``sql/inbox/functions`` are replaced by every run. One run is one transaction under an advisory
lock: any number of processes may run it at once, and whatever goes wrong, nothing has changed.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import psycopg
from psycopg import errors

from relay.errors import NOT_THERE, SchemaError
from relay.postgres.connecting import in_words
from relay.postgres.session import Session, translated
from relay.postgres.sqlfiles import MIGRATION_CLASS, compose, names, text

_LOCK: Final = f"select pg_advisory_xact_lock({MIGRATION_CLASS}, hashtext(:'schema'));"
_EXISTS: Final = "select exists (select from pg_namespace as n where n.nspname = :'schema')"
_CREATE: Final = 'create schema :"schema";'
_HAS_LEDGER: Final = "select to_regclass(format('%I.inbox_migration', :'schema')) is not null"
_LEDGER: Final = 'select version, checksum from :"schema".inbox_migration'
_RECORD: Final = """\
insert into :"schema".inbox_migration (version, name, checksum) values ({}, '{}', '{}');"""
_PATHS: Final = "set local search_path = pg_catalog, pg_temp;"


def script(schema: str) -> str:
    """Return the SQL that makes the inbox in a database without one; psql can run it."""
    files = [text(name) + _record(name) for name in names("inbox/migrations")]
    parts = [_LOCK, _CREATE.replace("schema :", "schema if not exists :"), *files]
    parts += map(text, names("inbox/functions"))
    whole = "\n".join(_PATHS + "\n" + compose(part, schema).as_string() for part in parts)
    return f"begin;\n{whole}\ncommit;"


async def migrate(dsn: str, schema: str, *, check: bool = False) -> list[str]:
    """Bring the inbox up to date, or with ``check`` only look; return what was done, a line each.

    Raises:
        SchemaError: it is newer than this release or was changed, this login may not; or with
            ``check`` something is missing.
        StoreOutage: the database is away.
    """
    async with await Session.connect(dsn, "migrate") as session:
        try:
            async with session.connection.transaction():
                if check:
                    await migrated(session, schema)
                    return []
                return await _apply(session.connection, schema)
        except errors.InsufficientPrivilege as error:
            raise SchemaError(
                f"{in_words(error)}: migrate as a login that owns the schema {schema!r}, or may "
                "make it"
            ) from error
        except psycopg.Error as error:
            raise translated(error) from error


async def migrated(session: Session, schema: str) -> None:
    """Return if the inbox has every migration.

    Raises:
        SchemaError: it has not, or this login may not look; with the remedy.
        StoreOutage: the connection is gone, or Postgres does not answer.
    """
    with failures():
        async with session.transaction():
            missing = await _missing(session.connection, schema)
    if missing:
        raise SchemaError(
            f'the inbox in schema "{schema}" lacks {", ".join(missing)}: '
            "run `python -m relay inbox migrate`"
        )


@contextmanager
def failures() -> Iterator[None]:
    """Give what a session raises in the block an inbox's remedy where it has an outbox's."""
    try:
        yield
    except SchemaError as error:
        cause = error.__cause__
        if not isinstance(cause, psycopg.Error):
            raise
        if cause.sqlstate in NOT_THERE:
            remedy = "run `python -m relay inbox migrate`"
        elif isinstance(cause, errors.InsufficientPrivilege):
            remedy = "grant this login what relay/consumer/README.md lists, or run as the owner"
        else:
            raise
        raise SchemaError(f"{in_words(cause)}: {remedy}") from cause


async def _apply(connection: psycopg.AsyncConnection[Any], schema: str) -> list[str]:
    await _run(connection, schema, _PATHS + _LOCK)
    missing = await _missing(connection, schema)
    if not await _ask(connection, schema, _EXISTS):
        await _run(connection, schema, _CREATE)
    for name in missing:
        await _run(connection, schema, text(name))
        await _run(connection, schema, _record(name))
    for name in names("inbox/functions"):
        await _run(connection, schema, text(name))
    return [f"applied {name}" for name in missing]


async def _missing(connection: psycopg.AsyncConnection[Any], schema: str) -> list[str]:
    """Return the files that are not applied.

    Raises:
        SchemaError: what is applied is newer, or of another text.
    """
    known = await _ask(connection, schema, _HAS_LEDGER)
    rows = await (await _run(connection, schema, _LEDGER)).fetchall() if known else []
    applied = dict[int, str](rows)
    files = {_version(name): name for name in names("inbox/migrations")}
    if unknown := sorted(applied.keys() - files.keys()):
        raise SchemaError(
            f"the inbox is newer than this release: it has migration {unknown[-1]}, the last one "
            f"known here is {max(files)}; install the release that applied it, or a later one"
        )
    for version, checksum in applied.items():
        if checksum != _checksum(files[version]):
            raise SchemaError(
                f"migration {files[version]} is not the one that was applied here: applied "
                "migrations are never edited; install an unchanged release"
            )
    return [name for version, name in sorted(files.items()) if version not in applied]


async def _run(
    connection: psycopg.AsyncConnection[Any], schema: str, statement: str
) -> psycopg.AsyncCursor[Any]:
    return await connection.execute(compose(statement, schema), prepare=False)


async def _ask(connection: psycopg.AsyncConnection[Any], schema: str, question: str) -> bool:
    row = await (await _run(connection, schema, question)).fetchone()
    return bool(row and row[0])


def _version(name: str) -> int:
    return int(name.rpartition("/")[2][:4])


def _checksum(name: str) -> str:
    return hashlib.sha256(text(name).encode()).hexdigest()


def _record(name: str) -> str:
    return _RECORD.format(_version(name), name.rpartition("/")[2], _checksum(name))
