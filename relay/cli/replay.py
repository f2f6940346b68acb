"""``relay replay``: publish delivered events once more, under new message ids.

    look ──► ask, unless told not to ──► begin ──► hand over, bit by bit ──► wait ──► say what came
              └ --dry-run ends here          Ctrl-C: say how to go on ◄──┘

The relay that leads publishes; this process only hands events to it. What that means for the order
of a key, for whoever dies meanwhile, and for retention: ``relay.postgres.replay``.
"""

import json
import logging
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any, Final

import anyio
import typer

from relay.cli.deciding import (
    PANEL,
    REPLAYED,
    By,
    DryRun,
    Yes,
    ask,
    selection_of,
    this_user,
)
from relay.cli.deciding import rate as parsed_rate
from relay.cli.options import (
    ALWAYS,
    INTERRUPTED,
    LARGEST_BIGINT,
    NATS,
    Json,
    progress_bar,
    with_settings,
)
from relay.cli.text import counted, instant, plain, rfc3339
from relay.core.durations import lasting
from relay.errors import BusOutage, RelayError
from relay.settings import Settings

if TYPE_CHECKING:
    from relay.postgres.replay import Replay, Replays
    from relay.postgres.selection import Matches, Selection

log = logging.getLogger("relay.cli")

_NAMED: Final = 20
"""Refused events that are named."""

_STANDSTILL: Final = 10.0
"""s without progress, after which that is said."""


@with_settings(*ALWAYS, *NATS, "stream", "message_id_prefix", filters=REPLAYED)
def replay(
    settings: Settings,
    *,
    filters: Mapping[str, Any],
    everything: Annotated[
        bool,
        typer.Option(
            "--all", help="All that the outbox holds.", show_default=False, rich_help_panel=PANEL
        ),
    ] = False,
    going_on: Annotated[
        int | None,
        typer.Option(
            "--continue",
            min=1,
            max=LARGEST_BIGINT,
            help="Go on with a replay that was interrupted.",
            metavar="REPLAY",
            show_default=False,
            rich_help_panel=PANEL,
        ),
    ] = None,
    same_id: Annotated[
        bool, typer.Option("--same-id", help="Keep the message ids that the events had.")
    ] = False,
    rate: Annotated[
        float | None,
        typer.Option(
            help="Events a second, at most.",
            metavar="NUMBER",
            parser=parsed_rate,
            show_default=False,
        ),
    ] = None,
    by: By = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    json_: Json = False,
) -> None:
    """Publish delivered events again, in the order of each key, as long as the outbox holds them.

    The relay that leads publishes them, under new message ids and with the header Relay-Replay.
    Live events wait for the replayed ones of their own key, and for no others. Ctrl-C leaves a
    clean state and says how to go on. Needs a login with the operator's role; asks first.
    """
    if bool(filters) + everything + (going_on is not None) != 1:
        raise typer.BadParameter(
            "say whom you mean in one way: by filters such as --ids, by --all, or by --continue"
        )
    if going_on is not None and (same_id or dry_run):
        raise typer.BadParameter("--continue goes on as it began: without --same-id and --dry-run")
    command = _Command(settings, same_id=same_id, rate=rate, by=by or this_user(), json_=json_)
    if going_on is not None:
        sys.exit(anyio.run(command.go_on, going_on))
    selection = selection_of(filters, settings.message_id_prefix)
    matches = anyio.run(command.look, selection)
    if dry_run:
        report = as_json(matches, filters) | {"dry_run": True}
        typer.echo(json.dumps(report)) if json_ else _say(matches, filters, err=False)
        return
    if not matches.events:
        _say(matches, filters)
        raise RelayError("nothing to be replayed: no delivered event matches")
    if not yes:
        _say(matches, filters)
        events = counted(matches.events, "event")
        ask(f"replay {events}", f"Publish {events} again")
    sys.exit(anyio.run(command.begin, selection))


