"""The report: whole after each scenario, honest about what is missing."""

import json
import sys
from pathlib import Path

import pytest

from bench.figures import Curve, Figure, Findings, Table, at_least
from bench.plots import HINT, TITLES
from bench.report import Part, Report

FINDINGS = Findings(
    [at_least("rate", "events/s", [90.0, 110.0], 95, [200.0, 200.0]), Figure("raw", "ms", (0.5,))],
    [Curve("drain", "rate", ((0, 100.0),)), Curve("steady", "run 1", ((0.0, 1.0), (1.0, 2.0)))],
    [Table("Words", ("who", "why"), (("a|b", "two\nlines"),))],
    ["a remark"],
)


def report_of(*parts: Part, scale: float = 1) -> Report:
    report = Report({"cores": 2, "python": "3"}, 2, scale)
    report.parts.extend(parts)
    return report


def part(name: str = "drain", findings: Findings = FINDINGS, fault: str = "") -> Part:
    return Part(name, "how fast", findings, 12.0, 0.1, 3.5, fault)


def test_it_says_median_range_share_target_and_verdict(tmp_path: Path) -> None:
    report_of(part()).write(tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "| rate | events/s | 100 | 90 .. 110 | 0.50 | >= 95 | yes |" in text
    assert "| raw | ms | 0.5 | 0.5 .. 0.5 |  |  |  |" in text
    assert "| a\\|b | two lines |" in text
    assert "* a remark" in text
    assert "stolen processor time 3.5 %; calibration loop 100 ms" in text
    assert "smoke test" not in text


def test_json_holds_every_value_and_the_machine(tmp_path: Path) -> None:
    report_of(part(), part("idle", Findings(), "RuntimeError: it broke")).write(tmp_path)
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["machine"]["cores"] == 2
    assert [(f["scenario"], f["name"]) for f in found["figures"]] == [
        ("drain", "rate"),
        ("drain", "raw"),
    ]
    assert found["scenarios"][1]["fault"] == "RuntimeError: it broke"


def test_a_scenario_that_failed_is_in_it_with_the_reason() -> None:
    text = report_of(part("idle", Findings(), "RuntimeError: it broke")).as_markdown([])
    assert "**Not measured:** RuntimeError: it broke" in text


def test_a_smoke_test_says_that_it_is_one() -> None:
    assert "smoke test" in report_of(part(), scale=0.02).as_markdown([])


def test_it_grows_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    report = report_of(part())
    report.write(tmp_path)
    report.parts.append(part("idle"))
    report.write(tmp_path)
    assert "## idle" in (tmp_path / "report.md").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "drain.png",
        "report.json",
        "report.md",
        "steady.png",
    ]


def test_every_plot_can_be_drawn(tmp_path: Path) -> None:
    curves = [Curve(plot, "one", ((0.5, 1.0), (2.0, 3.0))) for plot in TITLES]
    assert report_of(part(findings=Findings(curves=curves))).write(tmp_path) == ""
    for plot in TITLES:
        assert (tmp_path / f"{plot}.png").read_bytes()[:4] == b"\x89PNG"
        assert f"![{plot}]({plot}.png)" in (tmp_path / "report.md").read_text()


def test_without_matplotlib_it_says_how_to_get_plots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert report_of(part()).write(tmp_path) == HINT
    assert HINT in (tmp_path / "report.md").read_text()
    assert not list(tmp_path.glob("*.png"))
