"""THE loop: stand by, lead, and begin again after every outage, until stopped.

    ┌─► campaign ──another leads──► wait: 200 ms, less if that one ends ─┐
    │      │ ▲──────────────────────────────────────────────────────────┘
    │      ▼
    │    lead (a Term) ──stop──► finished, settled, lease released
    │      │
    └──────┴─ term lost, Postgres away: drop the bus, back off with jitter

    Term    reader ──page──► delivery ──done──► settler
              ▲   at most one waits │              merged into one settlement
              │                     └ the parked that are due, between pages
             bell (when to read)

            beside them   the lease's watch · the wake source · housekeeping

R-TERM. Who is right: the store. A relay leads because the store said so, until the store says
otherwise or cannot be asked: the store is the ``Permit`` that the bus looks at before each chunk it
sends, and ``OutboxStore.watch`` ends the term when the lease is lost. Within a term the cursor
behind the settler is right: what is lost between reader and settler is read again by the next term.

On failure: outages and lost terms begin the loop again. What a person has to change (the schema,
the stream, a refused login) is raised at the first try. After the first success it counts as an
outage: someone may be changing it. Anything else is a bug and is raised too.
"""

import random
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from relay.core.backoff import LagBreaker
from relay.core.disposition import Limits
from relay.core.pace import next_size
from relay.engine.bell import Bell
from relay.engine.deliver import Delivery
from relay.engine.housekeeping import BACKLOG_EVERY, Housekeeping
from relay.engine.link import BusLink, Stopped
from relay.engine.outage import OutageBook
from relay.engine.reconcile import AUTO, Reconciliation
from relay.engine.settle import Settler
from relay.errors import (
    RelayError,
    SchemaError,
    SettingsError,
    StoreLoginRefused,
    StoreOutage,
    TermLost,
    sole,
)
from relay.facts import BreakerChanged, FactSink, StandingBy, TermBegan, TermEnded
from relay.failpoints import reach
from relay.ports import EventBus, Outbox, OutboxStore, Page, WakeSource

CAMPAIGN_EVERY = 0.2
"""Seconds between a standby's tries. Waiting in a statement instead would hold back vacuum."""

LASTING = 5.0
"""Seconds after which a term has shown that the store works: one that lets us in and then fails is
tried as seldom as one that is away."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The settings that steer a term; seconds and counts of events."""

    batch_size: int = 100
    max_batch_size: int = 2000
    poll_interval: float = 0.1
    max_retry_delay: float = 30.0
    max_attempts: int = 10
    retention: float = 900.0
    circuit_breaker_lag: float = 5.0
    repair: str = AUTO

    @property
    def limits(self) -> Limits:
        """What decides on a refused event."""
        return Limits(self.max_attempts, self.max_retry_delay)


class Engine:
    """Takes events from an outbox to a bus, for as many terms as it gets."""

    def __init__(
        self,
        outbox: Outbox,
        bus: EventBus,
        source: WakeSource,
        *,
        holder: str,
        policy: Policy,
        record: FactSink,
        shutdown_timeout: float = 8.0,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """Lead under the name ``holder``, to which each try for a term adds a random part.

        ``shutdown_timeout`` bounds, in seconds, how long a stop waits for the page in hand; every
        fact goes to ``record``.
        """
        self._outbox = outbox
        longest = policy.max_retry_delay
        self._link = BusLink(bus, jitter=jitter, record=record, longest_pause=longest)
        self._source = source
        self._holder = holder
        self._policy = policy
        self._record = record
        self._shutdown_timeout = shutdown_timeout
        self._jitter = jitter
        self._stop = anyio.Event()
        self._let_in = False
        self._outage = OutageBook("postgres", jitter=jitter, record=record, longest_pause=longest)
        self.lag_breaker = LagBreaker(policy.circuit_breaker_lag)

    def stop(self) -> None:
        """Read no more, finish what is in flight, settle, and let ``run`` return."""
        self._stop.set()

    async def run(self) -> None:
        """Work until ``stop``.

        Raises:
            SchemaError, StreamError, SettingsError: a person has to change something first, at the
                first try; later such a thing is an outage.
        """
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._limit_stop, tasks.cancel_scope)
                await self._run()
                tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise sole(group) from None
        finally:
            with anyio.CancelScope(shield=True):
                await self._outbox.close()

    async def _run(self) -> None:
        while not self._stop.is_set():
            try:
                store = await self._campaign()
                if store is None:
                    return
                await self._lead(store)
            except (StoreOutage, SchemaError) as outage:
                self._refuse_at_the_start(outage)
                await self._rest(self._outage.failed(outage))
            except TermLost:
                await self._rest(CAMPAIGN_EVERY)

    def _refuse_at_the_start(self, outage: StoreOutage | SchemaError) -> None:
        """Raise what a person has to change, unless it worked before."""
        if self._let_in:
            return
        if isinstance(outage, SchemaError):
            raise outage
        if isinstance(outage, StoreLoginRefused):
            raise SettingsError([f"Postgres does not let us in: {outage}"]) from outage

    async def _campaign(self) -> OutboxStore | None:
        """Try for a term every 200 ms, and when a leader ends; None once stopped."""
        standing_by = False
        while not self._stop.is_set():
            store = await self._outbox.campaign(f"{self._holder}:{secrets.token_hex(4)}")
            self._let_in = True
            self._outage.answered(forget_pauses=False)
            if store is not None:
                return store
            if not standing_by:
                standing_by = True
                self._record(StandingBy(self._holder))
                self._link.stand_by()
                self._forget_the_lag()
            await self._outbox.released(CAMPAIGN_EVERY)
        return None

    def _forget_the_lag(self) -> None:
        """A standby does not look at the lag, so it resets the breaker."""
        before = self.lag_breaker.state
        self.lag_breaker.forget()
        if self.lag_breaker.state is not before:
            reason = "another relay leads, and watches the lag"
            self._record(BreakerChanged("lag", before, self.lag_breaker.state, reason))

    async def _lead(self, store: OutboxStore) -> None:
        """Run one term, and leave nothing of it behind, whatever ends it."""
        self._record(TermBegan(self._holder, store.epoch))
        began, reason = anyio.current_time(), ""
        try:
            term = Term(
                store,
                self._link,
                self._source,
                self._policy,
                outage=self._outage,
                lag_breaker=self.lag_breaker,
                jitter=self._jitter,
                record=self._record,
            )
            await term.run(self._stop)
        except BaseExceptionGroup as group:
            error = sole(group)
            reason = str(error)
            raise error from None
        except RelayError as error:
            reason = str(error)
            raise
        finally:
            with anyio.CancelScope(shield=True):
                await self._link.close()  # at once: a term that is over must publish nothing more
                await store.close()
            if anyio.current_time() - began >= LASTING:
                self._outage.answered()
            self._record(TermEnded(store.epoch, reason))

    async def _limit_stop(self, work: anyio.CancelScope) -> None:
        """Give a stop its time, then cut off whatever is waited for: nothing is lost by that."""
        await self._stop.wait()
        await anyio.sleep(self._shutdown_timeout)
        work.cancel()

    async def _rest(self, seconds: float) -> None:
        """Wait, but not past a stop."""
        with anyio.move_on_after(seconds):
            await self._stop.wait()


