"""What is broken now, and for how long single calls are delayed."""

from dataclasses import dataclass, field
from enum import Enum

from relay.core.event import Event
from relay.core.outcome import Outcome
from relay.errors import StoreOutage


class Wire(Enum):
    """What becomes of one event on its way to the broker and back."""

    FINE = "stored and acknowledged"
    UNACKED = "stored, but the answer is lost"
    DENIED = "stored, but the answer says that the stream is silent"
    LOST = "the message is lost"
    LATE = "the message arrives some time later"
    CUT = "the connection breaks: this message and all behind it are lost"
    CUT_BEHIND = "the connection breaks behind this message"


@dataclass
class Mood:
    """What the broker answers for one subject, in turn; None: it stores the event."""

    answers: tuple[Outcome | None, ...]
    nowhere: bool = False
    """No stream captures the subject at present."""
    asked: int = 0

    def next(self) -> Outcome | None:
        """Return the answer to the next event."""
        self.asked += 1
        return self.answers[self.asked % len(self.answers)]


@dataclass(frozen=True)
class Delay:
    """Seconds for which one call is late: before the server acts on it, and its answer."""

    before: float
    after: float


@dataclass
class Faults:
    """All of them, for both processes.

    Attributes:
        store_away: Postgres answers nothing.
        session: changes when every session breaks; older ones stay broken.
        commits_unheard: so many settlements are committed, but their answers are lost.
        unwilling: what the next settlements that park or unpark meet instead of a commit.
        delays: by the name of a call, those of the next ones.
        unreadable: event_ids of rows that can't be decoded.
        bus_away: NATS answers nothing.
        wire: what becomes of the next events that are sent, one each.
        moods: by subject, where the broker does not just store.
        late: messages on their way.
        deaf: nobody's commit rings.
    """

    store_away: bool = False
    session: int = 0
    commits_unheard: int = 0
    unwilling: list[StoreOutage] = field(default_factory=list)
    delays: dict[str, list[Delay]] = field(default_factory=dict)
    unreadable: set[str] = field(default_factory=set)
    bus_away: bool = False
    wire: list[Wire] = field(default_factory=list)
    moods: dict[str, Mood] = field(default_factory=dict)
    late: list[Event] = field(default_factory=list)
    deaf: bool = False

    def delay(self, call: str) -> Delay:
        """Return how late the next call of this name is."""
        waiting = self.delays.get(call)
        return waiting.pop(0) if waiting else Delay(0.0, 0.0)

    def passing_ones_end(self) -> None:
        """End all that strikes servers and connections; what strikes single events stays."""
        self.store_away = self.bus_away = self.deaf = False
        self.commits_unheard = 0
        self.unwilling.clear()
        self.delays.clear()
        self.wire.clear()

    def all_end(self) -> None:
        """End all but what is on its way."""
        self.passing_ones_end()
        self.unreadable.clear()
        self.moods.clear()
