"""What a soak found, for a person and for a program."""

import json
import statistics
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from relay.audit.oracle import Findings
from tests.soak.watch import Trend

_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Report:
    """The figures; times in seconds, memory in bytes.

    Attributes:
        done: faults by kind that happened.
        missed: faults by kind whose victim was away already.
        violations: what the oracle does not look at, such as a relay that ended by itself.
        recoveries: from a server's being back to the next stored message, by server.
        survivor: the trend of the relay that no fault ends.
    """

    minutes: float
    seed: int
    first_round: int
    rounds: int
    seconds: float
    committed: int
    rolled_back: int
    stored: int
    dead: int
    done: dict[str, int]
    missed: dict[str, int]
    verdict: Findings
    violations: tuple[str, ...]
    drain_median: float
    drain_most: float
    recoveries: dict[str, list[float]]
    relays_started: int
    survivor: Trend | None
    peak_rss: int
    peak_files: int

    @property
    def is_clean(self) -> bool:
        """Whether nothing at all is wrong, with something committed and something broken."""
        return self.verdict.is_clean and not self.violations and self.committed > 0

    @property
    def replay(self) -> str:
        """The command that plays the same faults at the same moments."""
        first = f" --first-round {self.first_round}" if self.first_round else ""
        return f"python -m tests.soak --minutes {self.minutes:g} --seed {self.seed}{first}"

    def as_json(self) -> str:
        """Write everything on one line."""
        more = {"is_clean": self.is_clean, "faults": sum(self.done.values()), "replay": self.replay}
        return json.dumps(asdict(self) | more)

    def as_table(self) -> Table:
        """Lay it out for a terminal."""
        table = Table(title="Soak", show_header=False)
        table.add_column()
        table.add_column(justify="right")
        for name, value in self._rows().items():
            table.add_row(name, str(value))
        for kind in sorted(self.done.keys() | self.missed.keys()):
            missed = f" (+ {self.missed[kind]} missed)" if kind in self.missed else ""
            table.add_row(f"  {kind}", f"{self.done.get(kind, 0)}{missed}")
        return table

    def _rows(self) -> dict[str, Any]:
        rows: dict[str, Any] = {
            "seed": self.seed,
            "rounds": self.rounds,
            "took": f"{self.seconds / 60:.1f} min",
            "events committed": f"{self.committed:,}",
            "events rolled back": f"{self.rolled_back:,}",
            "messages stored": f"{self.stored:,}",
            "dead letters, all on purpose": self.dead,
            "lost": len(self.verdict.lost),
            "duplicates": len(self.verdict.duplicates),
            "phantoms": len(self.verdict.phantoms),
            "reordered": len(self.verdict.reordered),
            "corrupt": len(self.verdict.corrupt),
            "other violations": len(self.violations),
            "drained after healing": f"{self.drain_median:.1f} s, at most {self.drain_most:.1f} s",
            "relay processes": self.relays_started,
        }
        for server, took in self.recoveries.items():
            rows[f"{server} is back to the first message ({len(took)} times)"] = (
                f"{statistics.median(took):.2f} s, at most {max(took):.2f} s"
            )
        if self.survivor is not None:
            trend = self.survivor
            rows |= {
                "survivor's memory, first to last quartile": (
                    f"{trend.rss_first / _MIB:.1f} to {trend.rss_last / _MIB:.1f} MiB"
                ),
                "survivor's open files": f"{trend.files_first:g} to {trend.files_last:g}",
            }
        rows |= {
            "most memory of a relay": f"{self.peak_rss / _MIB:.1f} MiB",
            "most open files of a relay": self.peak_files,
            "faults": sum(self.done.values()),
        }
        return rows
