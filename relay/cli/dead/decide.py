"""``relay dead retry`` and ``relay dead drop``: what a person decides about dead events.

    find ──► ask, unless told not to ──► decide, chunk by chunk ──► say what was done

The database is not held while a person thinks: what is decided on is what was dead when they were
asked and still is. Where nobody can answer, and nobody said --yes, nothing is done.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

import anyio
import typer

from relay.cli.dead import filters as filters_
from relay.cli.dead.list import print_table
from relay.cli.dead.show import fate
from relay.cli.dead.summary import next_try, table
from relay.cli.text import plain
from relay.errors import RelayError, SettingsError
from relay.settings import Settings

if TYPE_CHECKING:
    from relay.postgres.operator import Action, Found, ParkedEvent, Wanted

_EXAMPLES = 10
"""Events that are shown before a question about many."""

_NAMED = 100_000
"""Events that can be named at once; a command line has no room for more."""


@dataclass(slots=True)
class _Decision:
    """One decision on its way.

    Attributes:
        refs: the ids and UUIDs that were named; empty for filters and --all.
        wanted: whom it is about.
        by: who decides.
        chosen: those of the named events that are dead.
        failed: why something named was not done, a line each.
        done: how many events it was done to.
    """

    action: "Action"
    refs: Sequence[str]
    wanted: "Wanted"
    by: str
    chosen: "list[ParkedEvent]" = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    done: int = 0

    @property
    def did(self) -> str:
        """The action, done."""
        return "dropped" if self.action == "drop" else "retried"


@filters_.with_filters
def retry(
    settings: Settings,
    refs: filters_.Refs = None,
    *,
    filters: filters_.Filters,
    everything: filters_.Everything = False,
    by: filters_.By = None,
    yes: filters_.Yes = False,
    json_: filters_.Json = False,
) -> None:
    """Let dead events be tried again, in the order of each key.

    A relay that leads takes them within a second, under new message ids, so that a stream's
    duplicate window does not swallow them. Asks first, unless events are named by their ids.
    """
    filters_.check_one_way(refs, filters, everything=everything)
    decision = _Decision("retry", refs or (), _wanted(refs, filters), by or filters_.me())
    _decide(settings, decision, ask=not yes and not refs, as_json=json_)


@filters_.with_filters
def drop(
    settings: Settings,
    refs: filters_.Refs = None,
    *,
    filters: filters_.Filters,
    everything: filters_.Everything = False,
    by: filters_.By = None,
    yes: filters_.Yes = False,
    json_: filters_.Json = False,
) -> None:
    """Delete dead events for good; asks first. A line of the audit stays, without the payload."""
    filters_.check_one_way(refs, filters, everything=everything)
    decision = _Decision("drop", refs or (), _wanted(refs, filters), by or filters_.me())
    _decide(settings, decision, ask=not yes, as_json=json_)


def _wanted(refs: filters_.Refs, filters: filters_.Filters) -> "Wanted":
    from relay.postgres.operator import Wanted

    if not refs:
        return Wanted(**filters)
    return Wanted(
        parked=True,  # found, to say why nothing is done to it
        ids=[int(ref) for ref in refs if ref.isdigit()],
        event_ids=[ref for ref in refs if not ref.isdigit()],
    )


def _decide(settings: Settings, decision: _Decision, *, ask: bool, as_json: bool) -> None:
    found = anyio.run(_find, settings, decision)
    if found.as_of is not None and found.total:
        if ask and not _agreed(decision, found):
            typer.echo("nothing was changed", err=True)
            raise typer.Exit(1)
        try:
            anyio.run(_carry_out, settings, decision, found.as_of)
        except RelayError:
            typer.echo(f"relay: {decision.did} {_events(decision.done)}, then:", err=True)
            raise
    elif not decision.failed:
        decision.failed.append("no dead events, or none that match")
    _report(decision, as_json=as_json)
    if decision.failed:
        raise typer.Exit(1)


async def _find(settings: Settings, decision: _Decision) -> "Found":
    """Return the dead among whom the decision is about; note why the other named ones are not."""
    from relay.postgres.operator import DeadEvents, Found

    async with DeadEvents.open(settings.conninfo, settings.schema_name) as dead_events:
        found = await dead_events.find(decision.wanted, _NAMED if decision.refs else _EXAMPLES)
        if not decision.refs:
            return found
        named = {name for each in found.events for name in (str(each.id), each.event_id)}
        for ref in decision.refs:
            if ref not in named:
                past = fate(await dead_events.decisions(ref), gone=True)
                decision.failed.append(f"no parked event {ref}{past}")
    dead = [each for each in found.events if each.dead_at is not None]
    decision.failed += [
        f"event {each.id} is not dead but {each.state}, next try: {plain(next_try(each))}"
        for each in found.events
        if each.dead_at is None
    ]
    decision.chosen = dead
    return Found(dead, len(dead), found.as_of)


async def _carry_out(settings: Settings, decision: _Decision, as_of: datetime) -> None:
    from relay.postgres.operator import DeadEvents

    missed = {each.id for each in decision.chosen}

    def done(ids: Sequence[int]) -> None:
        decision.done += len(ids)
        missed.difference_update(ids)

    async with DeadEvents.open(settings.conninfo, settings.schema_name) as dead_events:
        await dead_events.decide(
            decision.action,
            decision.chosen or decision.wanted,
            by=decision.by,
            as_of=as_of,
            done=done,
        )
        for id_ in sorted(missed):
            past = fate(await dead_events.decisions(str(id_)))
            decision.failed.append(f"event {id_} is not dead any more{past}")
    if not decision.done and not decision.failed:
        decision.failed.append("none of them is dead any more: somebody else was quicker")


def _agreed(decision: _Decision, found: "Found") -> bool:
    """Ask the person at the terminal; where there is none, exit."""
    if not sys.stdin.isatty():
        what = f"{decision.action} {_events(found.total)}"
        raise SettingsError([f"nobody is there to be asked: say --yes to {what}"])
    print_table(table(found.events[:_EXAMPLES], parked=False), err=True)
    if found.total > _EXAMPLES:
        typer.echo(f"… and {found.total - _EXAMPLES} more", err=True)
    for_good = " for good" if decision.action == "drop" else ""
    question = f"{decision.action.capitalize()} {_events(found.total)}{for_good}? Type y for yes: "
    typer.echo(question, err=True, nl=False)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _report(decision: _Decision, *, as_json: bool) -> None:
    for line in decision.failed:
        typer.echo(f"relay: {line}", err=True)
    if as_json:
        report = {
            "action": decision.action,
            "done": decision.done,
            "by": decision.by,
            "failed": decision.failed,
        }
        typer.echo(json.dumps(report))
    elif decision.done:
        typer.echo(f"{decision.did} {_events(decision.done)}")


def _events(count: int) -> str:
    return f"{count} dead event{'' if count == 1 else 's'}"
