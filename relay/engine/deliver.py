"""From pages and parked events to the bus, until every event is stored or parked.

    page ──key has a parked event──────► parked behind it
      └──► publish ──stored────────────► done
              ▲    ──refused, held up──► parked; its key's later events behind it
              └────────no clear answer── again

    due ───► publish ──stored──► unparked; the next of its key is due
                     ──refused─► parked, an attempt more, or dead
                     ──else────► parked, no attempt; the ledger of holds gives the pause

R-LOSS, R-FATE. An event leaves a page only as stored, by the bus's proof, or as parked, by the
settlement that is awaited before the next page is published. R-ORDER: ``KeyFence`` decides what
may pass; what is parked already comes into it from the store before each page, while there may be
anything. One task delivers pages and, between them, what is due: calls to the bus never overlap.

On failure: an outage of the bus is waited out with the page in hand; an outage of the store ends
the term, and what was not settled comes again.
"""

from collections.abc import Callable, Collection, Mapping, Sequence

import anyio

from relay.core import disposition
from relay.core.backoff import Backoff
from relay.core.disposition import Fates, Limits, Parking, all_stored, sort
from relay.core.event import Event
from relay.core.holds import Holds
from relay.core.order import KeyFence, ParkedWatch
from relay.core.outcome import Held, Outcome, Refused, Stored
from relay.core.pace import Halving
from relay.engine.link import BusLink, rest
from relay.engine.reconcile import Reconciliation
from relay.engine.settle import Done, Settler
from relay.errors import StoreBusy
from relay.facts import (
    FactSink,
    HoldBegan,
    HoldEnded,
    PageDelivered,
    Parked,
    Retried,
    SetAside,
    Unparked,
)
from relay.ports import Due, OutboxStore, Page

RETRY_FIRST, BEHIND_PAUSE = 0.05, 0.1  # s

PROBE = 32
"""Events with which a hold is asked: each that is held again costs a write."""

CUTS = "the connection to NATS ends each time this event is sent"
LOST = "the connection to NATS was lost while they were published"
NO_ANSWER = "JetStream answers other events of this subject, and not this one"


