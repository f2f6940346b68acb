"""The folder's README: each alert's link leads to its section, which says what the alert says."""

import re
from pathlib import Path
from typing import Any

import pytest

from relay import dashboards
from tests.dashboards.shown import RULES

README = Path(dashboards.__file__).with_name("README.md")
TEXT = README.read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^### (\w+)\n\n(.*?)(?=\n\n###|\Z)", TEXT, re.MULTILINE | re.DOTALL))


def plain(text: str) -> str:
    """The words of a text, without its marks and lines."""
    return " ".join(re.sub(r"\*\*|^- ", "", text, flags=re.MULTILINE).split())


def test_there_is_a_section_for_each_alert_and_no_other() -> None:
    assert sorted(SECTIONS) == sorted(RULES)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_the_link_of_an_alert_leads_to_its_section(rule: dict[str, Any]) -> None:
    path, _, place = rule["annotations"]["runbook_url"].partition("#")
    assert Path(__file__).parents[2] / path == README
    assert place == rule["alert"].lower(), "so GitHub makes an anchor of a heading"
    assert f"[`{rule['alert']}`](#{place})" in TEXT


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_a_section_says_when_it_rings_how_bad_that_is_and_the_runbook(rule: dict[str, Any]) -> None:
    first, _, runbook = SECTIONS[rule["alert"]].partition("\n\n")
    rings = re.search(rf"^\| \[`{rule['alert']}`\]\S+ \| \w+ \| (.*) \|$", TEXT, re.MULTILINE)
    assert rings
    assert plain(first) == f"Rings when {rings[1]}. Severity: {rule['labels']['severity']}."
    assert plain(runbook) == plain(rule["annotations"]["runbook"])


def test_every_shipped_file_is_explained() -> None:
    assert set(re.findall(r"^\| `([\w.-]+)` \|", TEXT, re.MULTILINE)) == set(dashboards.shipped())
