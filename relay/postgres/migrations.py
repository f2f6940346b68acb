"""Brings a database's schema to what this relay knows, and tells whether it is there.

``sql/migrations`` is authoritative for tables: numbered files, forward only, each applied once and
never edited afterwards (their checksums are kept). ``sql/functions`` and ``sql/views`` are
replaced, all together, whenever their text or the schema's name differs from what was recorded; a
change of theirs on which the relay itself relies comes with a numbered migration, so that an older
relay stands aside.

    functions (tables name them) ──► migrations ──► views ──► triggers, where missing ──► roles

Functions find tables only when they are called. Views are replaced after any migration as well: one
that changes a column drops the views that show it.

One run is one transaction under an advisory lock: whatever goes wrong, nothing has changed, and
any number of processes may run it at once. It waits for a table at most ``LOCK_TIMEOUT_MS`` at a
time, because producers queue behind a waiting migration, and tries again for up to ``PATIENCE`` s.

``verify`` says whether a term may begin: what it requires of the schema stands in
``sql/queries/verify_rights.sql`` and ``verify_facts.sql``.
"""

import logging
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import anyio
import psycopg
from psycopg import errors

from relay.errors import SchemaError, StoreOutage
from relay.postgres.session import Session, translated
from relay.postgres.sqlfiles import compose, load, names, text
from relay.postgres.steps import CREATE, LOCK, REPLACED, SETTINGS, Step, known, pending, record

PATIENCE = 60.0
"""Seconds for which a run that can't get its locks tries again."""

DEADLINE = 600.0
"""Seconds after which a server that does not answer is given up."""

_EXISTS = "select exists (select from pg_namespace as n where n.nspname = :'schema')"
_HAS_LEDGER = "select to_regclass(format('%I.migration', :'schema')) is not null"
_LEDGER = 'select version, name, checksum from :"schema".migration order by version'
_log = logging.getLogger(__name__)


async def migrate(
    dsn: str,
    schema: str,
    *,
    notify: bool | None = None,
    say: Callable[[str], None] = _log.warning,
) -> list[str]:
    """Bring ``schema`` up to date; return what was done, a line each; nothing if it was so already.

    Args:
        dsn: libpq connection string of a login that owns the schema or may create it.
        schema: its name, unquoted.
        notify: whether writers ring the bell; None leaves it as it is, on in a new schema.
        say: told what a person should know, one line each, e.g. that the roles were left out.

    Raises:
        SchemaError: the schema is newer than this relay or was changed, or this login may not.
        StoreOutage: the database is away, or stayed locked for ``PATIENCE`` s.
    """
    give_up_at = time.monotonic() + PATIENCE
    async with await Session.connect(dsn, "migrate") as session:
        run = _Run(session.connection, schema)
        session.connection.add_notice_handler(run.note)
        try:
            with anyio.fail_after(DEADLINE):
                while True:
                    try:
                        await run.attempt(notify)
                        break
                    except (errors.LockNotAvailable, errors.DeadlockDetected) as error:
                        if time.monotonic() > give_up_at:
                            raise StoreOutage(_locked(schema, error)) from error
                        await anyio.sleep(random.uniform(0.1, 1.0))
        except TimeoutError:
            session.drop()
            raise StoreOutage(f"Postgres did not answer within {DEADLINE:g} s") from None
        except psycopg.Error as error:
            raise _explained(error) from error
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
        _refuse(await _missing(session, schema), schema)


async def up_to_date(session: Session, schema: str) -> None:
    """Return if ``schema`` has every migration, by one query. For who reads, and leads no term.

    Raises:
        SchemaError: it is missing, changed, newer, or a migration is not applied; with the remedy.
        StoreOutage: the connection is gone, or does not answer.
    """
    missing = await _missing(session, schema)
    _refuse([step for step in missing if step.version != REPLACED], schema)


