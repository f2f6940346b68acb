"""Named places in the relay where a test's process dies or freezes: see ``tests/failpoints.py``.

In every other process ``reach`` does nothing: a call takes 30 ns, and the relay makes a few for
each page, none for an event.
"""

from typing import Final, Literal, get_args

Place = Literal[
    "after read",
    "before send",
    "after send",
    "before ack",
    "after ack",
    "before settle",
    "after settle",
]
PLACES: Final[tuple[Place, ...]] = get_args(Place)
"""In the order in which a page meets them."""


def reach(_place: Place) -> None:
    """Say that the relay is at this place now."""
