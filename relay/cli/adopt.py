"""``relay adopt``: let the rows of a table that is there already arrive in the outbox.

What is made, and what a backfill does: ``relay.postgres.adoption`` and ``sql/README.md``.
"""

from typing import Annotated, Final

import anyio
import typer

from relay.cli.deciding import Yes, ask
from relay.cli.migrate import PrintSql
from relay.cli.options import ALWAYS, progress_bar, with_settings
from relay.settings import Settings

_DEBEZIUM: Final = (
    "subject={aggregatetype}.{type}, key=aggregateid, payload=payload, idempotency_key=id"
)
_Backfill = Annotated[
    bool, typer.Option("--backfill", help="Copy what is there as well, once, before what comes.")
]


def _field(text: str) -> tuple[str, str]:
    name, equals, template = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"{text!r} is no mapping: say FIELD=COLUMN, or FIELD=TEMPLATE")
    return name.strip(), template.strip()


@with_settings(*ALWAYS, check_files=False)
def adopt(
    settings: Settings,
    *,
    table: Annotated[
        str,
        typer.Option("--table", metavar="NAME", help="As SQL writes it, with its schema."),
    ],
    fields: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="FIELD=TEMPLATE",
            help="subject, key, payload, headers, idempotency_key or header:NAME, from a column, or"
            f" a template with columns in braces. Again and again. Default: {_DEBEZIUM}.",
            show_default=False,
        ),
    ] = None,
    backfill: _Backfill = False,
    order_by: Annotated[
        str, typer.Option(metavar="COLUMN", help="With --backfill: the order of a key's rows.")
    ] = "",
    where: Annotated[
        str, typer.Option(metavar="SQL", help="Only such rows of those that are there.")
    ] = "",
    undo: Annotated[bool, typer.Option("--undo", help="Take it off again.")] = False,
    print_sql: PrintSql = False,
    yes: Yes = False,
) -> None:
    """Let the rows of an outbox table that you have arrive in the outbox, by a trigger on it.

    Shows the SQL, and asks. The application needs no change and no right.
    """
    from relay.postgres.adoption import Adoption
    from relay.postgres.session import Session

    async def work() -> str:
        async with await Session.connect(settings.conninfo, "adopt") as session:
            adoption = await Adoption.look(session, settings.schema_name, table)
            if undo:
                shown = {"undo": adoption.undoing.as_string()}
            else:
                mapping = dict(map(_field, fields or ()))
                adoption.ask(mapping, backfill=backfill, order_by=order_by, where=where)
                shown = adoption.shown
            for step, statements in shown.items():
                typer.echo(f"-- {step}\nbegin;\n{statements}\ncommit;\n", err=not print_sql)
            if print_sql:
                return ""
            if not yes:
                ask("change the table", "Run this")
            if undo:
                await adoption.undo()
                return f"{table} is not adopted any more"
            with progress_bar("rows") as moved:
                copied = await adoption.adopt(moved)
        return f"{table} is adopted, {copied} rows copied"

    if done := anyio.run(work):
        typer.echo(done)
