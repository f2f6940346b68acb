"""What one process told, checked for sense: each change once, what began also ends."""

from relay.core.backoff import State
from relay.facts import (
    BreakerChanged,
    Fact,
    HoldBegan,
    HoldEnded,
    OutageBegan,
    OutageChanged,
    OutageEnded,
    PageDelivered,
    StandingBy,
    TermEnded,
)


class Told:
    """Listens to the facts of one process, in order."""

    def __init__(self, *, max_batch_size: int) -> None:
        self.violations: list[str] = []
        self.breakers = {"bus": State.CLOSED, "lag": State.CLOSED}
        self.outages: set[str] = set()
        self.holds: set[str] = set()
        self._max_batch_size = max_batch_size

    def hear(self, fact: Fact) -> None:
        """Take the next fact."""
        if not self._makes_sense(fact):
            self.violations.append(f"told without sense: {fact}")
        match fact:
            case BreakerChanged(breaker=breaker, state=state):
                self.breakers[breaker] = state
            case OutageBegan(side=side):
                self.outages.add(side)
            case OutageEnded(side=side):
                self.outages.discard(side)
            case HoldBegan(by=by):
                self.holds.add(by)
            case HoldEnded(by=by):
                self.holds.discard(by)
            case TermEnded():
                self.holds.clear()
            case StandingBy():
                self.outages.discard("nats")

    def _makes_sense(self, fact: Fact) -> bool:
        sense = True
        match fact:
            case BreakerChanged(breaker=breaker, was=was, state=state):
                sense = was is self.breakers[breaker] is not state
            case OutageBegan(side=side):
                sense = side not in self.outages
            case OutageChanged(side=side) | OutageEnded(side=side):
                sense = side in self.outages
            case HoldBegan(by=by):
                sense = by not in self.holds
            case HoldEnded(by=by):
                sense = by in self.holds
            case PageDelivered(delivered=delivered, duplicates=duplicates):
                sense = duplicates <= delivered <= self._max_batch_size
        return sense
