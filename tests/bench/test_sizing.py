"""The sizing formulas: the README says them as the code has them, and they say what they should."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench import formulas
from bench.formulas import Load, Machine, disk_bytes, reads, row_bytes, rows, wal_bytes
from bench.sizing import Checked, app, told

README = (Path(__file__).parents[2] / "bench" / "README.md").read_text(encoding="utf-8")
SECTION = README.partition("## How much it takes")[2].partition("\n## ")[0]


def test_the_readme_says_the_constants_that_the_formulas_have() -> None:
    each = formulas.WAL_INSERT + formulas.WAL_COMMIT + formulas.WAL_DELETE
    for constant in (
        formulas.ROW,
        formulas.TOASTED_FROM,
        formulas.TOAST_ROW,
        formulas.PER_CHUNK,
        formulas.CHUNK,
        formulas.VACUUMED_AT,
        each,
        formulas.WAL_RELAY,
        formulas.ID,
    ):
        assert re.search(rf"\b{constant:,}\b", SECTION), constant


def test_a_day_of_events_takes_what_a_person_reckons() -> None:
    load = Load(100, 483, retention=86_400.0)
    assert rows(load) == pytest.approx(100 * (86_400 * 17 / 16 + 10))
    assert row_bytes(load) == formulas.ROW + 500
    assert 5.6e9 < disk_bytes(load) < 6.3e9, "the sum of relay/cli/README.md, and what is dead"


def test_what_is_held_longer_written_more_or_stands_apart_takes_more() -> None:
    load = Load(100, 500)
    for more in ({"rate": 101}, {"payload": 501}, {"names": 18}, {"retention": 901}):
        assert disk_bytes(replace(load, **more)) > disk_bytes(load)
    assert wal_bytes(replace(load, checkpoint=3_600)) < wal_bytes(load)
    apart = formulas.TOASTED_FROM
    assert row_bytes(replace(load, payload=apart)) > row_bytes(load) + apart - 500


def test_cpu_is_that_of_reads_and_events() -> None:
    here = Machine(rest=0.02, ring=0.001, read=0.0005, event=0.00001)
    assert here.rung(100) == pytest.approx(0.12)
    assert reads(8_000) == pytest.approx(50)
    assert here.paced(8_000) == pytest.approx(0.02 + 0.025 + 0.08)


def test_a_formula_holds_within_15_percent() -> None:
    said = [Checked("x", "", value, 100.0).holds for value in (84.9, 85.1, 114.9, 115.1)]
    assert said == [False, True, True, False]


def test_a_load_is_told_without_measuring() -> None:
    done = CliRunner().invoke(app, ["--rate", "300", "--payload", "800"])
    assert json.loads(done.stdout) == told(Load(300, 800))
