"""Finding the one event that cuts the connection each time it is sent (R-FATE).

    all of them ──cut──► all again ──cut──► half of them ──cut──► half ... ──cut──► one alone
                                               └─answered─► go on, with twice as many

A connection that ends once ends for a reason of its own. When the same events end it again, though
the broker let us in between, fewer are sent at once until one event is alone; that one is refused
when it has cut the connection ``CUTS_ALONE`` times running. A broker in a crash loop parks nobody
in this way but an event that meets its end by chance three times, alone; and that costs the event
one attempt.
"""

from typing import Final

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
