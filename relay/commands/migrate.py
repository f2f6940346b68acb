"""``relay migrate``: bring the database's schema up to date, look at it, or print it.

The schema itself, and what happens when it goes wrong: ``relay.postgres.migrations``.
"""

from collections.abc import Callable


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

    Args:
        dsn: libpq connection string.
        schema: the outbox's schema, unquoted.
        notify: whether writers ring the bell; None leaves it as it is.
        check: change nothing, and raise if anything would have to be changed.
        print_sql: print the SQL of the whole schema, which psql can run.
        echo: prints a line.

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
        for line in done:
            echo(line)
        if not done:
            echo(f'schema "{schema}" was up to date')
