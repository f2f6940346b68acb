"""How much is read and sent at once, and the pause between reads while the bell is off.

    nothing known     the poll interval
    little comes      half of the mean time between two events
    much comes        20 ms times the fourth power of (rate / 8,000 per second)
    always            1 ms at least, and the poll interval at most

A read costs about as much as twenty events do, so the busier the outbox, the longer the pause and
the fuller the page: from 8,000 events/s on, where producers and relay fight for the processors, it
is 20 ms. An event loop's timers have whole milliseconds.

The first page after a wake is small, so a lone event does not wait for a large read; while pages
come back full there is a backlog, and larger pages cost less an event.

``Halving`` finds the one event that cuts the connection each time it is sent (R-FATE):

    all of them ──cut──► all again ──cut──► half of them ──cut──► half ... ──cut──► one alone
                                               └─answered─► go on, with twice as many

A connection that ends once ends for a reason of its own. When the same events end it again, though
the broker let us in between, fewer are sent at once until one event is alone; that one is refused
when it has cut the connection ``CUTS_ALONE`` times running. A broker in a crash loop parks nobody
in this way but an event that meets its end by chance three times, alone; and that costs the event
one attempt.
"""

from dataclasses import dataclass
from typing import Final

PAUSE_LEAST = 0.001
PAUSE_MOST = 0.020
"""Seconds between the reads of the busiest outbox."""

BUSIEST = 8_000.0
"""Events/s from which the pause grows no more."""

MEMORY = 0.050
"""Seconds over which the rate is averaged."""


@dataclass(frozen=True, slots=True)
class Pace:
    """A running estimate of the rate at which events come.

    Attributes:
        rate: events/s.
        at: monotonic time of the last read that counted.
    """

    rate: float = 0.0
    at: float = 0.0

    def after(self, events: int, now: float, *, memory: float = MEMORY) -> "Pace":
        """Return the pace after a read at ``now`` that found ``events``; ``memory`` is in s."""
        elapsed = max(now - self.at, 1e-6)
        weight = min(1.0, elapsed / memory)
        return Pace(self.rate + weight * (events / elapsed - self.rate), now)

    def pause(self, poll_interval: float) -> float:
        """Return the seconds to wait before the next read, at most ``poll_interval``."""
        between = 0.5 / self.rate if self.rate > 0 else poll_interval
        busy = PAUSE_MOST * min(self.rate / BUSIEST, 1.0) ** 4
        return min(poll_interval, max(PAUSE_LEAST, between, busy))


def next_size(size: int, *, found: int, full: bool, first: int, most: int) -> int:
    """Return the limit in events for the page after one of ``size`` that ``found`` events.

    Doubled while pages come back full, kept while they bring anything, ``first`` again after an
    empty one. The result is within [1, ``most``]; ``first`` above ``most`` counts as ``most``.
    """
    if not found:
        return max(1, min(first, most))
    return max(1, min(size * 2 if full else size, most))


CUTS_ALONE: Final = 3


class Halving:
    """How many of the waiting events are sent at once. One object for the life of a term.

    Attributes:
        suspicious: whether a connection was cut, and not all is known to be well since.
    """

    __slots__ = ("_alone", "_cuts", "_most", "suspicious")

    def __init__(self) -> None:
        """Suspect nobody."""
        self.suspicious = False
        self._most = 0
        self._cuts = 0
        self._alone = 0

    def size(self, waiting: int) -> int:
        """Return how many of ``waiting`` events to send now."""
        return min(waiting, self._most) if self._most else waiting

    def cut(self, sent: int) -> bool:
        """The connection ended while ``sent`` events were sent; True if one alone is at fault."""
        self._cuts += 1
        self.suspicious = True
        if sent == 1:
            self._alone += 1
            self._most = 1
            return self._alone >= CUTS_ALONE
        if self._cuts > 1 or self._most:
            self._most = sent // 2
        return False

    def answered(self) -> None:
        """What was sent got its answers: send twice as many next time."""
        self._cuts = self._alone = 0
        self._most = 0 if self._most >= _ALL else self._most * 2
        self.suspicious = bool(self._most)


_ALL = 4096
"""Events: no page is longer."""
