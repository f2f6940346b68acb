"""``relay dead``: list, retry and drop the events that could not be stored.

    find ──► ask, unless told not to ──► decide, chunk by chunk ──► say what was done

The database is not held while a person thinks: a decision is about the events that were dead when
the person was asked and still are. Where nobody can answer, and --yes is not given, nothing is
done. What a dead event is and what a decision does to it: ``relay.postgres.operator``. How an
event is shown, and ``relay dead show``: ``relay.cli.dead_show``.
"""

import json
import logging
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

import anyio
import typer

from relay.cli.dead_sequence import PAUSE, InSequence, in_sequence
from relay.cli.dead_show import as_json, fate, next_try, parse_ref, print_table, show, table
from relay.cli.deciding import (
    KEY,
    PANEL,
    SUBJECT,
    By,
    DryRun,
    Yes,
    ask,
    filter_flag,
    this_user,
)
from relay.cli.options import (
    ALWAYS,
    LARGEST_INT,
    Command,
    Group,
    Json,
    with_settings,
)
from relay.cli.text import plain, seconds
from relay.errors import RelayError
from relay.settings import Settings

if TYPE_CHECKING:
    from relay.postgres.operator import Action, Found, ParkedEvent, Wanted

log = logging.getLogger("relay.cli")

_EXAMPLES: Final = 10
"""Events that are shown before a question about many."""

_NAMED: Final = 100_000
"""Events that can be named at once; a command line has no room for more."""

_FILTERS: Final = (
    SUBJECT,
    KEY,
    filter_flag(
        "older_than", float, "DURATION", "Dead for longer than this, such as 15min.", seconds
    ),
    filter_flag("newer_than", float, "DURATION", "Dead for at most this long.", seconds),
    filter_flag("error", str, "TEXT", "Whose last error contains this, in upper or lower case."),
    filter_flag(
        "error_regex", str, "REGEX", "Whose last error matches this regular expression of Postgres."
    ),
    filter_flag(
        "code",
        int,
        "NUMBER",
        "Whose last error has this err_code of JetStream's.",
        most=LARGEST_INT,
    ),
)
"""By the names that ``relay.postgres.operator.Wanted`` has for them."""


