"""``relay inbox``: a consumer's side of things: its schema, and the messages it could not handle.

The database is the consumer's own, named by the same setting as an outbox's. What is parked and
what a decision does to it: ``relay/consumer/README.md`` and ``sql/inbox``.
"""

import json
import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any, Final

import anyio
import typer

from relay.cli.deciding import By, Yes, ask, this_user
from relay.cli.migrate import Check, PrintSql
from relay.cli.options import LARGEST_BIGINT, Command, Group, Json, with_settings
from relay.cli.text import counted, instant, plain, rfc3339
from relay.errors import RelayError
from relay.settings import Settings

if TYPE_CHECKING:
    from relay.postgres.session import Row

log = logging.getLogger("relay.cli")

_SETTINGS: Final = (
    *("postgres_dsn", "postgres_password", "inbox_schema", "log_format", "log_level"),
)
_MOST: Final = 100_000
_EXAMPLES: Final = 10
"""Messages that are shown before a question."""

CHUNK: Final = 1000
"""Messages that one transaction decides about."""

_COLUMNS: Final = (
    *("id", "consumer", "message_id", "stream", "sequence", "stored_at", "subject", "key"),
    *("attempts", "next_attempt_at", "last_refused_at", "last_error", "dead_at"),
)
_Consumer = Annotated[
    str | None,
    typer.Option("--consumer", metavar="NAME", help="Of this consumer only.", show_default=False),
]


@with_settings(*_SETTINGS, check_files=False)
def migrate(
    settings: Settings,
    *,
    check: Check = False,
    print_sql: PrintSql = False,
) -> None:
    """Bring the inbox's schema up to date. Any number of processes may do so at once."""
    from relay.consumer import migrations

    if check and print_sql:
        raise typer.BadParameter("--check and --print exclude each other")
    schema = settings.inbox_schema
    if print_sql:
        typer.echo(migrations.script(schema))
        return

    async def work() -> list[str]:
        return await migrations.migrate(settings.conninfo, schema, check=check)

    for line in anyio.run(work) or [f'the inbox in schema "{schema}" is up to date']:
        typer.echo(line)


@with_settings(*_SETTINGS)
def list_(
    settings: Settings,
    *,
    consumer: _Consumer = None,
    parked: Annotated[
        bool, typer.Option("--parked", help="Messages that are still tried, or wait, too.")
    ] = False,
    limit: Annotated[
        int, typer.Option(min=1, max=_MOST, metavar="COUNT", help="Show at most so many.")
    ] = 100,
    json_: Json = False,
) -> None:
    """List dead messages in the order of their ids, without payloads."""
    rows, total = anyio.run(_list, settings, consumer, None, parked, limit)
    if json_:
        found = [dict(zip(_COLUMNS, row, strict=True)) for row in rows]
        typer.echo(json.dumps(found, default=rfc3339))
    elif rows:
        _print(rows)
    else:
        typer.echo(f"no {'parked' if parked else 'dead'} messages")
    if total > len(rows):
        # On standard error: the JSON on the other one stays one array.
        typer.echo(f"{len(rows)} of {total} shown: see --limit", err=True)


def _deciding(action: str, help_: str) -> Any:
    """Return the command that retries or drops."""

    def decide(
        settings: Settings,
        ids: Annotated[
            list[int] | None,
            typer.Argument(
                help="Ids of dead messages.",
                metavar="ID",
                min=1,
                max=LARGEST_BIGINT,
                show_default=False,
            ),
        ] = None,
        *,
        everything: Annotated[
            bool, typer.Option("--all", help="All dead messages.", show_default=False)
        ] = False,
        consumer: _Consumer = None,
        by: By = None,
        yes: Yes = False,
        json_: Json = False,
    ) -> None:
        if bool(ids) == everything or (ids and consumer):
            raise typer.BadParameter(
                "say whom you mean in one way: by ids, or by --all (of one --consumer, if given)"
            )
        dead = anyio.run(_dead_ids, settings, consumer, ids or None)
        if dead and not yes and (action == "drop" or everything):
            what = f"{action} {counted(len(dead), 'dead message')}"
            if sys.stdin.isatty():
                rows, _ = anyio.run(_list, settings, None, dead[:_EXAMPLES], False, _EXAMPLES)
                _print(rows, err=True)
            ask(what, what.capitalize())
        who, done = by or this_user(), set[int]()
        verb = "dropped" if action == "drop" else "retried"
        try:
            anyio.run(_decide, settings, action, dead, who, done)
        except RelayError:
            if done:
                log.warning("%s %s, then it failed", verb, counted(len(done), "dead message"))
            raise
        failed = [
            f"message {id_} is not dead, or is not there" for id_ in ids or () if id_ not in done
        ]
        if json_:
            report = {"action": action, "done": len(done), "by": who, "failed": failed}
            typer.echo(json.dumps(report))
        elif done:
            typer.echo(f"{verb} {counted(len(done), 'dead message')}")
        if failed or not done:
            raise RelayError("\n".join(failed) or "no dead messages, or none of that consumer")

    decide.__doc__ = help_
    return with_settings(*_SETTINGS)(decide)


