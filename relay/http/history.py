"""The last five minutes, one point a second, and what the points are made of."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import median
from typing import Final

from relay.facts import Fact, PageDelivered
from relay.http.summary import Level

POINTS: Final = 300
_MOST_SAMPLES: Final = 1_000


@dataclass(frozen=True, slots=True)
class Point:
    """One second.

    Attributes:
        at: its end, epoch s.
        rate: events/s; None if nobody knows.
        lag: s; None if nobody knows.
        latency: s from writing an event to its acknowledgement, the median of the pages; None if
            no page was delivered.
        slowest: the same, the oldest event of all.
        level: how bad it was.
    """

    at: float
    rate: float | None
    lag: float | None
    latency: float | None
    slowest: float | None
    level: Level

    def as_list(self) -> list[float | str | None]:
        """Write it for the page, short: there are hundreds."""
        return [
            round(self.at, 1),
            _rounded(self.rate, 1),
            _rounded(self.lag, 3),
            _rounded(self.latency, 5),
            _rounded(self.slowest, 5),
            self.level,
        ]


class Latency:
    """A sink of facts: how old the oldest event of each page was when it was acknowledged.

    By the database's clock and this machine's: as good as the two agree.
    """

    def __init__(self) -> None:
        """Begin without a sample."""
        self._samples: list[float] = []
        self._seen = 0

    def record(self, fact: Fact) -> None:
        """Take note of a delivered page; of a second with very many pages, the last thousand."""
        if type(fact) is not PageDelivered or not fact.delivered:
            return
        age = max(0.0, (datetime.now(UTC) - fact.oldest_at).total_seconds())
        if len(self._samples) < _MOST_SAMPLES:
            self._samples.append(age)
        else:
            self._samples[self._seen % _MOST_SAMPLES] = age
        self._seen += 1

    def take(self) -> tuple[float | None, float | None]:
        """Return median and maximum of the samples since the last call, and begin anew."""
        samples, self._samples, self._seen = self._samples, [], 0
        return (median(samples), max(samples)) if samples else (None, None)


class Past:
    """The points, the oldest first; the oldest go."""

    def __init__(self) -> None:
        """Begin empty."""
        self._points: deque[Point] = deque(maxlen=POINTS)

    def add(self, point: Point) -> None:
        """Add the newest."""
        self._points.append(point)

    def points(self) -> Sequence[Point]:
        """Return all, the newest last."""
        return list(self._points)


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
