"""``relay dead``: list, retry and drop the events that could not be stored.

    find ──► ask, unless told not to ──► decide, chunk by chunk ──► say what was done

The database is not held while a person thinks: a decision is about the events that were dead when
the person was asked and still are. Where nobody can answer, and --yes is not given, nothing is
done. What a dead event is and what a decision does to it: ``relay.postgres.operator``. How an
event is shown, and ``relay dead show``: ``relay.cli.dead_show``.
"""

import getpass
import inspect
import json
import logging
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final

import anyio
import typer

from relay.cli.dead_show import as_json, fate, next_try, parse_ref, print_table, show, table
from relay.cli.options import ALWAYS, Command, Group, Json, keyword, with_settings
from relay.cli.text import plain
from relay.core import durations
from relay.errors import RelayError, SettingsError
from relay.settings import Settings

if TYPE_CHECKING:
    from relay.postgres.operator import Action, Found, ParkedEvent, Wanted

log = logging.getLogger("relay.cli")

_PANEL: Final = "Which events"
_LONGEST_BY: Final = 200

_EXAMPLES: Final = 10
"""Events that are shown before a question about many."""

_NAMED: Final = 100_000
"""Events that can be named at once; a command line has no room for more."""


def _seconds(text: str) -> float:
    try:
        return durations.parse(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} {error}") from None


def _pattern(text: str) -> str:
    tokens = text.split(".")
    if not all(tokens) or ">" in tokens[:-1]:
        raise typer.BadParameter(
            f"{text!r} is no subject: tokens joined by dots, * for one token, a last > for the rest"
        )
    return text


def _decider(text: str) -> str:
    if not text.strip() or len(text) > _LONGEST_BY:
        raise typer.BadParameter(f"say who decides, in 1 to {_LONGEST_BY} characters")
    return text.strip()


def _this_user() -> str:
    """Return the user who runs this process, as user@host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"[:_LONGEST_BY]


def _filter(name: str, kind: type, word: str, help_: str, parser: Any = None) -> inspect.Parameter:
    option = typer.Option(
        f"--{name.replace('_', '-')}",
        help=help_,
        parser=parser,
        metavar=word,
        show_default=False,
        rich_help_panel=_PANEL,
    )
    return keyword(name, kind, option)


_FILTERS: Final = (
    _filter(
        "subject",
        str,
        "PATTERN",
        "Of this subject; * stands for one token, a last > for the rest.",
        _pattern,
    ),
    _filter("key", str, "TEXT", "Of exactly this key."),
    _filter("older_than", float, "DURATION", "Dead for longer than this, such as 15min.", _seconds),
    _filter("newer_than", float, "DURATION", "Dead for at most this long.", _seconds),
    _filter("error", str, "TEXT", "Whose last error contains this, in upper or lower case."),
    _filter(
        "error_regex", str, "REGEX", "Whose last error matches this regular expression of Postgres."
    ),
    _filter("code", int, "NUMBER", "Whose last error has this err_code of JetStream's."),
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
                "--all", help="All dead events.", show_default=False, rich_help_panel=_PANEL
            ),
        ] = False,
        by: Annotated[
            str | None,
            typer.Option(
                "--by",
                help="Who decides, for the audit. Default: user@host.",
                show_default=False,
                parser=_decider,
                metavar="NAME",
            ),
        ] = None,
        yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
        json_: Json = False,
    ) -> None:
        if bool(refs) + bool(filters) + everything != 1:
            raise typer.BadParameter(
                "say whom you mean in one way: by ids, by filters such as --subject, or by --all"
            )
        wanted = _wanted(refs, filters)
        by, done = by or _this_user(), list[int]()
        found, failed = anyio.run(_find, settings, wanted, refs or ())
        if found.as_of is not None and found.total:
            if not yes and (action == "drop" or not refs):
                _ask(action, found)
            which = found.events if refs else wanted
            decision = partial(_carry_out, settings, action, which, by=by, as_of=found.as_of)
            try:
                failed += anyio.run(decision, done)
            except RelayError:
                log.warning("%s, then it failed", _summary(action, len(done)))
                raise
        elif not failed:
            failed.append("no dead events, or none that match")
        if json_:
            report = {"action": action, "done": len(done), "by": by, "failed": failed}
            typer.echo(json.dumps(report))
        elif done:
            typer.echo(_summary(action, len(done)))
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
    """Return if the person at the terminal agrees, else exit.

    Raises:
        SettingsError: nobody is at the terminal.
    """
    if not sys.stdin.isatty():
        what = f"{action} {_events(found.total)}"
        raise SettingsError([f"nobody is there to be asked: say --yes to {what}"])
    print_table(table(found.events[:_EXAMPLES], parked=False), err=True)
    if found.total > _EXAMPLES:
        typer.echo(f"… and {found.total - _EXAMPLES} more", err=True)
    for_good = " for good" if action == "drop" else ""
    question = f"{action.capitalize()} {_events(found.total)}{for_good}? Type y for yes: "
    typer.echo(question, err=True, nl=False)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        typer.echo("nothing was changed", err=True)
        raise typer.Exit(1)


async def _carry_out(
    settings: Settings,
    action: "Action",
    which: "Wanted | Sequence[ParkedEvent]",
    done: list[int],
    *,
    by: str,
    as_of: datetime,
) -> list[str]:
    """Retry or drop; add the ids to ``done``, and return why named events were left out."""
    from relay.postgres.operator import DeadEvents, Wanted

    async with DeadEvents.open(settings.conninfo, settings.schema_name) as dead_events:
        await dead_events.decide(action, which, by=by, as_of=as_of, done=done.extend)
        if isinstance(which, Wanted):
            return [] if done else ["none of them is dead any more: somebody else was quicker"]
        return [
            f"event {id_} is not dead any more{fate(await dead_events.decisions(str(id_)))}"
            for id_ in sorted({each.id for each in which} - set(done))
        ]


def _summary(action: "Action", count: int) -> str:
    return f"{'dropped' if action == 'drop' else 'retried'} {_events(count)}"


def _events(count: int) -> str:
    return f"{count} dead event{'' if count == 1 else 's'}"


dead = typer.Typer(
    name="dead",
    cls=Group,
    help="Look at events that could not be stored; retry or drop them.",
    epilog="Needs a login with the operator's role. Exit codes: 0 done, 1 nothing there or failed,"
    " 2 usage, 3 the schema is not as required.",
    no_args_is_help=True,
)
_RETRY: Final = """Let dead events be tried again, in the order of each key.

A relay that leads takes them within a second, under new message ids, so that a stream's duplicate
window does not swallow them. Asks first, unless events are named by their ids.
"""
_DROP: Final = (
    "Delete dead events for good; asks first. A line of the audit stays, without the payload."
)
dead.command("list", cls=Command)(list_)
dead.command("show", cls=Command)(show)
dead.command("retry", cls=Command)(_deciding("retry", _RETRY))
dead.command("drop", cls=Command)(_deciding("drop", _DROP))
