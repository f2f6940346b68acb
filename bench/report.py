"""The report: what was found so far, as JSON, as Markdown, and as plots beside them.

It is written anew after each scenario, whole files replaced at once, so that a run that is broken
off leaves what it had measured.
"""

import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import plots
from bench.figures import Figure, Findings

SMOKE = "Scaled to {scale:g} of the load: a smoke test, not to be compared or judged."
HEAD = ("figure", "unit", "median", "range", "of limit", "target", "met")


@dataclass
class Part:
    """What became of one scenario.

    Attributes:
        name, what: the scenario's.
        findings: empty if it failed.
        seconds: how long it took.
        calibration: seconds of the fixed Python loop right before it.
        steal_percent: of the processors' time while it ran; None where nobody says.
        fault: why it failed; empty if it did not.
    """

    name: str
    what: str
    findings: Findings
    seconds: float
    calibration: float
    steal_percent: float | None
    fault: str = ""


@dataclass
class Report:
    """Everything, growing scenario by scenario."""

    machine: dict[str, Any]
    runs: int
    scale: float
    began_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    parts: list[Part] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return all of it in JSON's types."""
        return {
            "machine": self.machine,
            "began_at": self.began_at.isoformat(timespec="seconds"),
            "runs": self.runs,
            "scale": self.scale,
            "scenarios": [
                {
                    "name": part.name,
                    "seconds": round(part.seconds, 1),
                    "calibration": part.calibration,
                    "steal_percent": part.steal_percent,
                    "fault": part.fault,
                    "remarks": part.findings.remarks,
                    "tables": [asdict(table) for table in part.findings.tables],
                    "curves": [asdict(curve) for curve in part.findings.curves],
                }
                for part in self.parts
            ],
            "figures": [
                {"scenario": part.name, **figure.as_json()}
                for part in self.parts
                for figure in part.findings.figures
            ],
        }

    def as_markdown(self, pictures: list[str]) -> str:
        """Return all that a person wants to read."""
        lines = ["# Benchmark report", "", self._preface(), ""]
        for part in self.parts:
            lines += [f"## {part.name}: {part.what}", ""]
            if part.fault:
                lines += [f"**Not measured:** {part.fault}", ""]
            if part.findings.figures:
                lines += [*markdown(HEAD, [row(f) for f in part.findings.figures]), ""]
            for table in part.findings.tables:
                lines += [f"### {table.title}", "", *markdown(table.head, table.rows), ""]
            lines += [f"* {remark}" for remark in part.findings.remarks]
            lines += [f"* {self._quiet(part)}", ""]
        lines += [f"![{Path(name).stem}]({name})\n" for name in pictures]
        return "\n".join(lines).rstrip() + "\n"

    def write(self, folder: Path) -> str:
        """Write report.json, report.md and the plots; why there are no plots, or "".

        The folder is made if it is missing.
        """
        folder.mkdir(parents=True, exist_ok=True)
        curves = [curve for part in self.parts for curve in part.findings.curves]
        pictures, hint = plots.draw(curves, folder)
        replace(folder / "report.json", json.dumps(self.as_json(), indent=1) + "\n")
        text = self.as_markdown(pictures)
        replace(folder / "report.md", f"{text}\n{hint}\n" if hint else text)
        return hint

    def _preface(self) -> str:
        about = ", ".join(f"{name} {value}" for name, value in self.machine.items())
        scaled = f" **{SMOKE.format(scale=self.scale)}**" if self.scale < 1 else ""
        return (
            f"Begun {self.began_at:%Y-%m-%d %H:%M} UTC, {self.runs} run(s) of each; medians are"
            f" judged, what is compared took turns.{scaled}\n\n{about}"
        )

    def _quiet(self, part: Part) -> str:
        steal = "unknown" if part.steal_percent is None else f"{part.steal_percent:.1f} %"
        return (
            f"took {part.seconds:.0f} s; stolen processor time {steal};"
            f" calibration loop {part.calibration * 1000:.0f} ms"
        )


def row(figure: Figure) -> tuple[str, ...]:
    """Return a figure's cells, as in ``HEAD``."""
    return (
        figure.name,
        figure.unit,
        number(figure.median),
        f"{number(min(figure.values))} .. {number(max(figure.values))}",
        "" if figure.of_limit is None else f"{figure.of_limit:.2f}",
        figure.target,
        "" if figure.met is None else "yes" if figure.met else "NO",
    )


def number(value: float) -> str:
    """Write three significant digits or more, never an exponent."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def markdown(
    head: tuple[str, ...], rows: "list[tuple[str, ...]] | tuple[tuple[str, ...], ...]"
) -> list[str]:
    """Return a table's lines."""
    cells = [head, ("---",) * len(head), *rows]
    return [
        "| " + " | ".join(c.replace("|", "\\|").replace("\n", " ") for c in r) + " |" for r in cells
    ]


def replace(path: Path, text: str) -> None:
    """Write a file so that nobody ever sees half of it."""
    draft = path.with_suffix(".new")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)
