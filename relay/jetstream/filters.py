"""Which of many subject filters takes a subject: a trie of tokens. Pure.

    orders.*.placed, orders.>     orders ─► * ─► placed: A
                                         └► > : B

A look costs a few dictionary look-ups for each token, however many filters there are.
"""

from collections.abc import Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class Filters(Generic[T]):
    """Filters, each with what it leads to. Where several take a subject, the most literal wins."""

    def __init__(self, pairs: Iterable[tuple[str, T]] = ()) -> None:
        """Begin with these filters."""
        self._root = _Node[T]()
        for pattern, value in pairs:
            self.add(pattern, value)

    def add(self, pattern: str, value: T) -> None:
        """Let ``pattern`` lead to ``value``, unless it leads somewhere already."""
        node = self._root
        for token in pattern.split("."):
            node = node.below.setdefault(token, _Node())
        if node.value is None:
            node.value = value

    def find(self, subject: str) -> T | None:
        """Return what the filter leads to that takes ``subject``; None if none does."""
        return _find(self._root, subject.split("."), 0)


class _Node(Generic[T]):
    __slots__ = ("below", "value")

    def __init__(self) -> None:
        self.below: dict[str, _Node[T]] = {}
        self.value: T | None = None


def _find(node: _Node[T], tokens: list[str], place: int) -> T | None:
    if place == len(tokens):
        return node.value
    for token in (tokens[place], "*"):
        after = node.below.get(token)
        if after is not None:
            found = _find(after, tokens, place + 1)
            if found is not None:
                return found
    rest = node.below.get(">")
    return None if rest is None else rest.value
