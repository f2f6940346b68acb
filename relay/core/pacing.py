"""How long an awake relay waits before it reads again.

Reading at once after every event gives pages of one event, and a page costs about as much as
twenty events do. So the busier the outbox, the longer the pause, and the fuller the page. It
grows with the square of the rate: 0.1 ms at 500 events/s, where nobody must feel it, 1.3 ms at
2,000/s, and 20 ms from 8,000/s on, where producers and relay fight for the processors.

An event loop's timers have whole milliseconds: uvloop makes none at all of a pause below half of
one. So an awake relay reads on and on while little comes, for ``LINGER``, which costs up to half a
core and is as quick as being rung for each event. True pauses of 0.25 and 0.5 ms, by a timerfd,
made 0.9 and 1.1 ms of 0.6 at 200 events/s, and saved a fifth of a core.
"""

from dataclasses import dataclass

REST = 0.0005
"""Seconds between the reads of an awake relay that finds nothing."""

LINGER = 0.010
"""Seconds an awake relay goes on reading after the last event before it asks to be rung."""

PAUSE_MOST = 0.020
"""Seconds between the reads of the busiest outbox."""

BUSIEST = 8_000.0
"""Events/s from which the pause grows no more."""

_MEMORY = 0.050
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

    def seen(self, events: int, now: float) -> "Pace":
        """Return the pace after a read that found ``events`` at ``now``."""
        elapsed = max(now - self.at, 1e-6)
        weight = min(1.0, elapsed / _MEMORY)
        return Pace(self.rate + weight * (events / elapsed - self.rate), now)

    @property
    def pause(self) -> float:
        """Seconds to wait before the next read."""
        return PAUSE_MOST * min(self.rate / BUSIEST, 1.0) ** 2
