"""``relay doctor``: every check of Postgres, NATS and the streams, and what mends each fault.

The checks: ``relay.doctor``. A finding is printed as soon as it is known. Exit code 1 on a fault.
"""

import json
from collections import Counter
from typing import TYPE_CHECKING, Annotated

import anyio
import typer

from relay.cli.options import Json, with_settings
from relay.cli.text import counted, plain
from relay.settings import Settings

if TYPE_CHECKING:
    from relay.doctor import Finding

_COLOURS = {"ok": "green", "warning": "yellow", "fault": "red", "skipped": "bright_black"}


@with_settings()
def doctor(
    settings: Settings,
    *,
    try_publish: Annotated[
        bool,
        typer.Option(
            "--try-publish",
            help="Also publish a message that no stream can store; plain subscribers receive it.",
        ),
    ] = False,
    json_: Json = False,
) -> None:
    """Check Postgres, NATS and the streams; say what mends each fault. Changes nothing."""
    from relay.doctor import examine

    found = list["Finding"]()

    def tell(finding: "Finding") -> None:
        if not json_:
            _print(finding, is_first_of_side=not found or found[-1].side != finding.side)
        found.append(finding)

    async def look() -> int:
        await examine(settings, tell, try_publish=try_publish)
        counts = Counter(str(each.state) for each in found)
        # Before the loop ends, which waits for a name service that hangs.
        if json_:
            checks = [each._asdict() for each in found]
            typer.echo(
                json.dumps({**{state: counts[state] for state in _COLOURS}, "checks": checks})
            )
        else:
            faults, warnings = (
                counted(counts["fault"], "fault"),
                counted(counts["warning"], "warning"),
            )
            typer.echo(f"\n{faults}, {warnings}, {counts['ok']} ok, {counts['skipped']} skipped")
        return counts["fault"]

    if anyio.run(look):
        raise typer.Exit(1)


def _print(finding: "Finding", *, is_first_of_side: bool) -> None:
    if is_first_of_side:
        typer.echo(finding.side)
    state = typer.style(f"{finding.state:<8}", fg=_COLOURS[finding.state])
    typer.echo(f"  {state} {finding.check:<13} {plain(finding.seen)}")
    if finding.remedy:
        typer.echo(f"  {'':<22} → {plain(finding.remedy)}")