class Term:
    """Runs one term over an ``OutboxStore``. Made for one ``run``."""

    def __init__(
        self,
        store: OutboxStore,
        link: BusLink,
        source: WakeSource,
        policy: Policy,
        *,
        outage: OutageBook,
        lag_breaker: LagBreaker,
        jitter: Callable[[], float],
        record: FactSink,
    ) -> None:
        """Lead over ``store`` until stopped; ``jitter`` gives chance in [0, 1)."""
        self._store = store
        self._link = link
        self._source = source
        self._policy = policy
        self._settler = Settler(store, link, outage, record)
        self._reconciliation = Reconciliation(store, link, self._settler, policy.repair, record)
        self._bell = Bell(
            source, poll_interval=policy.poll_interval, idle=self._settler.idle, record=record
        )
        self._delivery = Delivery(
            store,
            link,
            self._settler,
            self._reconciliation,
            policy.limits,
            batch=policy.max_batch_size,
            jitter=jitter,
            record=record,
        )
        self._housekeeping = Housekeeping(
            store,
            link,
            self._delivery,
            self._settler,
            self._bell.wakes,
            retention=policy.retention,
            lag_breaker=lag_breaker,
            record=record,
        )

    async def run(self, stop: anyio.Event) -> None:
        """Deliver until ``stop`` is set, then finish the page in hand and settle it.

        Raises, in an exception group, StoreOutage or TermLost: the term is over; StreamError or
        SettingsError: at the process's first connection to the bus.
        """
        self._link.bus.recall(await self._store.streams())
        await self._reconciliation.begin()
        send, receive = anyio.create_memory_object_stream[Page](0)
        async with anyio.create_task_group() as tasks:
            reading = anyio.CancelScope()
            tasks.start_soon(self._store.watch)
            tasks.start_soon(self._read, send, reading)
            tasks.start_soon(self._deliver, receive, stop)
            tasks.start_soon(self._settle, tasks.cancel_scope)
            tasks.start_soon(self._housekeeping.run, self._source.run)
            await stop.wait()
            reading.cancel()

    async def _read(self, pages: MemoryObjectSendStream[Page], reading: anyio.CancelScope) -> None:
        """Read ahead by one page, resting as the bell says."""
        policy, size, more = self._policy, self._policy.batch_size, False
        # The delivery is gone first if it met an error: that one speaks for the term.
        with reading, pages, suppress(anyio.BrokenResourceError):
            while True:
                page = await self._store.read(size)
                if page.events:
                    reach("after read")
                if page.position is not None or more:  # an empty page says that no more waits
                    try:
                        pages.send_nowait(page)
                    except anyio.WouldBlock:
                        async with self._bell.awake():
                            await pages.send(page)
                more = page.full
                size = next_size(
                    size,
                    found=len(page.events),
                    full=page.full,
                    first=policy.batch_size,
                    most=policy.max_batch_size,
                )
                await self._bell.rest(page)

    async def _deliver(self, pages: MemoryObjectReceiveStream[Page], stop: anyio.Event) -> None:
        """Deliver page by page; the next one begins when this one's last event is resolved."""
        delivery = self._delivery
        with pages, suppress(Stopped, anyio.EndOfStream):
            await self._reconciliation.connect(stop)
            while True:
                page = await self._next_page(pages)
                if page is None:
                    await self._link.connect(stop)  # an outage is noticed though nothing waits
                else:
                    await delivery.page(page, stop)
                    self._housekeeping.may_begin.set()
                if delivery.parked.wait(anyio.current_time()) == 0 and not stop.is_set():
                    await delivery.due(stop)
        self._settler.finish()

    async def _next_page(self, pages: MemoryObjectReceiveStream[Page]) -> Page | None:
        """Return the next page; None when it is time to look at the parked."""
        with suppress(anyio.WouldBlock):
            return pages.receive_nowait()  # before the parked, or they could keep it waiting
        wait = self._delivery.parked.wait(anyio.current_time())
        with anyio.move_on_after(BACKLOG_EVERY if wait is None else wait):
            return await pages.receive()
        return None

    async def _settle(self, term: anyio.CancelScope) -> None:
        """Settle what is done; end the term behind the last page."""
        await self._settler.run()
        term.cancel()
