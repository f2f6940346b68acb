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
from contextlib import ExitStack
from functools import partial

import anyio

from relay.core import disposition
from relay.core.backoff import Backoff
from relay.core.disposition import Fates, Limits, Parking, Tries, all_stored, sort
from relay.core.event import Event
from relay.core.holds import Holds
from relay.core.order import KeyFence, ParkedWatch
from relay.core.outcome import Held, Outcome, Refused, Stored
from relay.engine.link import BusLink, Sender, rest
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

AHEAD = 4
"""Batches of parked events that one look takes: each is settled while the next is published."""

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
        self._sender = Sender(link, store, record)
        self._settler = settler
        self._reconciliation = reconciliation
        self._limits = limits
        self._batch = batch
        self._jitter = jitter
        self._record = record
        self._answered: set[str] = set()

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
        if not keys:
            return KeyFence()
        blocked = partial(self._store.parked.blocked, keys)
        return KeyFence(await self._settler.outage.wait_out(blocked, partial(rest, stop=stop)))

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
            outcomes = await self._sender.send(left, unreadable, closed, stop)
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
            for event, parking, why in fates.refused:
                self._refused(event, parking, why, done)
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
        """Record what is held up, and note what leaves the page."""
        for held in fates.held.values():
            self._held(held, closed)
        if fates.parkings:
            self.parked.will_change()
        for parking in fates.parkings:
            if parking.held_by:
                self.holds.set_aside(parking.held_by)
        self.holds.wait_with_page(fates.left_by)
        self.delivered += fates.stored

    def _refused(self, event: Event, parking: Parking, why: Refused, done: Done) -> None:
        """Count a refusal; it is recorded once ``done`` is settled: before, nobody has kept it."""
        self.refused += 1
        done.refusals.append(Parked.of(event, parking, why.fault))

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

        Raises Stopped if the stop came before a clear answer; that batch is not changed then.
        """
        now = anyio.current_time()
        self.parked.looked_at(now)
        closed = self.holds.closed(now)
        limit = min(PROBE, self._batch) if self.holds.askable(now) else AHEAD * self._batch
        try:
            due = await self._store.parked.due(limit, without=closed)
        except StoreBusy:
            return  # the next look comes soon
        if not due:
            return
        tries = await self._try(due, closed, stop)
        self._answered = set()
        stored = tries.total.stored
        if stored:
            self.delivered += stored
            self._record(Unparked(stored, tries.total.duplicates, tries.total.unverified))
        self._end_holds(tries.freed - tries.held, "an event of it was stored")
        for by in tries.freed & tries.held:
            self.holds.progress(by, anyio.current_time())
        if stored or tries.cut_short:
            self.parked.look_soon(now)

    async def _try(self, due: Sequence[Due], closed: Collection[str], stop: anyio.Event) -> Tries:
        """Publish batch by batch, to the first that meets a hold; return when all is settled."""
        unreadable = {each.event.id: each.unreadable for each in due if each.unreadable}
        tries, left = Tries(), due
        settled: anyio.Event | None = None
        with ExitStack() as until_settled:
            while left and not (tries.held or tries.cut_short):
                events = [each.event for each in left[: self._batch]]
                outcomes = await self._sender.send(events, unreadable, closed, stop)
                done = self._conclude(left[: len(outcomes)], outcomes, closed, tries)
                if done.unparked or done.parked:
                    done.tips = self._reconciliation.tips()
                    if settled is None:
                        until_settled.enter_context(self.parked.changing())
                    settled = self._settler.hurry(done)
                tries.cut_short = len(outcomes) < len(events)
                left = [e for e in left[len(events) :] if tries.fence.passes(e.event.key)]
            if settled is not None:
                await settled.wait()
        return tries

    def _conclude(
        self,
        due: Sequence[Due],
        outcomes: Sequence[Outcome],
        closed: Collection[str],
        tries: Tries,
    ) -> Done:
        """Return what there is to settle of one batch, and add it up in ``tries``."""
        done, total = Done(), tries.total
        self._answered |= disposition.subjects_stored([each.event for each in due], outcomes)
        for each, outcome in zip(due, outcomes, strict=True):
            fate = disposition.puzzled(outcome)
            if isinstance(fate, Stored):
                done.unparked.append(each.event.event_id)
                total.stored += 1
                total.duplicates += fate.duplicate is True
                total.unverified += fate.unverified
                tries.freed.add(each.held_by)
                continue
            tries.fence.close(each.event.key)
            if disposition.is_alone(each.event.subject, each.held_by, fate, self._answered):
                fate = Refused(NO_ANSWER)
            if isinstance(fate, Refused):
                parking = self._refuse(each, fate)
                self._refused(each.event, parking, fate, done)
                done.parked.append(parking)
            elif isinstance(fate, Held):
                if fate.by in closed and fate.by not in self.holds:
                    continue  # it ended while the bus was told not to ask: due again at once
                done.parked.append(self._hold(each, fate, closed, again=fate.by in tries.held))
                tries.held.add(fate.by)
        return done

    def _refuse(self, each: Due, refused: Refused) -> Parking:
        return disposition.refused(
            each.event,
            refused,
            attempts=each.attempts + 1,
            age=each.age,
            limits=self._limits,
            jitter=self._jitter(),
            once=each.replay is not None,
        )

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

    def _held(self, held: Held, closed: Collection[str]) -> None:
        """Note a hold that an answer speaks of; told once. Nobody was asked for ``closed`` ones."""
        if held.by in closed:
            return
        if self.holds.held(held.by, anyio.current_time(), self._jitter(), took=self._sender.took):
            self._record(HoldBegan(held.by, held.reason))

    def _end_holds(self, names: Collection[str], reason: str) -> None:
        for by in names:
            seconds = self.holds.ended(by, anyio.current_time())
            if seconds is not None:
                self._record(HoldEnded(by, seconds, reason))
