"""``relay demo``: see the relay work, on servers that are thrown away afterwards.

What happens, and what is authoritative for the findings: ``relay.demo``.
"""

from typing import Annotated

import typer

from relay.cli.options import Json

_DEFAULT_SECONDS = 30.0


def demo(
    events: Annotated[
        int | None,
        typer.Option(min=1, metavar="COUNT", help="Stop after exactly this many committed events."),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            metavar="SECONDS",
            help="Stop after this long; 30 if --events is not given either.",
        ),
    ] = None,
    rate: Annotated[
        float,
        typer.Option(
            min=0.1,
            metavar="RATE",
            help="Committed events per second, of all producers together.",
        ),
    ] = 500,
    producers: Annotated[
        int, typer.Option(min=1, max=64, metavar="COUNT", help="Producer processes.")
    ] = 4,
    json: Json = False,
) -> None:
    """Run a real workload on throw-away servers, and check every event at the end.

    Starts a Postgres, a nats-server and a relay, lets producers change orders and emit events in
    the same transactions, then reads the whole stream back. Exits with 0 only if nothing was lost,
    duplicated, made up or out of order. Ctrl-C ends the workload early; it is checked all the same.
    """
    from rich.console import Console

    from relay.demo.run import Options, run

    if events is None and seconds is None:
        seconds = _DEFAULT_SECONDS
    console = Console()
    if not json:
        console.print("Starting Postgres, nats-server and the relay …")
    result = run(Options(events, seconds, rate, producers, quiet=json), console)
    if json:
        typer.echo(result.as_json())
    else:
        console.print(result.as_table())
        conclusion = "Every committed event is in the stream exactly once, in order per key."
        if not result.is_good:
            conclusion = f"Something is wrong: {result.findings}"
        console.print(conclusion, markup=False)
    raise typer.Exit(0 if result.is_good else 1)
