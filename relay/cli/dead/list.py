"""``relay dead list``: the dead events, and with ``--parked`` those that are still tried."""

import json
import sys
from typing import TYPE_CHECKING, Annotated

import anyio
import typer

from relay.cli.dead import filters as filters_
from relay.cli.dead.summary import as_json, table
from relay.settings import Settings

if TYPE_CHECKING:
    from rich.table import Table

    from relay.postgres.operator import Found

_WIDE = 200
"""Columns where nobody says how many there are: in a file or a pipe."""


@filters_.with_filters
def list_(
    settings: Settings,
    *,
    filters: filters_.Filters,
    parked: Annotated[
        bool, typer.Option("--parked", help="Events that are still tried by themselves, too.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Show at most so many.")] = 100,
    json_: filters_.Json = False,
) -> None:
    """List dead events in the order of their ids, without payloads."""
    from relay.postgres.operator import DeadEvents, Wanted

    async def look() -> "Found":
        async with DeadEvents.open(settings.conninfo, settings.schema_name) as dead_events:
            return await dead_events.find(Wanted(parked=parked, **filters), limit)

    found = anyio.run(look)
    if json_:
        typer.echo(json.dumps([as_json(event) for event in found.events]))
    elif found.events:
        print_table(table(found.events, parked=parked))
    else:
        typer.echo(f"no {'parked' if parked else 'dead'} events, or none that match")
    if found.total > len(found.events):
        # On standard error: the JSON on the other one stays one array.
        typer.echo(f"{len(found.events)} of {found.total} shown: see --limit", err=True)


def print_table(made: "Table", *, err: bool = False) -> None:
    """Print to standard output, or to standard error."""
    from rich.console import Console

    stream = sys.stderr if err else sys.stdout
    width = None if stream.isatty() else _WIDE
    Console(file=stream, width=width, highlight=False, emoji=False).print(made)
