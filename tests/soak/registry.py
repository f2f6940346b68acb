"""The kinds of faults that can be inflicted: filled by the modules that hold them.

A fault takes itself back before it returns, and returns whether it happened: one that finds its
victim away already counts as missed. What two faults must not do to the same thing at once they do
one after the other.
"""

import threading
from collections.abc import Callable
from typing import Final

from tests.soak.schedule import Params
from tests.soak.world import World

Do = Callable[[World, Params], bool]

FAULTS: Final[dict[str, tuple[str, Do]]] = {}
"""By kind: what it holds, and what it does."""


def fault(kind: str, holds: str = "") -> Callable[[Do], Do]:
    """Register what a ``kind`` does, while it ``holds`` a lock: a name, a parameter in braces."""

    def register(do: Do) -> Do:
        FAULTS[kind] = (holds, do)
        return do

    return register


def rest(params: Params) -> None:
    """Let the fault last as long as it was planned."""
    threading.Event().wait(float(params["seconds"]))
