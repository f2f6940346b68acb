"""The common shape of a scenario: a name, a line about it, a function from a bench to findings."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from bench.figures import Findings
from bench.stack import Stack

Thing = TypeVar("Thing")


@dataclass(frozen=True)
class Bench:
    """What a scenario works with.

    Attributes:
        servers: running, shared with the other scenarios.
        runs: how often each thing is measured.
        scale: 1 is the whole load, less is less.
        plan: called once, with the number of steps to come.
        step: called before each step, with what is about to happen.
    """

    servers: Stack
    runs: int
    scale: float
    plan: Callable[[int], None]
    step: Callable[[str], None]

    def events(self, whole: int, least: int = 2000) -> int:
        """Return the scaled number of events, in whole thousands."""
        return max(least, round(whole * self.scale / 1000) * 1000)

    def seconds(self, whole: int, least: int = 1) -> int:
        """Return the scaled length of a measurement."""
        return max(least, round(whole * self.scale))

    def turns(self, things: Sequence[Thing]) -> Iterator[tuple[int, list[Thing]]]:
        """Yield each run's number and its order: whoever was first comes last the next time."""
        for run in range(self.runs):
            first = run % len(things)
            yield run, [*things[first:], *things[:first]]


@dataclass(frozen=True)
class Scenario:
    """One thing to find out. A new one is a file in ``scenarios`` and a line in its table."""

    name: str
    what: str
    run: Callable[[Bench], Findings]
