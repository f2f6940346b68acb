"""``relay status --watch``: the status once a second, until Ctrl-C.

On a terminal it is drawn in place, elsewhere a line a second is written. Three tasks, so that
whoever does not answer holds up nobody else: one looks at Postgres, one at NATS, and one draws what
they saw last, with its age. An outage is shown and waited for; what a person has to change ends it,
at the first look.

The drawing owns the terminal: log lines that come meanwhile are written above it.
"""

import io
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TextIO, cast

import anyio

from relay import logs
from relay.commands.dead.terminal import plain
from relay.commands.status import lines, look_at_nats, look_at_outbox, report_of
from relay.core import durations
from relay.core.breakers import State
from relay.errors import LoginRefused, Outage
from relay.settings import Settings

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from relay.postgres.session import Session

LOOK_EVERY: Final = 1.0
NATS_EVERY: Final = 5.0
_OLD_AFTER: Final = 3.0


class Watch:
    """What was seen last."""

    def __init__(self, settings: Settings) -> None:
        """Begin with nothing."""
        self._settings = settings
        self._nats: dict[str, Any] | None = None
        self._report: dict[str, Any] | None = None
        self._seen_at = anyio.current_time()
        self._rate = 0.0
        self._trouble = ""

    async def look(self) -> None:
        """Look at Postgres until cancelled.

        Raises:
            SchemaError, LoginRefused: at the first look.
        """
        from relay.postgres.session import Session

        while True:
            try:
                name = "status"
                async with await Session.connect(self._settings.conninfo, name) as session:
                    while True:
                        await self._look_once(session)
                        await anyio.sleep(LOOK_EVERY)
            except Outage as outage:
                if self._report is None and isinstance(outage, LoginRefused):
                    raise
                self._trouble = str(outage)
            await anyio.sleep(LOOK_EVERY)

    async def look_at_nats(self) -> None:
        """Look at NATS and the stream until cancelled."""
        while True:
            self._nats = await look_at_nats(self._settings)
            await anyio.sleep(NATS_EVERY)

    async def _look_once(self, session: "Session") -> None:
        row = await look_at_outbox(session, self._settings.schema_name)
        now, before = anyio.current_time(), self._report
        if before is not None:
            settled = row["delivered"] - before["delivered"]
            self._rate = max(0.0, settled / max(now - self._seen_at, 1e-3))
        self._report = report_of(self._settings, row, self._nats)
        self._seen_at, self._trouble = now, ""

    @property
    def trouble(self) -> str:
        """Why what was seen last is not the present; empty if it is."""
        age = anyio.current_time() - self._seen_at
        if self._trouble:
            return f"Postgres is away for {durations.format(round(age))}: {self._trouble}"
        return "Postgres does not answer" if age > _OLD_AFTER else ""

    def rows(self) -> list[tuple[str, str]]:
        """Return labels and texts."""
        told = [] if self._report is None else [*lines(self._report)]
        if told:
            told.insert(4, ("rate", f"{self._rate:,.0f} events/s"))
        return [*told, ("trouble", self.trouble)] if self.trouble else told

    def line(self) -> str:
        """Return the same on one line, the most important of it."""
        at = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
        report = self._report
        if self.trouble or report is None:
            return f"{at} {plain(self.trouble or 'looking')}"
        return (
            f"{at} leader {plain(report['leader'] or 'none')}, epoch {report['epoch']},"
            f" {self._rate:,.0f} events/s, lag {durations.format(round(report['lag_seconds'], 3))},"
            f" backlog {report['backlog']}, parked {report['parked']}, held {report['held']},"
            f" dead {report['dead']},"
            f" breakers {report['circuit_breaker']} {report['bus_breaker'] or 'unknown'}"
        )


async def run_watch(settings: Settings) -> None:
    """Show the status until interrupted.

    Raises:
        SchemaError: the schema is missing, or may not be read by this login.
        StoreLoginRefused: Postgres does not let us in.
    """
    from rich.console import Console

    watch = Watch(settings)
    console = Console(highlight=False, emoji=False)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch.look)
        tasks.start_soon(watch.look_at_nats)
        if console.is_terminal and not console.is_dumb_terminal:
            await _draw(watch, console)
        else:
            await _write(watch)


async def _draw(watch: Watch, console: "Console") -> None:
    from rich.live import Live

    above, logged = cast("TextIO", _Above(console)), sys.stderr  # which Live puts another one for
    with Live(console=console, auto_refresh=False) as live, logs.written_to(above, logged):
        while True:
            live.update(_table(watch.rows()), refresh=True)
            await anyio.sleep(LOOK_EVERY / 2)


class _Above(io.TextIOBase):
    """A stream whose lines are written above what is drawn."""

    def __init__(self, console: "Console") -> None:
        super().__init__()
        self._console = console
        self._rest = ""

    def write(self, text: str) -> int:
        """Write the whole lines; keep the rest until its end comes."""
        *whole, self._rest = (self._rest + text).split("\n")
        for line in whole:
            self._console.print(plain(line), markup=False, soft_wrap=True)
        return len(text)


async def _write(watch: Watch) -> None:
    while True:
        await anyio.sleep(LOOK_EVERY)
        sys.stdout.write(f"{watch.line()}\n")
        sys.stdout.flush()


def _table(rows: list[tuple[str, str]]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    made.add_column(style="bold", no_wrap=True)
    made.add_column(overflow="fold")
    for label, text in rows or [("looking", "…")]:
        made.add_row(label, Text(plain(text), style=_style(label, text)))
    made.caption = f"{datetime.now(UTC):%H:%M:%SZ}, Ctrl-C ends"
    made.caption_justify = "left"
    return made


def _style(label: str, text: str) -> str:
    """Return how a line is to stand out, if it is."""
    bad: Mapping[str, bool] = {
        "trouble": True,
        "leader": text.startswith("none"),
        "breakers": State.OPEN in text,
        "dead": not text.startswith("0 "),
        "nats": text not in {"answers", "not asked yet"},
    }
    return "bold red" if bad.get(label) else ""
