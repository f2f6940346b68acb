"""From pages to the bus, until every event is stored or parked.

    page ──key has a parked event──────► parked behind it
      └──► publish ──stored────────────► done
              ▲    ──refused, held up──► parked; its key's later events behind it
              └────────no clear answer── again

Who is right: the store's parked events, asked before each page while there are any. So whatever is
parked is settled before the next page is published, or its key's next event could overtake it.
One task delivers pages and, between them, what is due of the parked: calls never overlap.

On failure: an outage of the bus is waited out with the page in hand; an outage of the store ends
the term, and what was not settled comes again.
"""

from collections.abc import Callable, Sequence

import anyio

from relay.buslink import BusLink, rest
from relay.core import parking
from relay.core.backoff import Backoff
from relay.core.event import Event
from relay.core.fates import Fates, Limits, all_stored, sort
from relay.facts import PageDelivered, Parked, Retried, SetAside, Tell
from relay.ports import OutboxStore, Page
from relay.retrier import Retrier
from relay.settler import Done, Settler

RETRY_FIRST = 0.05


class Publisher:
    """Delivers pages. One task uses it, and the same one the ``retrier``."""

    def __init__(
        self,
        store: OutboxStore,
        link: BusLink,
        settler: Settler,
        retrier: Retrier,
        limits: Limits,
        *,
        jitter: Callable[[], float],
        tell: Tell,
    ) -> None:
        """Publish over ``link``, and have ``settler`` write down what is done."""
        self._store = store
        self._link = link
        self._settler = settler
        self._retrier = retrier
        self._limits = limits
        self._jitter = jitter
        self._tell = tell

    async def deliver(self, page: Page, stop: anyio.Event) -> None:
        """Publish until every event of ``page`` is stored or parked, and have that settled.

        Raises:
            Stopped: the stop came while the bus gave no clear answer; nothing of it is settled.
        """
        done = Done(page.position)
        began, duplicates = anyio.current_time(), 0
        events = page.events
        if self._retrier.maybe_blocking:
            events = await self._queue_behind_the_parked(events, done)
        if events:
            duplicates = await self._publish_all(events, done, stop)
        if done.parked:
            set_aside = sum(1 for each in done.parked if not each.attempts)
            if set_aside:
                self._tell(SetAside(set_aside))
            self._retrier.parked_more()
            await self._settler.add_and_wait(done)
        else:
            self._settler.add(done)
        if page.events:
            seconds = anyio.current_time() - began
            oldest_at = page.events[0].created_at
            self._tell(PageDelivered(done.delivered, duplicates, seconds, oldest_at))

    async def _queue_behind_the_parked(
        self, events: Sequence[Event], done: Done
    ) -> Sequence[Event]:
        """Park those whose key has a parked event; return the others."""
        keys = {event.key for event in events if event.key is not None}
        blocked = await self._store.parked.blocked(keys) if keys else ()
        if not blocked:
            return events
        done.parked += [parking.behind(event.id) for event in events if event.key in blocked]
        return [event for event in events if event.key not in blocked]

    async def _publish_all(self, events: Sequence[Event], done: Done, stop: anyio.Event) -> int:
        """Publish until each has its fate; how many were duplicates."""
        retry = Backoff(base=RETRY_FIRST, cap=self._limits.max_retry_delay)
        tries = duplicates = 0
        while True:
            outcomes = await self._link.publish(events, stop)
            tries += 1
            fates = all_stored(outcomes) or sort(
                events,
                outcomes,
                self._limits,
                tries=tries,
                aside=self._retrier.holds.lasting(anyio.current_time()),
                jitter=self._jitter(),
            )
            done.delivered += fates.stored
            done.parked += fates.parkings
            duplicates += fates.duplicates
            self._note(fates)
            if not fates.left:
                self._retrier.page_is_done()
                return duplicates
            if len(fates.left) < len(events):
                retry.succeeded()
            await rest(self._pause(fates, retry), stop)
            events = fates.left

    def _note(self, fates: Fates) -> None:
        """Tell what was refused or is held up."""
        for held in fates.held.values():
            self._retrier.hold_began(held)
        for each in fates.parkings:
            if each.held_by:
                self._retrier.holds.set_aside(each.held_by)
        for event, parked in fates.refused:
            self._tell(Parked.of(event, parked))

    def _pause(self, fates: Fates, retry: Backoff) -> float:
        """Return the seconds to wait before those left are published again."""
        if fates.held and not fates.why:
            now, jitter = anyio.current_time(), self._jitter()
            return max(self._retrier.holds.still(by, now, jitter) for by in fates.held)
        delay = retry.failed(self._jitter())
        self._tell(Retried(len(fates.left), fates.why, retry.attempts, delay))
        return delay
