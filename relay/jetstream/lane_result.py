"""What came of sending some events of one stream, by either path."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from relay.core.outcome import Held, Outcome, Stored
from relay.jetstream.error_codes import Meaning


@dataclass(slots=True)
class LaneResult:
    """The outcomes, and what has to be looked into before they are believed.

    Attributes:
        outcomes: one an event. None where the connection was lost first, and where a batch ended
            early without a reason: then the event is to be sent by the windowed path.
        stream_error: the first answer that spoke of the whole stream; None if there was none.
        found: what single subjects came to: full or forbidden.
        quiet: the subjects that nobody answered for, with the outcome of their events.
        moved: the subjects for which only another stream answered, with its name.
        foreign_streams: streams of other domains that answered.
        changed: an answer said that the stream is not what we took it for.
        timed_out: s after which the deadline passed before all answers were there, else 0.0.
        contradicted: there were two answers to one token that can't both be true.
    """

    outcomes: list[Outcome | None]
    stream_error: Meaning | None = None
    found: dict[str, Held] = field(default_factory=dict)
    quiet: dict[str, Held] = field(default_factory=dict)
    moved: dict[str, str] = field(default_factory=dict)
    foreign_streams: set[str] = field(default_factory=set)
    changed: bool = False
    timed_out: float = 0.0
    contradicted: bool = False

    @property
    def plain(self) -> bool:
        """Whether every event is stored, and there is nothing else to say."""
        return set(map(type, self.outcomes)) == {Stored} and not self.foreign_streams

    def halt(self, verdict: Meaning) -> None:
        """Let ``verdict`` be the outcome of all that has none."""
        self.stream_error = verdict
        self.fill(verdict.outcome)

    def fill(self, outcome: Outcome) -> None:
        """Let ``outcome`` be that of all that has none."""
        self.outcomes[:] = [each or outcome for each in self.outcomes]

    def silent(self, subjects: Iterable[str], why: Held, places: Iterable[int]) -> None:
        """Note that nobody answered for ``subjects``, whose events stand at ``places``."""
        self.quiet.update(dict.fromkeys(subjects, why))
        for place in places:
            self.outcomes[place] = self.outcomes[place] or why

    def take_over(self, left: "LaneResult") -> None:
        """Add what sending the rest found out; the outcomes are the caller's business."""
        self.stream_error = self.stream_error or left.stream_error
        self.found.update(left.found)
        self.quiet.update(left.quiet)
        self.moved.update(left.moved)
        self.foreign_streams |= left.foreign_streams
        self.changed = self.changed or left.changed
        self.timed_out = self.timed_out or left.timed_out
        self.contradicted = self.contradicted or left.contradicted
