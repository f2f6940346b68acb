"""Lets the rows of an application's own table arrive in the outbox, by a trigger on it.

A function and a trigger, ``sql/adopt``, belong to the adopted table: migrations know nothing of
them. With a backfill new rows wait in a table of their own, behind those that were there before:

    new rows wait ──► what was before waits in front ──► all move ──► new rows go to the outbox

Each arrow is a commit, and a run that was interrupted goes on from the last one. A page moves from
the waiting rows to the outbox in one transaction, so none is lost or doubled. The adopted table is
locked twice, for a moment: when the trigger comes, and while the last page moves.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from psycopg import errors, sql

from relay.errors import EventRefused, StoreBusy
from relay.postgres import adopted_fields
from relay.postgres.adopted_fields import DEBEZIUM, Table, fault
from relay.postgres.migrations import LOCK_TIMEOUT_MS, up_to_date
from relay.postgres.patience import explained, patiently
from relay.postgres.session import Row, Session
from relay.postgres.sqlfiles import ADOPT_CLASS, compose, dollar_quote, text

PAGE: Final = 2_000
"""Rows that move in one transaction."""

TRIED: Final = 1_000
"""Rows that are looked at before a trigger comes without a backfill."""

_WHO: Final = "adopt as a superuser, or as a login that owns the table and is in the role {}"


class Adoption:
    """The adoption of one table, over a session that nobody else uses."""

    def __init__(self, session: Session, schema: str, table: Table) -> None:
        """Begin with what ``look`` has found; it holds the lock."""
        self._session = session
        self._schema = schema
        self.table = table
        self._backfills = False
        self._who = _WHO.format(table.owner)
        self._parts: dict[str, sql.Composable] = {
            '"table"': sql.Identifier(table.schema, table.name),
            '"function"': sql.Identifier(table.function),
            '"rows"': sql.Identifier(f"{table.function}_rows"),
            '"owner"': sql.Identifier(table.owner),
        }

    @classmethod
    async def look(cls, session: Session, schema: str, name: str) -> "Adoption":
        """Find the table, and let nobody else adopt it until the session's end.

        Raises:
            SettingsError: there is no such table, or it can't be adopted.
            SchemaError: the outbox is not there, or older than this release.
            StoreBusy: somebody else is at work.
        """
        await up_to_date(session, schema)
        table = await cls._read(session, schema, name)
        lock = sql.SQL("select pg_try_advisory_lock({}, {}::oid::int4)")
        if await session.row(lock.format(ADOPT_CLASS, table.oid)) != (True,):
            raise StoreBusy(f"somebody else is adopting {name}: try again when that has ended")
        return cls(session, schema, await cls._read(session, schema, name))

    @staticmethod
    async def _read(session: Session, schema: str, name: str) -> Table:
        try:
            row = await session.row(compose(text("adopt/table"), schema), {"table": name})
        except (errors.InvalidName, errors.SyntaxError, errors.FeatureNotSupported):
            row = None
        if row is None:
            raise fault(
                f"there is no table {name}: name it as SQL does, with its schema (public.…)"
            )
        table = Table(*row)
        if table.fault:
            raise fault(f"{name} can't be adopted: {table.fault}")
        return table

    def ask(
        self,
        fields: Mapping[str, str],
        *,
        backfill: bool = False,
        order_by: str = "",
        where: str = "",
    ) -> None:
        """Say what is wanted; ``shown`` and ``adopt`` do it.

        Args:
            fields: template by field of the outbox, over ``DEBEZIUM``; ``header:NAME`` is a header.
            backfill: whether what is there is copied, too.
            order_by: the column by which rows of one key are in order; for a backfill.
            where: the condition, in SQL, on rows that are there.

        Raises:
            SettingsError: the fields don't fit the table, or what was there can't be copied now.
        """
        table = self.table
        self._backfills = backfill and not table.is_backfilled
        if table.is_waiting and not backfill:
            raise fault("a backfill was interrupted: --backfill goes on, --undo ends it")
        if self._backfills and table.is_adopted and not table.is_waiting:
            raise fault(
                f"{table} is adopted without a backfill, and what was there can't come before what "
                "has come since: --undo, then --backfill, which copies all that is there then"
            )
        fields = {**DEBEZIUM, **fields}
        named = fields["idempotency_key"].strip("{}")
        order = order_by or (named if table.columns.get(named) == "number" else "")
        if self._backfills and (order not in table.columns or not named):
            raise fault(
                "a backfill needs an idempotency_key, and --order-by, a column by which rows of a "
                f"key are in order; the table has {', '.join(table.columns)}"
            )
        by_row = table.is_partitioned
        mapped = adopted_fields.mapped(table, fields)
        self._parts |= {
            "mapped": mapped,
            "source": sql.SQL("(select new.*)" if by_row else "new_rows"),
            "each": sql.SQL(
                "for each row" if by_row else "referencing new table as new_rows for each statement"
            ),
            "body": sql.SQL(
                dollar_quote("adopt", mapped.as_string(), self._schema, table.function)
            ),
            "where": sql.SQL(f"({where})" if where else "true"),
            "most": sql.Literal(None if self._backfills else TRIED),
            '"order"': sql.Identifier(order),
        }

    @property
    def shown(self) -> dict[str, str]:
        """What ``adopt`` does, in its order: names to SQL."""
        if not self._backfills:
            return {"the trigger": self._trigger("outbox").as_string()}
        steps = {
            "new rows wait": self._file("wait") + self._trigger(f"{self.table.function}_rows"),
            "what was before waits in front": self._file("copy"),
            f"all move, {PAGE} in a transaction": self._move(most=PAGE),
            "new rows go to the outbox": self._finish(),
        }
        return {name: step.as_string() for name, step in steps.items()}

    async def adopt(self, moved: Callable[[int, int], None]) -> int:
        """Do it; return how many rows were copied. ``moved`` takes how many of how many moved.

        Raises:
            EventRefused: a row that is there would be refused; nothing is changed, unless it was
                written in the last moment: then new rows wait until it is mended.
            SettingsError: Postgres does not take the fields or the condition.
            SchemaError: this login may not.
            StoreOutage: the database is away, or the table stayed locked; again goes on.
        """
        table = self.table
        if not table.is_copied:
            await self._refusing(self._file("trial"))
        if not self._backfills:
            await self._locked(self._trigger("outbox"))
            return 0
        if not table.is_waiting:
            await self._locked(self._file("wait") + self._trigger(f"{table.function}_rows"))
        if not table.is_copied:
            await self._refusing(self._file("copy"), "; until then new rows wait")
        with explained(self._who):
            (total,) = await self._row(self._file_of('select count(*) from :"schema".:"rows"'))
            await self._pages(lambda done: moved(done, total))

        async def end() -> None:
            await self._pages(lambda _: None)  # what came while the table was locked by others
            await self._run(self._patient(self._finish()))

        await patiently(self._session, end, str(table), self._who)
        return int(total)

    async def _pages(self, moved: Callable[[int], None]) -> None:
        """Move waiting rows until few are left, each page in a transaction."""
        done, last, n = 0, -(2**63), PAGE
        while n == PAGE:
            # Behind what was copied any id may still commit.
            n, last = await self._row(self._move(min(last, 0), PAGE))
            done += n
            moved(done)

    async def undo(self) -> None:
        """Take the trigger and the function off; what waits moves to the outbox.

        Raises as ``adopt``.
        """
        await self._locked(self.undoing)

    @property
    def undoing(self) -> sql.Composed:
        """What ``undo`` does. Raises SettingsError where there is nothing to undo."""
        if not self.table.is_adopted:
            raise fault(f"{self.table} is not adopted")
        rest = self._drop() if self.table.is_waiting else sql.Composed([])
        return self._file("undo") + rest

    def _finish(self) -> sql.Composed:
        lock = self._file_of('lock table :"table" in share row exclusive mode;\n')
        note = self._file_of("\ncomment on trigger relay_adopt on :\"table\" is 'backfilled';\n")
        return lock + self._drop() + self._trigger("outbox") + note

    def _drop(self) -> sql.Composed:
        return self._move() + self._file_of('\ndrop table :"schema".:"rows";\n')

    def _move(self, after: int = -(2**63), most: int | None = None) -> sql.Composed:
        self._parts |= {"after": sql.Literal(after), "limit": sql.Literal(most)}
        return self._file("move")

    def _trigger(self, target: str) -> sql.Composed:
        self._parts |= {'"target"': sql.Identifier(target)}
        return self._file("trigger")

    def _file(self, name: str) -> sql.Composed:
        return self._file_of(text(f"adopt/{name}"))

    def _file_of(self, statement: str) -> sql.Composed:
        return compose(statement, self._schema, self._parts)

    async def _locked(self, statements: sql.Composed) -> None:
        """Run the statements in one transaction that waits for locks with patience."""
        work = partial(self._run, self._patient(statements))
        await patiently(self._session, work, str(self.table), self._who)

    def _patient(self, statements: sql.Composed) -> sql.Composed:
        return sql.SQL("set local lock_timeout = {};\n").format(LOCK_TIMEOUT_MS) + statements

    async def _refusing(self, statement: sql.Composed, then: str = "") -> None:
        """Run what looks at rows that may not fit."""
        with explained(self._who):
            try:
                await self._run(statement)
            except errors.CheckViolation as error:
                said = error.diag
                raise EventRefused(
                    f"{said.message_primary}: {said.message_detail}; mend that row, leave it out "
                    f"by --where, or map other columns{then}",
                    said.constraint_name or "",
                ) from error
            except errors.InsufficientPrivilege:
                raise
            except (errors.ProgrammingError, errors.DataError) as error:
                raise fault(str(error.diag.message_primary)) from error

    async def _run(self, statements: sql.Composed) -> None:
        async with self._session.connection.transaction():
            await self._session.connection.execute(statements, prepare=False)

    async def _row(self, statement: sql.Composed) -> Row:
        cursor = await self._session.connection.execute(statement, prepare=False)
        row: Row | None = await cursor.fetchone()
        assert row is not None
        return row