@with_settings(*ALWAYS, filters=_FILTERS)
def list_(
    settings: Settings,
    *,
    filters: Mapping[str, Any],
    parked: Annotated[
        bool, typer.Option("--parked", help="Events that are still tried by themselves, too.")
    ] = False,
    limit: Annotated[
        int, typer.Option(min=1, max=100_000, metavar="COUNT", help="Show at most so many.")
    ] = 100,
    json_: Json = False,
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


def _deciding(action: "Action", help_: str) -> Callable[..., None]:
    """Return the command that retries or drops."""

    def decide(
        settings: Settings,
        refs: Annotated[
            list[str] | None,
            typer.Argument(
                help="Ids or UUIDs of dead events.",
                parser=parse_ref,
                metavar="ID",
                show_default=False,
            ),
        ] = None,
        *,
        filters: Mapping[str, Any],
        everything: Annotated[
            bool,
            typer.Option(
                "--all", help="All dead events.", show_default=False, rich_help_panel=PANEL
            ),
        ] = False,
        by: By = None,
        dry_run: DryRun = False,
        yes: Yes = False,
        json_: Json = False,
    ) -> None:
        if bool(refs) + bool(filters) + everything != 1:
            raise typer.BadParameter(
                "say whom you mean in one way: by ids, by filters such as --subject, or by --all"
            )
        by, done = by or this_user(), list[int]()
        wanted = _wanted(refs, filters)
        found, failed = anyio.run(_find, settings, wanted, refs or ())
        if not (found.total or failed):
            failed.append("no dead events, or none that match")
        sequence = in_sequence(settings, found, filters) if action == "retry" else None
        if sequence is not None and not json_:
            sequence.say()
        if found.total and not dry_run:
            if not yes and (action == "drop" or not refs):
                _ask(action, found)
            which = found.events if refs else wanted
            decision: Callable[[list[int]], Awaitable[list[str]]] = partial(
                _carry_out,
                settings,
                action,
                which,
                by=by,
                pause=PAUSE if sequence else 0.0,
                as_of=cast("datetime", found.as_of),
            )
            failed += _decide(decision, action, done)
            if sequence is not None and done:
                sequence.look_again()
        report: dict[str, Any] = {"action": action, "done": len(done), "by": by, "failed": failed}
        report |= {"would": found.total} if dry_run else {}
        if json_:
            typer.echo(json.dumps(report | (sequence.as_json() if sequence else {})))
        else:
            _say(action, found, len(done), sequence, dry_run=dry_run)
        if failed:
            raise RelayError("\n".join(failed))

    decide.__doc__ = help_
    return with_settings(*ALWAYS, filters=_FILTERS)(decide)


def _wanted(refs: Sequence[str] | None, filters: Mapping[str, Any]) -> "Wanted":
    from relay.postgres.operator import Wanted

    if not refs:
        return Wanted(**filters)
    return Wanted(
        parked=True,  # found, to say why nothing is done to it
        ids=[int(ref) for ref in refs if ref.isdigit()],
        event_ids=[ref for ref in refs if not ref.isdigit()],
    )


async def _find(
    settings: Settings, wanted: "Wanted", refs: Sequence[str]
) -> "tuple[Found, list[str]]":
    """Return the dead events that a decision is about, and why other named ones are not."""
    from relay.postgres.operator import DeadEvents, Found

    async with DeadEvents.open(settings.conninfo, settings.schema_name) as dead_events:
        found = await dead_events.find(wanted, _NAMED if refs else _EXAMPLES)
        if not refs:
            return found, []
        names = {name for each in found.events for name in (str(each.id), each.event_id)}
        failed = [
            f"no parked event {ref}{fate(await dead_events.decisions(ref), gone=True)}"
            for ref in refs
            if ref not in names
        ]
    dead = [each for each in found.events if each.dead_at is not None]
    failed += [
        f"event {each.id} is not dead but {each.state}, next try: {plain(next_try(each))}"
        for each in found.events
        if each.dead_at is None
    ]
    return Found(dead, len(dead), found.as_of), failed


def _ask(action: "Action", found: "Found") -> None:
    """Show some of the events and return if the person at the terminal agrees, else exit."""
    if sys.stdin.isatty():
        _show(found)
    for_good = " for good" if action == "drop" else ""
    ask(
        f"{action} {_events(found.total)}",
        f"{action.capitalize()} {_events(found.total)}{for_good}",
    )


def _show(found: "Found") -> None:
    print_table(table(found.events[:_EXAMPLES], parked=False), err=True)
    if found.total > _EXAMPLES:
        typer.echo(f"… and {found.total - _EXAMPLES} more", err=True)


def _decide(
    decision: Callable[[list[int]], Awaitable[list[str]]], action: "Action", done: list[int]
) -> list[str]:
    """Carry out; if it fails half-way, say what was done before."""
    try:
        return anyio.run(decision, done)
    except RelayError:
        if done:
            log.warning("%s, then it failed", _summary(action, len(done)))
        raise


async def _carry_out(
    settings: Settings,
    action: "Action",
    which: "Wanted | Sequence[ParkedEvent]",
    done: list[int],
    *,
    by: str,
    as_of: datetime,
    pause: float,
) -> list[str]:
    """Retry or drop; add the ids to ``done``, and return why named events were left out.

    With a ``pause`` (s until they are due) all of them go back at once: they are one key's.
    """
    from relay.postgres.operator import DeadEvents, Wanted

    async with DeadEvents.open(settings.conninfo, settings.schema_name) as dead_events:
        await dead_events.decide(action, which, by=by, as_of=as_of, done=done.extend, pause=pause)
        if isinstance(which, Wanted):
            return [] if done else ["none of them is dead any more: somebody else was quicker"]
        return [
            f"event {id_} is not dead any more{fate(await dead_events.decisions(str(id_)))}"
            for id_ in sorted({each.id for each in which} - set(done))
        ]


def _say(
    action: "Action", found: "Found", done: int, sequence: InSequence | None, *, dry_run: bool
) -> None:
    if dry_run and found.total:
        _show(found)
        typer.echo(f"would {action} {_events(found.total)}: nothing was done")
    elif done:
        typer.echo(_summary(action, done))
        if sequence is not None:
            sequence.say()


def _summary(action: "Action", count: int) -> str:
    return f"{'dropped' if action == 'drop' else 'retried'} {_events(count)}"


def _events(count: int) -> str:
    return f"{count} dead event{'' if count == 1 else 's'}"


dead = typer.Typer(
    name="dead",
    cls=Group,
    help="Look at events that could not be stored; retry or drop them.",
    epilog="list needs a login with the relay's or the operator's role; show, retry and drop need"
    " the operator's. Exit codes: 0 done, 1 nothing there or failed,"
    " 2 usage, 3 the schema is not as required.",
    no_args_is_help=True,
)
_RETRY: Final = """Let dead events be tried again, in the order of each key.

A relay that leads takes them within a second, under new message ids, so that a stream's duplicate
window does not swallow them. Asks first, unless events are named by their ids.

With --key the key is put back in its order: its dead events go first, its later events that are not
published yet wait for them, and those that are published already are named.
"""
_DROP: Final = (
    "Delete dead events for good; asks first. A line of the audit stays, without the payload."
)
dead.command("list", cls=Command)(list_)
dead.command("show", cls=Command)(show)
dead.command("retry", cls=Command)(_deciding("retry", _RETRY))
dead.command("drop", cls=Command)(_deciding("drop", _DROP))
