"""What a seeded bug is: one change of one file, and the tests that must not let it pass."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bug:
    """One wrong version.

    Attributes:
        name: what is wrong, as a person would say it.
        path: the file, from the repository's top.
        right: text that stands in it exactly once.
        wrong: what the bug has instead.
        tests: what of the suite is run: paths and node ids, as pytest takes them.
    """

    name: str
    path: str
    right: str
    wrong: str
    tests: tuple[str, ...]
