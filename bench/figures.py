"""What a scenario finds: figures of several runs, curves for plots, tables and remarks.

A figure is judged by its median. Its limit, where it has one, was measured in the same runs, so the
two lists pair up run by run.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One measured quantity over the runs.

    Attributes:
        name: what was measured.
        unit: of the values.
        values: one a run, in the order of the runs.
        target: what it has to reach, as a person reads it; empty if nothing.
        met: whether the median reaches it; None without a target.
        limit: the most that was possible in each run; empty if nobody measured that.
    """

    name: str
    unit: str
    values: tuple[float, ...]
    target: str = ""
    met: bool | None = None
    limit: tuple[float, ...] = ()

    @property
    def median(self) -> float:
        """The middle value."""
        return statistics.median(self.values)

    @property
    def of_limit(self) -> float | None:
        """The median of the runs' shares of their limits; None without limits."""
        if not self.limit:
            return None
        pairs = zip(self.values, self.limit, strict=True)
        return statistics.median(value / limit for value, limit in pairs)

    def as_json(self) -> dict[str, Any]:
        """Return everything, the derived included, in JSON's types."""
        return {
            "name": self.name,
            "unit": self.unit,
            "values": list(self.values),
            "median": self.median,
            "min": min(self.values),
            "max": max(self.values),
            "limit": statistics.median(self.limit) if self.limit else None,
            "of_limit": self.of_limit,
            "target": self.target,
            "met": self.met,
        }


def at_least(
    name: str, unit: str, values: Sequence[float], bound: float, limit: Sequence[float] = ()
) -> Figure:
    """Make a figure whose median has to be ``bound`` or more."""
    met = statistics.median(values) >= bound
    return Figure(name, unit, tuple(values), f">= {bound:,g}", met, tuple(limit))


def at_most(name: str, unit: str, values: Sequence[float], bound: float) -> Figure:
    """Make a figure whose median has to be ``bound`` or less."""
    met = statistics.median(values) <= bound
    return Figure(name, unit, tuple(values), f"<= {bound:,g}", met)


def ratios(ones: Sequence[float], others: Sequence[float]) -> tuple[float, ...]:
    """Divide run by run: what is compared was measured in the same turn."""
    return tuple(one / other for one, other in zip(ones, others, strict=True))


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the nearest-rank percentile."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


@dataclass(frozen=True)
class Curve:
    """A line or a bar of a plot.

    Attributes:
        plot: the plot it belongs to, see ``plots``.
        name: its label.
        points: (x, y), in the plot's units.
    """

    plot: str
    name: str
    points: tuple[tuple[float, float], ...]


SHARES = (*range(1, 99), 99, 99.5, 99.9, 100)


def distribution(plot: str, name: str, values: Sequence[float]) -> Curve:
    """Make the curve of (value, % of the values that are at most that)."""
    ordered = sorted(values)
    places = ((share, max(0, math.ceil(len(ordered) * share / 100) - 1)) for share in SHARES)
    return Curve(plot, name, tuple((ordered[place], share) for share, place in places))


@dataclass(frozen=True)
class Table:
    """Words in rows, for what is no number."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass
class Findings:
    """All that one scenario found."""

    figures: list[Figure] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
