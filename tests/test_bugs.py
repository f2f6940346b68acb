"""The seeded bugs still fit the code; ``python -m tests.bugs`` runs the tests against each."""

import pytest

from tests.bugs.__main__ import TOP, seeded
from tests.bugs.bug import Bug
from tests.bugs.catalogue import BUGS


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_seeded_bug_changes_one_place_and_names_tests_that_exist(bug: Bug) -> None:
    text = (TOP / bug.path).read_text(encoding="utf-8")
    assert seeded(text, bug) != text
    for test in bug.tests:
        file, _, name = test.partition("::")
        assert (TOP / file).exists()
        assert name.split("::")[-1] in (TOP / file).read_text(encoding="utf-8") if name else True


def test_there_are_at_least_sixty() -> None:
    assert len({bug.name for bug in BUGS}) == len(BUGS) >= 60
