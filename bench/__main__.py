"""``python -m bench``: run scenarios on servers of its own, print what they took."""

import enum
import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench import drain, latency, producers, telemetry
from bench.figures import Figure
from bench.stack import machine, stack


class Scenario(enum.StrEnum):
    """What can be measured."""

    ALL = "all"
    DRAIN = "drain"
    LATENCY = "latency"
    PRODUCERS = "producers"
    TELEMETRY = "telemetry"


def main(
    scenario: Annotated[Scenario, typer.Argument(help="What to measure.")] = Scenario.ALL,
    runs: Annotated[int, typer.Option(min=1, help="Runs of each; medians are quoted.")] = 3,
    quick: Annotated[bool, typer.Option(help="A tenth of the load: a smoke test.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure the relay on throw-away servers with durable settings."""
    console = Console(stderr=True)
    wanted = set(Scenario) if scenario is Scenario.ALL else {scenario}
    figures: list[Figure] = []
    with stack() as servers, Progress(console=console) as progress:
        versions = machine(servers)
        if Scenario.DRAIN in wanted:
            figures += drain.run(servers, runs, 50_000 if quick else 500_000, progress)
        if Scenario.LATENCY in wanted:
            figures += latency.run(servers, runs, 3 if quick else 20, 500, progress)
        if Scenario.PRODUCERS in wanted:
            figures += producers.run(servers, runs, 3 if quick else 15, progress)
        if Scenario.TELEMETRY in wanted:
            figures += telemetry.run(servers, runs, 50_000 if quick else 500_000, progress)
    if json_:
        shown = [asdict(figure) | {"median": figure.median} for figure in figures]
        print(json.dumps({"machine": versions, "runs": runs, "figures": shown}))
    else:
        print_table(figures, versions)


def print_table(figures: list[Figure], versions: dict[str, str]) -> None:
    table = Table(caption=", ".join(f"{name} {value}" for name, value in versions.items()))
    for column in ("figure", "unit", "median", "range", "target", "met"):
        table.add_column(column, justify="right" if column in {"median", "range"} else "left")
    for figure in figures:
        verdict = "" if figure.met is None else "yes" if figure.met else "NO"
        span = f"{min(figure.values):,.4g} .. {max(figure.values):,.4g}"
        row = (figure.name, figure.unit, f"{figure.median:,.4g}", span, figure.target, verdict)
        table.add_row(*row)
    Console(width=120).print(table)


if __name__ == "__main__":
    typer.run(main)
