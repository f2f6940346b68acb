"""``relay status --watch``: the status once a second, until Ctrl-C.

On a terminal it is drawn in place, elsewhere a line a second is written. Three tasks, so that a
server that does not answer holds up nothing else: one looks at Postgres, one at NATS, and one draws
the latest answers, with their age. An outage is shown and waited for; what a person has to change
ends the command, at the first look.

The drawing owns the terminal: log lines that come meanwhile are written above it.
"""

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import anyio

from relay import logs
from relay.cli.status import lines, look_at_nats, look_at_outbox, report_of
from relay.cli.text import lasting, plain
from relay.core.backoff import State
from relay.errors import LoginRefused, Outage
from relay.settings import Settings

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from relay.postgres.session import Session

_LOOK_EVERY: Final = 1.0
_NATS_EVERY: Final = 5.0
_OLD_AFTER: Final = 3.0


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


class Watch:
    """The latest answers."""

    def __init__(self, settings: Settings) -> None:
        """Begin without an answer."""
        self._settings = settings
        self._nats: dict[str, Any] | None = None
        self._report: dict[str, Any] | None = None
        self._looked_at = anyio.current_time()
        self._rate = 0.0
        self._outage = ""

    async def look(self) -> None:
        """Look at Postgres until cancelled.

        Raises:
            SchemaError, LoginRefused: at the first look.
        """
        from relay.postgres.session import Session

        while True:
            try:
                async with await Session.connect(self._settings.conninfo, "status") as session:
                    while True:
                        await self._look_once(session)
                        await anyio.sleep(_LOOK_EVERY)
            except Outage as outage:
                if self._report is None and isinstance(outage, LoginRefused):
                    raise
                self._outage = str(outage)
            await anyio.sleep(_LOOK_EVERY)

    async def look_at_nats(self) -> None:
        """Look at NATS and the stream until cancelled."""
        while True:
            self._nats = await look_at_nats(self._settings)
            await anyio.sleep(_NATS_EVERY)

    async def _look_once(self, session: "Session") -> None:
        row = await look_at_outbox(session, self._settings.schema_name)
        now, before = anyio.current_time(), self._report
        if before is not None:
            settled = row["delivered"] - before["delivered"]
            self._rate = max(0.0, settled / max(now - self._looked_at, 1e-3))
        self._report = report_of(self._settings, row, self._nats)
        self._looked_at, self._outage = now, ""

    @property
    def trouble(self) -> str:
        """Why the latest answer is not the present; empty if it is."""
        age = anyio.current_time() - self._looked_at
        if self._outage:
            return f"Postgres is away for {lasting(round(age))}: {self._outage}"
        return "Postgres does not answer" if age > _OLD_AFTER else ""

    def rows(self) -> list[tuple[str, str]]:
        """Return labels and texts."""
        rows = [] if self._report is None else [*lines(self._report)]
        if rows:
            rows.insert(4, ("rate", f"{self._rate:,.0f} events/s"))
        return [*rows, ("trouble", self.trouble)] if self.trouble else rows

    def line(self) -> str:
        """Return the most important of it on one line."""
        at = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
        report = self._report
        if self.trouble or report is None:
            return f"{at} {plain(self.trouble or 'looking')}"
        return (
            f"{at} leader {plain(report['leader'] or 'none')}, epoch {report['epoch']},"
            f" {self._rate:,.0f} events/s, lag {lasting(report['lag_seconds'])},"
            f" backlog {report['backlog']}, parked {report['parked']}, held {report['held']},"
            f" dead {report['dead']},"
            f" breakers {report['circuit_breaker']} {report['bus_breaker'] or 'unknown'}"
        )


async def _write(watch: Watch) -> None:
    while True:
        await anyio.sleep(_LOOK_EVERY)
        sys.stdout.write(f"{watch.line()}\n")
        sys.stdout.flush()


async def _draw(watch: Watch, console: "Console") -> None:
    from rich.live import Live

    logged = sys.stderr
    live = Live(console=console, auto_refresh=False)
    # Live puts a stream in its place that writes above the drawing.
    with live, logs.written_to(sys.stderr, logged):
        while True:
            live.update(_table(watch.rows()), refresh=True)
            await anyio.sleep(_LOOK_EVERY / 2)


def _table(rows: list[tuple[str, str]]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for label, text in rows or [("looking", "…")]:
        table.add_row(label, Text(plain(text), style="bold red" if _is_bad(label, text) else ""))
    table.caption = f"{datetime.now(UTC):%H:%M:%SZ}, Ctrl-C ends"
    table.caption_justify = "left"
    return table


def _is_bad(label: str, text: str) -> bool:
    match label:
        case "trouble":
            return True
        case "leader":
            return text.startswith("none")
        case "breakers":
            return State.OPEN in text
        case "dead":
            return not text.startswith("0 ")
        case "nats":
            return text not in {"answers", "not asked yet"}
        case _:
            return False
