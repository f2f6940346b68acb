"""The demo's result, for a person and for a program."""

import json
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from rich.table import Table

from relay.demo.check import Findings, StreamMessage


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one demo.

    Attributes:
        committed: events that the producers committed.
        stored: messages in the stream.
        verdict: the comparison of both.
        p50_ms: half of the messages were in the stream within this time after their insert.
        p99_ms: the same for 99 % of them.
        events_per_second: from the first event's creation to the last message's storing.
    """

    committed: int
    stored: int
    verdict: Findings
    p50_ms: float
    p99_ms: float
    events_per_second: float

    @property
    def is_good(self) -> bool:
        """Whether something was committed and nothing is wrong with it."""
        return self.committed > 0 and self.verdict.is_clean

    def as_json(self) -> str:
        """Write it on one line; every value is a number."""
        return json.dumps(
            {
                "committed": self.committed,
                "stored": self.stored,
                **self._faults(),
                "latency_ms": {"p50": round(self.p50_ms, 3), "p99": round(self.p99_ms, 3)},
                "events_per_second": round(self.events_per_second, 1),
            }
        )

    def as_table(self) -> Table:
        """Lay it out for a terminal."""
        table = Table(title="Committed against stored", show_header=False)
        table.add_column()
        table.add_column(justify="right")
        table.add_row("committed by the producers", f"{self.committed:,}")
        table.add_row("stored in the stream", f"{self.stored:,}")
        for name, count in self._faults().items():
            table.add_row(name, f"{count:,}", style="bold red" if count else "green")
        table.add_row("latency p50", f"{self.p50_ms:.1f} ms")
        table.add_row("latency p99", f"{self.p99_ms:.1f} ms")
        table.add_row("events per second", f"{self.events_per_second:,.0f}")
        return table

    def _faults(self) -> dict[str, int]:
        verdict = self.verdict
        return {
            "lost": len(verdict.lost),
            "duplicates": len(verdict.duplicates),
            "phantoms": len(verdict.phantoms),
            "reordered": len(verdict.reordered),
            "corrupt": len(verdict.corrupt),
        }


def summarize(committed: int, stream: Sequence[StreamMessage], verdict: Findings) -> Result:
    """Make the result out of the stream, read back whole and in order."""
    latencies = [m.latency for m in stream if m.latency is not None]
    created = [m.created_at for m in stream if m.created_at is not None]
    stored = [m.stored_at for m in stream if m.stored_at is not None]
    took = (max(stored) - min(created)).total_seconds() if created and stored else 0.0
    return Result(
        committed=committed,
        stored=len(stream),
        verdict=verdict,
        p50_ms=latency_ms(latencies, 50),
        p99_ms=latency_ms(latencies, 99),
        events_per_second=len(stream) / took if took > 0 else 0.0,
    )


def latency_ms(latencies: Collection[float], percent: float) -> float:
    """Return a percentile (nearest rank) of latencies in s, in ms; 0.0 if there are none."""
    if not latencies:
        return 0.0
    rank = max(1, math.ceil(len(latencies) * percent / 100))
    return sorted(latencies)[rank - 1] * 1000