class _Command:
    """One run of the command."""

    def __init__(
        self, settings: Settings, *, same_id: bool, rate: float | None, by: str, json_: bool
    ) -> None:
        self._settings = settings
        self._same_id = same_id
        self._rate = rate
        self._by = by
        self._json = json_

    async def look(self, selection: "Selection") -> "Matches":
        """Look what matches.

        Raises:
            RelayError: with --same-id, some of it would be swallowed.
        """
        from relay.postgres.replay import Replays

        async with Replays.open(self._settings.conninfo, self._settings.schema_name) as replays:
            window = await self._window(replays)
            matches = await replays.look(selection, window=window)
        self._refuse_young(matches, window)
        return matches

    async def begin(self, selection: "Selection") -> int:
        """Replay what matches now; return the exit code."""
        from relay.postgres.replay import Replays

        async with Replays.open(self._settings.conninfo, self._settings.schema_name) as replays:
            window = await self._window(replays)

            def judge(matches: "Matches") -> None:
                self._refuse_young(matches, window)
                if not matches.events:
                    raise RelayError("nothing to be replayed any more: no delivered event matches")

            begun = await replays.begin(
                selection, same_id=self._same_id, by=self._by, window=window, judge=judge
            )
            return await self._run(replays, begun)

    async def go_on(self, id_: int) -> int:
        """Go on with replay ``id_``; return the exit code."""
        from relay.postgres.replay import Replays

        async with Replays.open(self._settings.conninfo, self._settings.schema_name) as replays:
            return await self._run(replays, await replays.go_on(id_, by=self._by))

    def _refuse_young(self, matches: "Matches", window: float) -> None:
        if self._same_id and matches.young:
            raise RelayError(
                f"{matches.young} of {counted(matches.events, 'event')} may have been stored within"
                f" the stream's duplicate window, {lasting(window)}: under the same message ids the"
                " stream would swallow them. Leave out --same-id, or try again when they are older"
                " (an event counts from its settlement, noted every sixteenth of RELAY_RETENTION)"
            )

    async def _window(self, replays: "Replays") -> float:
        """Return what --same-id has to know, in s: the longest duplicate window of the streams."""
        from relay.app import bus_options
        from relay.jetstream.setup import duplicate_window

        if not self._same_id:
            return 0.0
        stream = self._settings.stream
        named = [stream] if stream else await replays.streams()
        try:
            return await duplicate_window(bus_options(self._settings), named)
        except BusOutage as why:
            raise BusOutage(f"--same-id has to know the stream's duplicate window: {why}") from why

    async def _run(self, replays: "Replays", replay: "Replay") -> int:
        stop, whole, refused, total = anyio.Event(), False, list[tuple[int, str]](), 0
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_stop_on_signal, stop, tasks.cancel_scope)
            try:
                with _progress(replay) as progress:
                    whole = await replays.run(replay, rate=self._rate, stop=stop, progress=progress)
            except RelayError as error:
                raise RelayError(f"{error}\n{_how_to_go_on(replay)}") from error
            refused[:], total = await replays.refused(replay, _NAMED)
            tasks.cancel_scope.cancel()
        self._report(replay, refused, total, whole=whole)
        if not whole:
            return INTERRUPTED
        return 1 if total else 0

    def _report(
        self, replay: "Replay", refused: Sequence[tuple[int, str]], total: int, *, whole: bool
    ) -> None:
        if self._json:
            report = {
                "replay": replay.id,
                "events": replay.events,
                "marked": replay.marked,
                "published": replay.published - total,
                "refused": total,
                "skipped": replay.skipped,
                "interrupted": not whole,
                "by": self._by,
            }
            typer.echo(json.dumps(report))
        else:
            stored = counted(replay.published - total, "event")
            typer.echo(f"replay {replay.id}: {stored} of {replay.events} published again")
        if replay.skipped:
            left_out = counted(replay.skipped, "event")
            typer.echo(f"{left_out} left out: parked or deleted since the replay began", err=True)
        for id_, error in refused:
            typer.echo(f"event {id_} was refused, and is dead: {plain(error)}", err=True)
        if total:
            typer.echo(f"{total} refused in all: see relay dead list, show, retry", err=True)
        if not whole:
            typer.echo(_how_to_go_on(replay), err=True)


