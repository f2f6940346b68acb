"""What a seeded bug is: one change of one file, and the tests that must not let it pass."""

from dataclasses import dataclass
from typing import Final

USUAL: Final = 60
HANGS: Final = 20
"""``patience``: mostly, and for a bug that makes a test wait for ever which else takes 3 s."""


@dataclass(frozen=True, slots=True)
class Bug:
    """One wrong version.

    Attributes:
        name: what is wrong, as a person would say it.
        path: the file, from the repository's top.
        right: text that stands in it exactly once.
        wrong: what the bug has instead.
        tests: what of the suite is run: paths and node ids, as pytest takes them.
        patience: seconds after which a test has caught the bug by waiting for ever.
    """

    name: str
    path: str
    right: str
    wrong: str
    tests: tuple[str, ...]
    patience: int = USUAL