async def verify(connection: psycopg.AsyncConnection[Any], schema: str) -> None:
    """Return if a term may begin, by three queries; log what is not right but harmless.

    Raises:
        SchemaError: as ``up_to_date``; or this login lacks a right, rows would be hidden from
            it, or the outbox is not what the promises stand on; every fault with its remedy.
        StoreOutage: the connection is gone, or does not answer.
    """
    session = Session(connection)
    await up_to_date(session, schema)
    for query in ("queries/verify_rights", "queries/verify_facts"):
        faults = await session.rows(load(query, schema))
        fatal = [message for is_fatal, message in faults if is_fatal]
        if fatal:
            raise SchemaError("; ".join(fatal))
        for _, message in faults:
            _log.warning("%s", message)


class _Run:
    """One run of ``migrate``.

    Attributes:
        done: what was done, a line each.
        notices: what a person should know.
    """

    def __init__(self, connection: psycopg.AsyncConnection[Any], schema: str) -> None:
        self._connection = connection
        self._schema = schema
        self.done: list[str] = []
        self.notices: list[str] = []

    async def attempt(self, notify: bool | None) -> None:
        """Apply everything in one transaction."""
        self.done.clear()
        self.notices.clear()
        async with self._connection.transaction():
            await self._run(SETTINGS + f"set local lock_timeout = {int(PATIENCE)}000;\n" + LOCK)
            if not await self._ask(_EXISTS):  # an existing one asks for a right, too
                await self._run(CREATE)
            await self._apply()
            for file in [*names("triggers"), "roles"]:
                await self._file(file)
            await self._switch(notify)

    def note(self, notice: errors.Diagnostic) -> None:
        """Keep a notice of our files: with a hint it is for a person, without it was done."""
        (self.notices if notice.message_hint else self.done).append(_line(notice))

    async def _apply(self) -> None:
        """Apply and record the steps that are missing."""
        has_ledger = await self._ask(_HAS_LEDGER)
        applied = await _applied(self._connection, self._schema) if has_ledger else {}
        steps = pending(known(self._schema), applied, self._schema)
        if not steps:
            return
        replaced = any(step.version == REPLACED for step in steps)
        for file in names("functions") if replaced else []:
            await self._file(file)
        for step in steps:
            if step.version != REPLACED:
                await self._file(step.files[0])
        for file in names("views"):
            await self._view(file)
        for step in steps:
            await self._run(record(step))
            self.done.append(f"applied {step.name}")

    async def _view(self, file: str) -> None:
        """Replace a view; one whose columns have changed is dropped first."""
        try:
            async with self._connection.transaction():
                await self._file(file)
        except errors.InvalidTableDefinition:
            await self._run(f'drop view :"schema".{file.removeprefix("views/")};')
            await self._file(file)

    async def _switch(self, notify: bool | None) -> None:
        """Let writers ring, or keep silent. Asked first: the switch locks out writers."""
        if notify is None or await self._ask(text("queries/trigger_state")) is notify:
            return
        await self._run(SETTINGS)
        await self._run(text("queries/trigger_on" if notify else "queries/trigger_off"))
        self.done.append(
            "switched the bell on: writers notify a relay that sleeps"
            if notify
            else "switched the bell off: writers do not notify, the relay polls"
        )

    async def _file(self, file: str) -> None:
        await self._run(SETTINGS)  # each file finds the same, whatever the one before has set
        await self._run(text(file))

    async def _run(self, statement: str) -> None:
        await self._connection.execute(compose(statement, self._schema), prepare=False)

    async def _ask(self, question: str) -> bool | None:
        cursor = await self._connection.execute(compose(question, self._schema), prepare=False)
        row = await cursor.fetchone()
        return None if row is None else row[0]


async def _applied(
    connection: psycopg.AsyncConnection[Any], schema: str
) -> dict[int, tuple[str, str]]:
    rows = await (await connection.execute(compose(_LEDGER, schema))).fetchall()
    return {version: (name, checksum) for version, name, checksum in rows}


async def _missing(session: Session, schema: str) -> list[Step]:
    rows = await session.rows(compose(_LEDGER, schema))
    applied = {version: (name, checksum) for version, name, checksum in rows}
    return pending(known(schema), applied, schema)


def _refuse(missing: Sequence[Step], schema: str) -> None:
    if missing:
        what = ", ".join(step.name for step in missing)
        raise SchemaError(
            f'schema "{schema}" lacks {what}: run `python -m relay migrate` of this release'
        )


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
