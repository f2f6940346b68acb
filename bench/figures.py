"""Figures of several runs, and how they are shown."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One measured quantity over the runs.

    Attributes:
        name: what was measured.
        unit: of the values.
        values: one a run, in the order of the runs.
        target: what it has to reach, as a person reads it; empty if nothing.
        met: whether the median reaches it; None without a target.
    """

    name: str
    unit: str
    values: tuple[float, ...]
    target: str = ""
    met: bool | None = None

    @property
    def median(self) -> float:
        """The middle value."""
        return statistics.median(self.values)


def at_least(name: str, unit: str, values: Sequence[float], bound: float) -> Figure:
    """Make a figure whose median has to be ``bound`` or more."""
    met = statistics.median(values) >= bound
    return Figure(name, unit, tuple(values), f">= {bound:,g}", met)


def below(name: str, unit: str, values: Sequence[float], bound: float) -> Figure:
    """Make a figure whose median has to be less than ``bound``."""
    met = statistics.median(values) < bound
    return Figure(name, unit, tuple(values), f"< {bound:,g}", met)


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the nearest-rank percentile."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]