def _how_to_go_on(replay: "Replay") -> str:
    if replay.marked + replay.skipped >= replay.events:
        return f"all of replay {replay.id} is handed over: the relay that leads publishes the rest"
    return f"interrupted, nothing is lost or doubled; to go on: relay replay --continue {replay.id}"


async def _stop_on_signal(stop: anyio.Event, work: anyio.CancelScope) -> None:
    """Stop in order at the first SIGINT or SIGTERM, at once at the second."""
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            if stop.is_set():
                work.cancel()
            stop.set()


@contextmanager
def _progress(replay: "Replay") -> Iterator[Callable[["Replay"], None]]:
    """Yield what to call at each step: it moves a bar on a terminal, and says what stands still."""
    watch, events = _Watch(), max(1, replay.events)
    with progress_bar("replaying") as bar:

        def move(now: "Replay") -> None:
            bar(now.published, events)
            watch.look(now)

        yield move


class _Watch:
    """Says so, and where to look, when nothing was published for a while."""

    def __init__(self) -> None:
        self._gone = 0
        self._say_at = 0.0

    def look(self, replay: "Replay") -> None:
        """Compare with the last look."""
        now, gone = monotonic(), replay.marked - replay.in_flight
        if gone != self._gone or not self._say_at or not replay.in_flight:
            self._gone, self._say_at = gone, now + _STANDSTILL
        elif now > self._say_at:
            self._say_at = now + _STANDSTILL
            why = "no relay leads" if not replay.led else "see relay status and relay dead list"
            log.warning(
                "%s handed over, and none of them published for %s: %s",
                counted(replay.in_flight, "event"),
                lasting(_STANDSTILL),
                why,
            )


def as_json(matches: "Matches", filters: Mapping[str, Any]) -> dict[str, Any]:
    """Return what matches, as plain values; instants as RFC 3339."""
    return {
        "events": matches.events,
        "first_id": matches.first_id,
        "last_id": matches.last_id,
        "first_at": rfc3339(matches.first_at),
        "last_at": rfc3339(matches.last_at),
        "parked": matches.parked,
        "waiting": matches.waiting,
        "oldest_retained_id": matches.lowest_id,
        "oldest_retained_at": rfc3339(matches.lowest_at),
        "past_retention": past_retention(matches, filters) or None,
    }


def past_retention(matches: "Matches", filters: Mapping[str, Any]) -> str:
    """Say what of that which was asked for is gone; "" if nothing can be."""
    named = filters.get("message_id") or ()
    if len(named) > matches.matching:
        return f"{len(named) - matches.matching} of {len(named)} message ids are not in the outbox"
    if matches.lowest_id is None:
        return "the outbox holds no event: all were deleted, past their retention"
    low, _ = filters.get("ids", (None, None))
    since = filters.get("since")
    assert matches.lowest_at is not None
    if (low is not None and low >= matches.lowest_id) or (since and since >= matches.lowest_at):
        return ""
    return (
        f"the outbox holds nothing before id {matches.lowest_id}, written"
        f" {instant(matches.lowest_at)}: what was older is past retention"
    )


def _say(matches: "Matches", filters: Mapping[str, Any], *, err: bool = True) -> None:
    def say(line: str) -> None:
        typer.echo(line, err=err)

    say(counted(matches.events, "delivered event") + " to be published again")
    if matches.events:
        say(f"ids {matches.first_id} to {matches.last_id}")
        say(f"written {instant(matches.first_at)} to {instant(matches.last_at)}")
    if matches.parked:
        say(f"left out: {counted(matches.parked, 'parked or dead event')}, see relay dead list")
    if matches.waiting:
        say(f"left out: {counted(matches.waiting, 'event')} not delivered yet")
    if gone := past_retention(matches, filters):
        say(gone)
