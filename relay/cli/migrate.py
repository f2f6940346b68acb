"""``relay migrate``: bring the database's schema up to date, look at it, or print it.

The schema itself, and what happens when it goes wrong: ``relay.postgres.migrations``.
"""

from collections.abc import Callable
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import anyio
import typer

from relay.cli.options import ALWAYS, with_settings
from relay.errors import SettingsError
from relay.settings import Settings


class Format(StrEnum):
    """The tools for which files can be written."""

    psql = "psql"
    alembic = "alembic"
    django = "django"


Check = Annotated[
    bool, typer.Option("--check", help="Change nothing; exit 3 if something is missing.")
]
PrintSql = Annotated[
    bool, typer.Option("--print", help="Print the SQL, which psql can run, and do nothing.")
]


@with_settings(*ALWAYS, check_files=False)
def migrate(
    settings: Settings,
    *,
    check: Check = False,
    print_sql: PrintSql = False,
    notify: Annotated[
        bool | None,
        typer.Option(
            "--notify/--no-notify",
            help="Whether writers wake a relay that sleeps by NOTIFY; off if two-phase commit is in"
            " use. Kept in the database; left as it is unless given.",
            show_default=False,
        ),
    ] = None,
    format_: Annotated[
        Format | None,
        typer.Option(
            "--format",
            metavar="TOOL",
            help="Change no database: write files for psql, alembic or django, as far as they are"
            " not there yet.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="With --format: where to.")
    ] = Path(),
) -> None:
    """Bring the outbox's schema up to date. Any number of processes may do so at once."""
    if check + print_sql + (format_ is not None) > 1:
        raise typer.BadParameter("--check, --print and --format exclude each other")
    if notify is not None and (check or print_sql or format_):
        raise typer.BadParameter(
            "--notify and --no-notify change the database: leave out the other"
        )
    if format_ is not None:
        write_files(out, settings.schema_name, format_)
        return
    work = partial(run_migrate, notify=notify, check=check, print_sql=print_sql, echo=typer.echo)
    anyio.run(work, settings.conninfo, settings.schema_name)


def write_files(out: Path, schema: str, tool: str) -> None:
    """Write the files for ``tool`` that ``out`` lacks, and say which.

    Raises:
        SettingsError: the folder can't be written to.
    """
    from relay.postgres import exports

    try:
        written = exports.write(out, schema, tool)
    except OSError as error:
        raise SettingsError([f"--out {out}: {error.strerror}"]) from error
    for name in written or ["nothing was missing"]:
        typer.echo(name)


async def run_migrate(
    dsn: str,
    schema: str,
    *,
    notify: bool | None,
    check: bool,
    print_sql: bool,
    echo: Callable[[str], None],
) -> None:
    """Migrate; or with ``check`` only look; or with ``print_sql`` only print, without a database.

    ``notify`` says whether writers ring the bell; None leaves it as it is. ``echo`` prints a line.

    Raises:
        SchemaError: the schema is not, or can't be brought, as this relay needs it.
        StoreOutage: the database is away.
    """
    from relay.postgres import migrations

    if print_sql:
        echo(migrations.script(schema))
    elif check:
        await migrations.check(dsn, schema)
        echo(f'schema "{schema}" is up to date')
    else:
        done = await migrations.migrate(dsn, schema, notify=notify, say=echo)
        for line in done or [f'schema "{schema}" was up to date']:
            echo(line)
