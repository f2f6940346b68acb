"""Each promise has a tag that stands in the README, its modules and tests, and nowhere else."""

import re
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]
TAG = re.compile(r"\bR-[A-Z]+\b")
FIRST_SCREEN = 40
"""Lines."""

README = (TOP / "README.md").read_text(encoding="utf-8")
PROMISED = README.partition("## What is promised")[2].partition("\n## ")[0]
ROW = re.compile(r"^\| `(R-[A-Z]+)` \|.*\| ([^|]*) \|$", re.MULTILINE)
KEPT_BY = {tag: re.findall(r"`([^`]+)`", by) for tag, by in ROW.findall(PROMISED)}


def tags_of(*folders: str, lines: int | None = None) -> dict[str, set[str]]:
    """Each tag, with the files that hold it, within their first ``lines``."""
    found: dict[str, set[str]] = {}
    for folder in folders:
        for path in sorted((TOP / folder).rglob("*")):
            if path.suffix not in {".py", ".sql", ".pml"} or path == Path(__file__):
                continue
            text = path.read_text(encoding="utf-8").splitlines()[:lines]
            for tag in TAG.findall("\n".join(text)):
                found.setdefault(tag, set()).add(str(path.relative_to(TOP)))
    return found


def test_the_readme_the_modules_and_the_tests_hold_the_same_tags() -> None:
    promised = set(KEPT_BY)
    assert len(promised) == 8
    assert set(TAG.findall(README)) == promised
    assert tags_of("relay", "sql").keys() == promised
    assert tags_of("tests").keys() == promised


@pytest.mark.parametrize("tag", sorted(KEPT_BY))
def test_a_promise_is_named_on_the_first_screen_of_the_modules_that_keep_it(tag: str) -> None:
    keepers = KEPT_BY[tag]
    assert keepers
    assert set(keepers) <= tags_of("relay", "sql", lines=FIRST_SCREEN)[tag]


def test_the_readme_of_the_tests_names_every_folder_marker_and_variable() -> None:
    text = (TOP / "tests" / "README.md").read_text(encoding="utf-8")
    folders = {path.parent.name for path in (TOP / "tests").glob("*/*.py")}
    markers = re.findall(r'^  "(\w+): ', (TOP / "pyproject.toml").read_text(), re.MULTILINE)
    code = "".join(path.read_text(encoding="utf-8") for path in (TOP / "tests").rglob("*.py"))
    variables = set(re.findall(r"RELAY_TEST_[A-Z_]+\b", code))
    assert {name for name in folders if f"`{name}/`" not in text} == set()
    assert {name for name in markers if f"| `{name}` |" not in text} == set()
    assert set(re.findall(r"RELAY_TEST_[A-Z_]+\b", text)) == variables
    assert KEPT_BY.keys() == set(re.findall(r"^\| `(R-[A-Z]+)` \|", text, re.MULTILINE))
    for path in re.findall(r"`([a-z]+/[\w/]+\.(?:py|pml|md))`", text):
        assert any((TOP / top / path).exists() for top in ("tests", ".")), path
