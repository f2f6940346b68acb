"""``python -m tests.soak``: all faults at random; exit code 0 only if nothing is wrong."""

import json
import logging
import random
import shutil
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tests.soak.run import Options, soak
from tests.soak.schedule import plan


def main(
    *,
    minutes: Annotated[float, typer.Option(min=0.1, help="How long rounds are begun.")] = 30.0,
    seed: Annotated[int | None, typer.Option(help="Where all chance comes from.")] = None,
    first_round: Annotated[int, typer.Option(min=0, help="The round to begin with.")] = 0,
    rate: Annotated[float, typer.Option(min=1.0, help="Committed events/s.")] = 200.0,
    keep: Annotated[Path | None, typer.Option(help="Where logs and evidence are left.")] = None,
    schedule: Annotated[
        bool, typer.Option("--schedule", help="Show a round's faults only.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Break everything at random under load, then say what is lost, repeated or out of order."""
    chosen = random.SystemRandom().randrange(10**6) if seed is None else seed
    if schedule:
        typer.echo(json.dumps([asdict(fault) for fault in plan(chosen, first_round)], indent=1))
        return
    for library in ("psycopg", "nats"):  # they tell of every lost connection
        logging.getLogger(library).setLevel(logging.CRITICAL)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    folder = keep or Path(tempfile.mkdtemp(prefix="relay-soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    console.print(f"seed {chosen}; logs in {folder}")
    report = soak(Options(minutes, chosen, first_round, rate), folder, console.print)
    if json_:
        typer.echo(report.as_json())
    else:
        Console(width=100).print(report.as_table())
    for violation in report.violations:
        console.print(violation, style="red", markup=False)
    console.print(f"{'clean' if report.is_clean else 'NOT CLEAN'}; again: {report.replay}")
    if report.is_clean and keep is None:
        shutil.rmtree(folder)
    sys.exit(0 if report.is_clean else 1)


if __name__ == "__main__":
    typer.run(main)
