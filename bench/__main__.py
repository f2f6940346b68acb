"""``python -m bench``: run scenarios on servers of its own, report what they took."""

import json
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from bench.figures import Findings
from bench.machine import Steal, calibrate, machine
from bench.report import HEAD, Part, Report, row
from bench.scenario import Bench, Scenario
from bench.scenarios import SCENARIOS
from bench.stack import Stack, stack

QUICK = 0.02
NAMES = [scenario.name for scenario in SCENARIOS]


def main(  # noqa: PLR0917 - a command line
    scenario: Annotated[
        list[str] | None, typer.Option(help=f"What to measure; all of {', '.join(NAMES)}.")
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Runs of each; medians are judged.")] = 3,
    quick: Annotated[bool, typer.Option(help="One run at a fiftieth of the load.")] = False,
    scale: Annotated[float, typer.Option(min=0.001, max=1, help="Share of the load.")] = 1,
    out: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("bench-report"),
    json_: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Measure the relay on throw-away servers with durable settings."""
    for unknown in set(scenario or ()) - set(NAMES):
        raise typer.BadParameter(f"there is no scenario {unknown!r}, but {', '.join(NAMES)}")
    if quick:
        runs, scale = 1, min(scale, QUICK)
    wanted = [each for each in SCENARIOS if not scenario or each.name in scenario]
    console = Console(stderr=True)
    with stack() as servers:
        report = Report(machine(servers), runs, scale)
        with progress_on(console) as progress:
            for each in wanted:
                report.parts.append(measured(each, servers, report, progress))
                hint = report.write(out)
    if json_:
        print(json.dumps(report.as_json()))
    else:
        print_tables(report)
    console.print(f"The report is in {out}/report.md and report.json. {hint}")
    if any(part.fault for part in report.parts):
        raise typer.Exit(1)


def measured(scenario: Scenario, servers: Stack, report: Report, progress: Progress) -> Part:
    """Run one scenario; its failure is a part of the report, not the end of it."""
    bar = progress.add_task(scenario.name, total=None, step="")
    calibration, steal, began = calibrate(), Steal(), time.monotonic()
    done = -1

    def step(what: str) -> None:
        nonlocal done
        done += 1
        progress.update(bar, completed=done, step=what)

    bench = Bench(
        servers, report.runs, report.scale, lambda steps: progress.update(bar, total=steps), step
    )
    findings, fault = Findings(), ""
    try:
        findings = scenario.run(bench)
    except Exception as error:  # noqa: BLE001 - the others are worth measuring all the same
        fault = f"{type(error).__name__}: {error}"
        progress.console.print(f"{scenario.name} failed: {fault}", markup=False)
    step("")
    seconds = time.monotonic() - began
    return Part(
        scenario.name, scenario.what, findings, seconds, calibration, steal.percent(), fault
    )


def progress_on(console: Console) -> Progress:
    """Make the bars."""
    columns = (TextColumn("{task.description:>16}"), BarColumn(), MofNCompleteColumn())
    return Progress(
        *columns, TimeElapsedColumn(), TextColumn("{task.fields[step]}"), console=console
    )


def print_tables(report: Report) -> None:
    """Print the figures for a person."""
    console = Console(width=None if sys.stdout.isatty() else 140)
    for part in report.parts:
        table = Table(title=f"{part.name}: {part.what}", title_justify="left")
        for column in HEAD:
            right = column in {"median", "range", "of limit"}
            table.add_column(column, justify="right" if right else "left")
        for figure in part.findings.figures:
            table.add_row(*row(figure))
        console.print(table)
        for remark in [*part.findings.remarks, *([part.fault] if part.fault else [])]:
            console.print(remark, markup=False)
    console.print(", ".join(f"{name} {value}" for name, value in report.machine.items()))


def run(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; SIGTERM ends it as Ctrl-C does: with everything that it started."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    try:
        app(arguments, standalone_mode=True)
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    run()
