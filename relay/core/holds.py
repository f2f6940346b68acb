"""The ledger of holds: which streams or subjects take nothing, and when each is asked again.

    held ──pause──► asked ──held again──► a longer pause ──► asked ... ──an event stored──► over

R-FATE. The bus reports only what is so now; when to ask again is decided here alone. A hold is
known by its name (``Held.by``). Its pause is jittered and doubles up to a cap; a try that took long
(a stream that answers nothing) is followed by a pause as long. A hold ends only when an event that
it held up is stored, or when nothing waits for it any more.

Nothing here is kept over a term: a new one asks at once. Time and chance are arguments; times are
monotonic seconds.
"""

from collections.abc import Set as AbstractSet

from relay.core.backoff import Backoff

PAUSE_FIRST = 0.1
PAUSE_MOST = 0.5
"""s: the first event is wanted within a second of the stream's return, and two questions a second
burden no server."""

PAUSE_AFTER_SLOW_MOST = 5.0
"""s: the longest pause after a question that took long. Other streams' events wait meanwhile."""

PAUSE_PUZZLED_MOST = 30.0
"""s: the cap for an error that this relay does not know: it may be about the events."""

PUZZLED = "error "
"""How the names of such holds begin: "error 10999", "error unanswered"."""

PATIENCE = 1.0
"""s for which events wait for a stream that takes nothing, before they are set aside: a new leader
is elected faster than that, as a rule."""


class _Hold:
    __slots__ = ("aside", "backoff", "began", "closed_until", "page_waits")

    def __init__(self, by: str, began: float) -> None:
        most = PAUSE_PUZZLED_MOST if by.startswith(PUZZLED) else PAUSE_MOST
        self.began = began
        self.backoff = Backoff(base=PAUSE_FIRST, cap=most)
        self.closed_until = began
        self.aside = False
        self.page_waits = False


class Holds:
    """All holds of a term. Its size is that of the set of names, which is small.

    Attributes:
        any: whether anything is held.
    """

    def __init__(self) -> None:
        """Begin with none."""
        self.any = False
        self._holds: dict[str, _Hold] = {}

    def __contains__(self, by: str) -> bool:
        """Say whether ``by`` is held."""
        return by in self._holds

    def held(self, by: str, now: float, jitter: float, *, took: float = 0.0) -> bool:
        """Note an answer, which took ``took`` s, that ``by`` takes nothing; True if that is new.

        Its pause begins. Several events of one answer count once: note each name once a call.
        """
        hold = self._holds.get(by)
        new = hold is None
        if hold is None:
            hold = self._holds[by] = _Hold(by, now)
            self.any = True
        pause = max(hold.backoff.failed(jitter), min(took, PAUSE_AFTER_SLOW_MOST))
        hold.closed_until = now + pause
        return new

    def pause(self, by: str, now: float) -> float:
        """Return the s until ``by`` may be asked again; 0.0 if at once, as where it is over."""
        hold = self._holds.get(by)
        return 0.0 if hold is None else max(0.0, hold.closed_until - now)

    def progress(self, by: str, now: float) -> None:
        """An event that ``by`` held up is stored while others still are not: ask again at once."""
        hold = self._holds.get(by)
        if hold is not None:
            hold.backoff.succeeded()
            hold.closed_until = now

    def set_aside(self, by: str) -> None:
        """Note that events held up by it are parked: pages no longer ask for it.

        Nothing, if it ended while the bus was told not to ask for it: they are due at once.
        """
        if by in self._holds:
            self._holds[by].aside, self._holds[by].page_waits = True, False

    def wait_with_page(self, names: AbstractSet[str]) -> None:
        """Note that the page in hand keeps events held up by these, and asks again."""
        for by in names & self._holds.keys():
            self._holds[by].page_waits = True

    def page_done(self) -> None:
        """Note that the page in hand keeps none any more."""
        for hold in self._holds.values():
            hold.page_waits = False

    def ended(self, by: str, now: float) -> float | None:
        """Strike ``by`` out; how long it lasted in s, None if it was not known."""
        hold = self._holds.pop(by, None)
        self.any = bool(self._holds)
        return None if hold is None else now - hold.began

    def lasting(self, now: float) -> set[str]:
        """Name those whose events are set aside: they last longer than patience does."""
        return {
            by for by, hold in self._holds.items() if hold.aside or now - hold.began >= PATIENCE
        }

    def aside(self) -> set[str]:
        """Name those with parked events: only these events ask, one few at a time."""
        return {by for by, hold in self._holds.items() if hold.aside}

    def closed(self, now: float) -> set[str]:
        """Name those that may not be asked yet."""
        return {by for by, hold in self._holds.items() if hold.closed_until > now}

    def askable(self, now: float) -> bool:
        """Say whether any with parked events may be asked now."""
        return any(hold.aside and hold.closed_until <= now for hold in self._holds.values())

    def only_parked(self) -> list[str]:
        """Name those with parked events for which no page waits as well."""
        return [by for by, hold in self._holds.items() if hold.aside and not hold.page_waits]

    def in_hand(self) -> list[str]:
        """Name those without parked events: they end with the page that waits for them."""
        return [by for by, hold in self._holds.items() if not hold.aside]
