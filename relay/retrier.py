"""The parked, tried again when they are due, and the outages of streams that hold some of them up.

    due ──► publish ──stored──► unparked; the next of its key is due
                    ──refused─► parked, an attempt more, or dead
                    ──held────► parked, no attempt; its outage gets a pause
                    ──unknown─► as it was; soon again

Who is right: the store says what is due, by the database's clock. How long an outage of a stream
still has its pause is known here only, and forgotten with the term: the next one tries at once.
"""

from collections.abc import Callable, Sequence

import anyio

from relay.buslink import BusLink
from relay.core import parking
from relay.core.fates import Limits
from relay.core.holds import Holds
from relay.core.outcome import Held, Outcome, Refused, Stored
from relay.facts import HoldBegan, HoldEnded, Parked, Tell, Unparked
from relay.ports import Due, OutboxStore
from relay.settler import Done, Settler

LOOK_EVERY = 0.2
"""Seconds between looks at the parked, while there are any that could be due."""

PROBE = 32
"""Events with which an outage of a stream is tried: each that is held again costs a write."""


class Retrier:
    """Looks after the parked. The publisher's task uses it."""

    def __init__(
        self,
        store: OutboxStore,
        link: BusLink,
        settler: Settler,
        limits: Limits,
        *,
        batch: int,
        jitter: Callable[[], float],
        tell: Tell,
    ) -> None:
        """Try at most ``batch`` parked events in one call to the bus."""
        self.holds = Holds()
        self.maybe_blocking = True
        """Whether a parked event may stand before a page's: False only if the store said so."""
        self._store = store
        self._link = link
        self._settler = settler
        self._limits = limits
        self._batch = batch
        self._jitter = jitter
        self._tell = tell
        self._parkings = 0
        self._look_at = 0.0

    @property
    def wait(self) -> float | None:
        """Seconds until the next look; None while nothing is parked that could be due."""
        if not self.maybe_blocking:
            return None
        return max(0.0, self._look_at - anyio.current_time())

    def parked_more(self) -> None:
        """Events are about to be parked."""
        self._parkings += 1
        self.maybe_blocking = True

    @property
    def parkings(self) -> int:
        """How often events were parked in this term: to be handed to ``seen``."""
        return self._parkings

    def seen(self, *, blocking: bool, parkings: int) -> None:
        """Take the store's word, asked for when there had been ``parkings`` parkings.

        A look that began before the newest parking does not count as "none".
        """
        if blocking or parkings == self._parkings:
            self.maybe_blocking = blocking

    def hold_began(self, held: Held) -> None:
        """Note an outage of a stream; told once."""
        if self.holds.began(held.by, anyio.current_time()):
            self._tell(HoldBegan(held.by, held.reason))

    def page_is_done(self) -> None:
        """End the outages for which only the page waited."""
        for by in self.holds.in_hand():
            self._end_hold(by)

    async def retry(self, stop: anyio.Event) -> None:
        """Publish what is due, once; the next look follows at once while there is more.

        Raises:
            Stopped: the stop came while the bus gave no clear answer; nothing is changed.
        """
        now = anyio.current_time()
        self._look_at = now + LOOK_EVERY
        tried = self.holds.open(now)
        limit = min(PROBE, self._batch) if tried else self._batch
        due = await self._store.parked.due(limit, without=self.holds.closed(now))
        outcomes: Sequence[Outcome] = []
        if due:
            outcomes = await self._link.publish([each.event for each in due], stop)
            await self._conclude(due, outcomes)
        stored = {
            each.held_by
            for each, outcome in zip(due, outcomes, strict=True)
            if isinstance(outcome, Stored)
        }
        again = {outcome.by for outcome in outcomes if isinstance(outcome, Held)}
        for by in tried:
            if by not in again and (by in stored or len(due) < limit):
                self._end_hold(by)
        if stored and len(due) == limit:
            self._look_at = now

    async def _conclude(self, due: Sequence[Due], outcomes: Sequence[Outcome]) -> None:
        """Settle what came of the tries."""
        done = Done()
        duplicates = 0
        pauses: dict[str, float] = {}
        for each, outcome in zip(due, outcomes, strict=True):
            if isinstance(outcome, Stored):
                done.unparked.append(each.event.id)
                duplicates += outcome.duplicate is True
            elif isinstance(outcome, Refused):
                self._refuse(each, outcome, done)
            elif isinstance(outcome, Held):
                self.hold_began(outcome)
                self.holds.set_aside(outcome.by)
                if outcome.by not in pauses:
                    now = anyio.current_time()
                    pauses[outcome.by] = self.holds.still(outcome.by, now, self._jitter())
                done.parked.append(
                    parking.held(
                        each.event.id, outcome, attempts=each.attempts, pause=pauses[outcome.by]
                    )
                )
        if not (done.unparked or done.parked):
            return
        done.delivered = len(done.unparked)
        self.parked_more()
        await self._settler.add_and_wait(done)
        if done.unparked:
            self._tell(Unparked(len(done.unparked), duplicates))

    def _refuse(self, each: Due, outcome: Refused, done: Done) -> None:
        parked = parking.refused(
            each.event.id,
            outcome,
            attempts=each.attempts + 1,
            most=self._limits.max_attempts,
            longest=self._limits.max_retry_delay,
            jitter=self._jitter(),
        )
        done.parked.append(parked)
        self._tell(Parked.of(each.event, parked))

    def _end_hold(self, by: str) -> None:
        seconds = self.holds.ended(by, anyio.current_time())
        if seconds is not None:
            self._tell(HoldEnded(by, seconds))
