"""The live view: a table that is drawn anew twice a second, on a terminal only."""

from collections.abc import Callable
from dataclasses import dataclass, field

import anyio
from rich.console import Console
from rich.live import Live
from rich.table import Table

from relay.demo.probe import Probe, Status
from relay.demo.workload import Ledger

_INTERVAL = 0.5


@dataclass(slots=True)
class _Rate:
    """Events/s between two looks."""

    before: int = 0
    at: float = field(default_factory=anyio.current_time)

    def of(self, count: int) -> float:
        now = anyio.current_time()
        rate = (count - self.before) / max(now - self.at, 1e-3)
        self.before, self.at = count, now
        return rate


async def show(probe: Probe, ledger: Ledger, phase: Callable[[], str], console: Console) -> None:
    """Draw until cancelled."""
    await probe.follow()
    rate = _Rate()
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            stored, status = await probe.stored(), await probe.status()
            table = Table(title=phase(), show_header=False, min_width=46)
            table.add_column()
            table.add_column(justify="right")
            for row in _rows(probe, ledger, stored, status, rate.of(stored)):
                table.add_row(*row)
            live.update(table)
            live.refresh()
            await anyio.sleep(_INTERVAL)


def _rows(
    probe: Probe, ledger: Ledger, stored: int, status: Status, rate: float
) -> list[tuple[str, str]]:
    return [
        ("running", f"{ledger.producing_for:.0f} s"),
        ("events committed", f"{len(ledger.events):,}"),
        ("stored in the stream", f"{stored:,}"),
        ("lag", f"{status.lag_seconds:.2f} s"),
        ("rate", f"{rate:,.0f} events/s"),
        ("latency p50", f"{probe.latency_ms(50):.1f} ms"),
        ("latency p99", f"{probe.latency_ms(99):.1f} ms"),
        ("wake-ups by bell", f"{status.wakes_bell:,}"),
        ("wake-ups by poll", f"{status.wakes_poll:,}"),
    ]