async def _list(
    settings: Settings, consumer: str | None, ids: list[int] | None, parked: bool, limit: int
) -> "tuple[list[Row], int]":
    """Return messages by ``_COLUMNS``, and how many there are in all."""
    wanted = {"consumer": consumer, "ids": ids, "parked": parked, "limit_rows": limit}
    async with _asking(settings) as ask_for:
        rows = await ask_for("list", wanted)
    return [row[:-1] for row in rows], rows[0][-1] if rows else 0


async def _dead_ids(settings: Settings, consumer: str | None, ids: list[int] | None) -> list[int]:
    async with _asking(settings) as ask_for:
        return [id_ for (id_,) in await ask_for("dead_ids", {"consumer": consumer, "ids": ids})]


async def _decide(
    settings: Settings, action: str, ids: Sequence[int], who: str, done: set[int]
) -> None:
    """Decide, a transaction a chunk; add to ``done`` those that were still dead."""
    async with _asking(settings) as ask_for:
        for start in range(0, len(ids), CHUNK):
            decision = {"action": action, "ids": list(ids[start : start + CHUNK]), "who": who}
            done.update(id_ for (id_,) in await ask_for("decide", decision))


@asynccontextmanager
async def _asking(
    settings: Settings,
) -> "AsyncIterator[Callable[[str, dict[str, Any]], Awaitable[Sequence[Row]]]]":
    """Give what runs a query of the inbox, on one session."""
    from relay.consumer import migrations
    from relay.postgres.session import Session
    from relay.postgres.sqlfiles import load

    schema = settings.inbox_schema

    async def rows(query: str, params: dict[str, Any]) -> "Sequence[Row]":
        return await session.rows(load(f"inbox/queries/{query}", schema), params)

    with migrations.failures():
        async with await Session.connect(settings.conninfo, "inbox") as session:
            await migrations.migrated(session, schema)
            yield rows


def _print(rows: "Sequence[Row]", *, err: bool = False) -> None:
    from rich.table import Table

    from relay.cli.dead_show import print_table

    table = Table(box=None, pad_edge=False)
    for name in ("id", "consumer", "subject", "key", "sequence", "state", "tries", "last error"):
        table.add_column(name, overflow="fold")
    for row in rows:
        each = dict(zip(_COLUMNS, row, strict=True))
        if each["dead_at"]:
            state = f"dead since {instant(each['dead_at'])}"
        elif each["next_attempt_at"]:
            state = f"next try {instant(each['next_attempt_at'])}"
        else:
            state = "waits behind its key"
        texts = (each["consumer"], each["subject"], each["key"] or "", str(each["sequence"]), state)
        table.add_row(
            str(each["id"]), *map(plain, texts), str(each["attempts"]), plain(each["last_error"])
        )
    print_table(table, err=err)


inbox = typer.Typer(
    name="inbox",
    cls=Group,
    help="A consumer's inbox: make its schema; look at messages that could not be handled.",
    epilog="--postgres-dsn names the consumer's database. Exit codes: 0 done, 1 nothing there or"
    " failed, 2 usage, 3 the schema is not as required.",
    no_args_is_help=True,
)
_RETRY: Final = """Let dead messages be tried again, in the order of each key.

A consumer that runs takes them within a second. Asks first, unless they are named by their ids.
"""
_DROP: Final = (
    "Give dead messages up for good; asks first. What waits behind them goes on. A line of the"
    " audit stays, without the payload."
)
inbox.command("migrate", cls=Command)(migrate)
inbox.command("list", cls=Command)(list_)
inbox.command("retry", cls=Command)(_deciding("retry", _RETRY))
inbox.command("drop", cls=Command)(_deciding("drop", _DROP))