class Delivery:
    """Delivers what is read and what is due, for one term. One task uses it.

    Attributes:
        parked: whether there may be parked events, and when to look at them.
        holds: what takes nothing at present.
        delivered, refused: events of this term; each refusal counts.
    """

    def __init__(
        self,
        store: OutboxStore,
        link: BusLink,
        settler: Settler,
        reconciliation: Reconciliation,
        limits: Limits,
        *,
        batch: int,
        jitter: Callable[[], float],
        record: FactSink,
    ) -> None:
        """Publish over ``link``, at most ``batch`` parked events in one call to the bus."""
        self.parked = ParkedWatch()
        self.holds = Holds()
        self.delivered = self.refused = 0
        self._store = store
        self._link = link
        self._settler = settler
        self._reconciliation = reconciliation
        self._limits = limits
        self._batch = batch
        self._jitter = jitter
        self._record = record
        self._halving = Halving()
        self._answered: set[str] = set()
        self._took = 0.0

    # Pages.

    async def page(self, page: Page, stop: anyio.Event) -> None:
        """Publish until every event of ``page`` is stored or parked, and have that settled.

        Raises Stopped if the stop came before a clear answer; nothing of it is settled then.
        """
        while self._settler.is_behind():
            await rest(BEHIND_PAUSE, stop)
        done, total, began = Done(page.position), Fates(), anyio.current_time()
        repair = self._reconciliation
        events = await repair.sift(page, stop) if repair.lasts and page.events else page.events
        fence = await self._fence(events, stop) if self.parked.maybe and events else None
        if events:
            await self._publish_all(events, page.unreadable, fence, done, total, stop)
            done.top_id = events[-1].id
        done.tips = repair.tips(caught_up=not page.full)
        if done.parked:
            if set_aside := sum(1 for each in done.parked if not each.attempts):
                self._record(SetAside(set_aside))
            with self.parked.changing():
                await self._settler.add_and_wait(done)
        else:
            self._settler.add(done)
        if repair.lasts:
            await repair.page_done(page, stop)
        if events:
            readable = (each.created_at for each in events if each.id not in page.unreadable)
            took, oldest_at = anyio.current_time() - began, next(readable, events[0].created_at)
            counts = total.stored, total.duplicates, total.unverified
            self._record(PageDelivered(*counts, took, oldest_at))

    async def _fence(self, events: Sequence[Event], stop: anyio.Event) -> KeyFence:
        """Return the fence of those keys that have a parked event."""
        keys = {event.key for event in events if event.key is not None}
        while keys:
            try:
                return KeyFence(await self._store.parked.blocked(keys))
            except StoreBusy:
                await rest(BEHIND_PAUSE, stop)
        return KeyFence()

    async def _publish_all(  # noqa: PLR0917 - all of it is the page's
        self,
        events: Sequence[Event],
        unreadable: Mapping[int, str],
        fence: KeyFence | None,
        done: Done,
        total: Fates,
        stop: anyio.Event,
    ) -> None:
        """Publish until each has its fate; add up in ``total`` and ``done``."""
        retry: Backoff | None = None
        left, tries = self._park_behind(events, fence, done) if fence else events, 0
        if done.parked:
            self.parked.will_change()
        while left:
            # The only stream is asked by its page: what is due waits until that is done.
            closed = self.holds.aside() - {self._link.bus.sole_hold}
            outcomes = await self._send(left, unreadable, closed, stop)
            sent, rest_of_page = left[: len(outcomes)], left[len(outcomes) :]
            tries += 1
            fates = all_stored(outcomes)
            if fates is None:
                fence = KeyFence() if fence is None else fence
                fates = sort(
                    sent,
                    outcomes,
                    self._limits,
                    fence=fence,
                    tries=tries,
                    aside=self.holds.lasting(anyio.current_time()) - {self._link.bus.sole_hold},
                    jitter=self._jitter(),
                )
            self._note(fates, closed)
            if self.holds.any:
                self._answered = disposition.stored_since(self._answered, sent, outcomes)
            total.stored += fates.stored
            total.duplicates += fates.duplicates
            total.unverified += fates.unverified
            done.parked += fates.parkings
            if fence:
                rest_of_page = self._park_behind(rest_of_page, fence, done)
            left = [*fates.left, *rest_of_page]
            if len(fates.left) < len(sent):
                retry, tries = None, 0
            if fates.left:
                retry = retry or Backoff(base=RETRY_FIRST, cap=self._limits.max_retry_delay)
                await rest(self._pause(fates, retry), stop)
        self.holds.page_done()
        self._end_holds(self.holds.in_hand(), "its events are through")

    def _park_behind(self, events: Sequence[Event], fence: KeyFence, done: Done) -> Sequence[Event]:
        """Park those that wait behind their key; return the others."""
        passing, waiting = fence.split(events)
        done.parked += [disposition.behind(event) for event in waiting]
        return passing

    def _note(self, fates: Fates, closed: Collection[str]) -> None:
        """Record what was refused or is held up."""
        for held in fates.held.values():
            self._held(held, closed)
        if fates.parkings:
            self.parked.will_change()
        for parking in fates.parkings:
            if parking.held_by:
                self.holds.set_aside(parking.held_by)
        self.holds.wait_with_page(fates.left_by)
        self.delivered += fates.stored
        self.refused += len(fates.refused)
        for event, parking, refused in fates.refused:
            self._record(Parked.of(event, parking, refused.fault))

    def _pause(self, fates: Fates, retry: Backoff) -> float:
        """Return the seconds to wait before those left are published again."""
        if fates.left_by and not fates.why:
            now = anyio.current_time()
            return max(self.holds.pause(by, now) for by in fates.left_by)
        delay = retry.failed(self._jitter())
        self._record(Retried(len(fates.left), fates.why, retry.attempts, delay))
        return delay

    # The parked.

    async def due(self, stop: anyio.Event) -> None:
        """Publish what is due, once; the next look follows at once while there is more.

        Raises Stopped if the stop came before a clear answer; nothing is changed then.
        """
        now = anyio.current_time()
        self.parked.looked_at(now)
        closed = self.holds.closed(now)
        limit = min(PROBE, self._batch) if self.holds.askable(now) else self._batch
        try:
            due = await self._store.parked.due(limit, without=closed)
        except StoreBusy:
            return  # the next look comes soon
        if not due:
            return
        unreadable = {each.event.id: each.unreadable for each in due if each.unreadable}
        outcomes = await self._send([each.event for each in due], unreadable, closed, stop)
        progress = await self._conclude(due[: len(outcomes)], outcomes, closed)
        if len(outcomes) < len(due) or (progress and 2 * len(due) > limit):
            self.parked.look_soon(now)

    async def _conclude(
        self, due: Sequence[Due], outcomes: Sequence[Outcome], closed: Collection[str]
    ) -> bool:
        """Settle what came of the tries; say whether anything was stored."""
        done, total = Done(), Fates()
        answered = self._answered | disposition.subjects_stored(
            [each.event for each in due], outcomes
        )
        self._answered = set()
        held: set[str] = set()
        freed: set[str] = set()
        for each, outcome in zip(due, outcomes, strict=True):
            fate = disposition.puzzled(outcome)
            if isinstance(fate, Stored):
                done.unparked.append(each.event.event_id)
                total.duplicates += fate.duplicate is True
                total.unverified += fate.unverified
                freed.add(each.held_by)
                continue
            if disposition.is_alone(each.event.subject, each.held_by, fate, answered):
                fate = Refused(NO_ANSWER)
            if isinstance(fate, Refused):
                done.parked.append(self._refuse(each, fate))
            elif isinstance(fate, Held):
                if fate.by in closed and fate.by not in self.holds:
                    continue  # it ended while the bus was told not to ask: due again at once
                done.parked.append(self._hold(each, fate, closed, again=fate.by in held))
                held.add(fate.by)
        if done.unparked or done.parked:
            done.tips = self._reconciliation.tips()
            with self.parked.changing():
                await self._settler.add_and_wait(done)
        if done.unparked:
            self.delivered += len(done.unparked)
            self._record(Unparked(len(done.unparked), total.duplicates, total.unverified))
        self._end_holds(freed - held, "an event of it was stored")
        for by in freed & held:
            self.holds.progress(by, anyio.current_time())
        return bool(done.unparked)

    def _refuse(self, each: Due, refused: Refused) -> Parking:
        parking = disposition.refused(
            each.event,
            refused,
            attempts=each.attempts + 1,
            age=each.age,
            limits=self._limits,
            jitter=self._jitter(),
            once=each.replay is not None,
        )
        self.refused += 1
        self._record(Parked.of(each.event, parking, refused.fault))
        return parking

    def _hold(self, each: Due, held: Held, closed: Collection[str], *, again: bool) -> Parking:
        """Park a due event that is held; the ledger counts one answer a call (not ``again``)."""
        if not again:
            self._held(held, closed)
            self.holds.set_aside(held.by)
        pause = self.holds.pause(held.by, anyio.current_time())
        return disposition.held(each.event, held, attempts=each.attempts, pause=pause)

    def nothing_held(self) -> None:
        """The store says that nothing parked is held: holds with no other events are over."""
        self._end_holds(self.holds.only_parked(), "nothing waits for it any more")

    # Both.

    async def _send(
        self,
        events: Sequence[Event],
        unreadable: Mapping[int, str],
        closed: Collection[str],
        stop: anyio.Event,
    ) -> Sequence[Outcome]:
        """Publish the first of ``events``, as many as is wise; one outcome for each of these."""
        if unreadable:
            readable = next(
                (place for place, event in enumerate(events) if event.id in unreadable), len(events)
            )
            if readable == 0:
                return [Refused(f"the row can't be read: {unreadable[events[0].id]}")]
            events = events[:readable]
        while True:
            suspicious = self._halving.suspicious
            head = events[: self._halving.size(len(events))] if suspicious else events
            began = anyio.current_time()
            outcomes = await self._link.publish(head, self._store, closed, stop)
            self._took = anyio.current_time() - began
            if outcomes is not None:
                if suspicious:
                    self._halving.answered()
                return outcomes
            if self._halving.cut(len(head)):
                self._halving.answered()
                return [Refused(CUTS)]
            self._record(Retried(len(head), LOST, 1, 0.0))

    def _held(self, held: Held, closed: Collection[str]) -> None:
        """Note a hold that an answer speaks of; told once. Nobody was asked for ``closed`` ones."""
        if held.by in closed:
            return
        if self.holds.held(held.by, anyio.current_time(), self._jitter(), took=self._took):
            self._record(HoldBegan(held.by, held.reason))

    def _end_holds(self, names: Collection[str], reason: str) -> None:
        for by in names:
            seconds = self.holds.ended(by, anyio.current_time())
            if seconds is not None:
                self._record(HoldEnded(by, seconds, reason))
