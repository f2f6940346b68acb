"""The models of tests/spec say the same in header, code and catalogue, and no failure is missed.

The models themselves are exhausted by ``make spec``.
"""

import re
from pathlib import Path

import pytest

from tests.spec import __main__ as spec
from tests.spec.catalogue import (
    HERE,
    LOST,
    NEVER_READ,
    OUT_OF_ORDER,
    OVERSLEPT,
    REPLACED_LATE,
    RUNS,
    SENT_LATE,
    SETTLED_LATE,
    TWICE,
    Run,
)

TOP = Path(__file__).parents[1]
MODELS = sorted(path.stem for path in HERE.glob("*.pml"))
SOURCES = {
    "bell": {
        "relay/engine/bell.py",
        "relay/postgres/bell.py",
        "relay/postgres/reading.py",
    },
    "cursor": {
        "relay/postgres/reading.py",
        "relay/engine/deliver.py",
    },
    "lease": {"relay/engine/lead.py", "relay/postgres/store.py"},
}
TAGS = {
    "bell": {"R-FIRST", "R-LOSS"},
    "cursor": {"R-PHANTOM", "R-LOSS", "R-ORDER"},
    "lease": {"R-TERM"},
}
HOLDS = """
State-vector 100 byte, depth reached 212, errors: 0
  2326298 states, stored
unreached in proctype relay
\t/models/bell.pml:293, state 158, "-end-"
"""
BROKEN = """pan:1: assertion violated  !(sleeps) (at depth 126)
Warning: Search not completed
State-vector 100 byte, depth reached 130, errors: 1
      153 states, stored
"""


def header(model: str) -> str:
    return (HERE / f"{model}.pml").read_text(encoding="utf-8").split("*/")[0]


@pytest.mark.parametrize("model", MODELS)
def test_every_define_stands_in_the_code_the_header_and_the_catalogue(model):
    """R-FIRST, R-PHANTOM, R-TERM: a variant that nobody runs shows nothing."""
    code = (HERE / f"{model}.pml").read_text(encoding="utf-8").split("*/", 1)[1]
    asked = set(re.findall(r"#\s*ifn?def\s+(\w+)", code)) | set(
        re.findall(r"defined\((\w+)\)", code)
    )
    explained = set(re.findall(r"^ \* {3}([A-Z][A-Z_]+)", header(model), re.MULTILINE)) | set(
        re.findall(r"-D([A-Z]+)\b", header(model))
    )
    listed = {d.split("=")[0] for run in RUNS if run.model == model for d in run.defines}
    assert listed == asked
    assert explained == asked


def test_the_catalogue_names_every_model_and_no_run_twice():
    assert {run.model for run in RUNS} == set(MODELS) == set(SOURCES)
    assert len({run.name for run in RUNS}) == len(RUNS)


@pytest.mark.parametrize("model", MODELS)
def test_every_model_holds_without_a_variant_and_breaks_with_three_or_more(model):
    runs = [run for run in RUNS if run.model == model]
    assert Run(model) in runs
    broken = [run for run in runs if run.shows and "REACH_" not in run.name]
    assert len(broken) >= 3
    assert any("REACH_" in run.name for run in runs)


@pytest.mark.parametrize("model", MODELS)
def test_every_promise_of_a_model_is_broken_by_some_variant(model):
    promises = {
        "bell": {OVERSLEPT, NEVER_READ},
        "cursor": {LOST, TWICE, OUT_OF_ORDER},
        "lease": {SENT_LATE, SETTLED_LATE, REPLACED_LATE},
    }
    shown = {run.shows for run in RUNS if run.model == model and "REACH_" not in run.name}
    assert shown - {""} == promises[model]


@pytest.mark.parametrize("model", MODELS)
def test_every_model_names_its_promises_and_source_files_that_are_there(model):
    named = set(re.findall(r"relay/[\w/]+\.py", header(model)))
    assert named == SOURCES[model]
    assert set(re.findall(r"R-[A-Z]+", header(model))) == TAGS[model]
    for path in named | set(re.findall(r"sql/\w+", header(model))):
        assert (TOP / path).exists(), path


@pytest.mark.parametrize(
    ("run", "output", "says"),
    [
        (Run("bell"), HOLDS, ""),
        (Run("bell"), BROKEN, "broken: assertion violated"),
        (Run("bell"), HOLDS + "error: max search depth too small", "not exhausted"),
        (Run("bell"), HOLDS + "Warning: Search not completed", "not exhausted"),
        (Run("bell"), HOLDS + '\t/models/bell.pml:200, state 9, "n = next"', "never reached"),
        (Run("bell"), "spin: bell.pml:3, Error: syntax error", "did not run"),
        (Run("bell", ("X",), OVERSLEPT), BROKEN, ""),
        (Run("bell", ("X",), OVERSLEPT), HOLDS, "holds, but"),
        (Run("bell", ("X",), LOST), BROKEN, "violated is"),
        (Run("bell", ("X",), OVERSLEPT), "pan: out of memory", "did not run"),
    ],
)
def test_whatever_differs_from_the_catalogue_is_a_surprise(run, output, says):
    got = spec.surprise(run, output)
    assert got.startswith(says) if says else got == ""


def test_without_spin_it_says_so_and_passes(monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("RELAY_TEST_REQUIRE_SPIN", raising=False)
    assert spec.main([]) == 0
    assert capsys.readouterr().out.startswith("skipped: spin and gcc not found")


def test_without_spin_it_fails_where_spin_is_required(monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("RELAY_TEST_REQUIRE_SPIN", "1")
    assert spec.main([]) == 1
    assert "required" in capsys.readouterr().err


def test_a_word_that_names_no_run_is_a_fault_in_the_command():
    with pytest.raises(SystemExit) as error:
        spec.main(["no-such-model"])
    assert error.value.code == 2
