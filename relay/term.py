"""One term of leading: the loop that takes events from the outbox to the bus.

    reader ──page──► publisher ──done──► settler
      ▲   at most one waits │ ▲  merged into one settlement, so a slow database
      │                     │ │  makes fewer of them, not more memory
    doorbell                │ └ retrier: the parked that are due, between pages
    (when to read)          └ again, with the same message ids, until every
                              event of the page is stored or parked

Who is right: the cursor behind the settler. Pages are read ahead of it, and whatever is lost on the
way from reader to settler is read again by the next term.

On failure: an outage of the bus is waited out here, with the page in hand; an outage of the store
ends the term by its exception. On stop the reader is cut off, the page in hand is finished and
settled, and ``run`` returns.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import anyio
import anyio.abc
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from relay.buslink import BusLink, Stopped
from relay.core.backoff import Backoff
from relay.core.breakers import Breakers, LagBreaker
from relay.core.fates import Limits
from relay.core.paging import next_size
from relay.doorbell import Doorbell
from relay.errors import StoreOutage, StoreReadOnly
from relay.facts import BacklogSeen, BreakerChanged, HousekeepingFailed, Pruned, Tell
from relay.failpoints import reach
from relay.ports import OutboxStore, Page, WakeSource
from relay.publisher import Publisher
from relay.retrier import Retrier
from relay.settler import Settler

BACKLOG_EVERY = 1.0
PRUNE_EVERY_MOST = 10.0
PRUNE_PAUSE = 0.02
RECONNECT_FIRST = 0.05
RECONNECT_MOST = 0.5
"""Seconds: one relay asking twice a second burdens no server, and is back soon after it is."""


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

    def reconnecting(self) -> Backoff:
        """Return the pauses between tries while a server is away."""
        return Backoff(base=RECONNECT_FIRST, cap=min(RECONNECT_MOST, self.max_retry_delay))

    @property
    def limits(self) -> Limits:
        """What decides on a refused event."""
        return Limits(self.max_attempts, self.max_retry_delay)


class Term:
    """Runs one term over an ``OutboxStore``. Made for one ``run``."""

    def __init__(
        self,
        store: OutboxStore,
        link: BusLink,
        source: WakeSource,
        policy: Policy,
        *,
        lag_breaker: LagBreaker,
        jitter: Callable[[], float],
        tell: Tell,
    ) -> None:
        """Lead over ``store`` until stopped; ``jitter`` gives chance in [0, 1)."""
        self._store = store
        self._link = link
        self._source = source
        self._policy = policy
        self._lag_breaker = lag_breaker
        self._tell = tell
        self._doorbell = Doorbell(source, poll_interval=policy.poll_interval, tell=tell)
        self._settler = Settler(
            store,
            self._doorbell.take_wakes,
            backoff=policy.reconnecting(),
            jitter=jitter,
            tell=tell,
        )
        self._retrier = Retrier(
            store,
            link,
            self._settler,
            policy.limits,
            batch=policy.max_batch_size,
            jitter=jitter,
            tell=tell,
        )
        self._publisher = Publisher(
            store,
            link,
            self._settler,
            self._retrier,
            policy.limits,
            jitter=jitter,
            tell=tell,
        )

    async def run(self, stop: anyio.Event) -> None:
        """Deliver until ``stop`` is set, then finish the page in hand and settle it.

        Raises (in an exception group):
            StoreOutage, TermLost: the term is over; what was not settled comes again.
            StreamError, SettingsError: at the process's first connection to the bus.
        """
        send, receive = anyio.create_memory_object_stream[Page](0)
        async with anyio.create_task_group() as tasks:
            reading = anyio.CancelScope()
            tasks.start_soon(self._read, send, reading)
            tasks.start_soon(self._publish, receive, stop)
            tasks.start_soon(self._settle, tasks.cancel_scope)
            tasks.start_soon(self._source.run)
            tasks.start_soon(self._prune)
            tasks.start_soon(self._watch_backlog)
            await stop.wait()
            reading.cancel()

    async def _read(self, pages: MemoryObjectSendStream[Page], reading: anyio.CancelScope) -> None:
        """Read ahead by one page, resting as the doorbell says."""
        policy, size = self._policy, self._policy.batch_size
        # The publisher is gone first if it met an error: that one speaks for the term.
        with reading, pages, suppress(anyio.BrokenResourceError):
            while True:
                page = await self._store.read(size)
                if page.events:
                    reach("after read")
                if page.position is not None:
                    await pages.send(page)
                size = next_size(
                    size,
                    found=len(page.events),
                    full=page.full,
                    first=policy.batch_size,
                    most=policy.max_batch_size,
                )
                if page.events:
                    await self._doorbell.after_events(len(page.events), full=page.full)
                else:
                    await self._doorbell.after_nothing()

    async def _publish(self, pages: MemoryObjectReceiveStream[Page], stop: anyio.Event) -> None:
        """Publish page by page; the next one begins when this one's last event is resolved."""
        with pages, suppress(Stopped, anyio.EndOfStream):
            await self._link.connect(stop)
            while True:
                page = await self._next_page(pages)
                if page is None:
                    await self._link.connect(stop)  # an outage is noticed though nothing waits
                else:
                    await self._publisher.deliver(page, stop)
                if self._retrier.wait == 0 and not stop.is_set():
                    await self._retrier.retry(stop)
        self._settler.finish()

    async def _next_page(self, pages: MemoryObjectReceiveStream[Page]) -> Page | None:
        """Return the next page; None when it is time to look at the parked."""
        with suppress(anyio.WouldBlock):
            return pages.receive_nowait()  # before the parked, or they could keep it waiting
        wait = self._retrier.wait
        with anyio.move_on_after(BACKLOG_EVERY if wait is None else wait):
            return await pages.receive()
        return None

    async def _settle(self, term: anyio.CancelScope) -> None:
        """Settle what is done; end the term behind the last page."""
        await self._settler.run()
        term.cancel()

    # Beside it.

    async def _prune(self) -> None:
        """Delete what is past its retention, chunk by chunk."""
        every = min(PRUNE_EVERY_MOST, max(self._policy.retention / 10, 0.1))
        while True:
            try:
                while pruned := await self._store.prune(self._policy.retention):
                    self._tell(Pruned(pruned))
                    await anyio.sleep(PRUNE_PAUSE)
            except StoreReadOnly:
                raise  # nothing could be settled either: the term is over
            except StoreOutage as outage:
                self._tell(HousekeepingFailed(str(outage)))
            await anyio.sleep(every)

    async def _watch_backlog(self) -> None:
        """Look at the backlog once a second: for people, and to learn of another term when idle."""
        while True:
            parkings = self._retrier.parkings
            breakers = Breakers(self._lag_breaker.state, self._link.state)
            try:
                backlog = await self._store.backlog(breakers)
            except StoreReadOnly:
                raise
            except StoreOutage as outage:
                self._tell(HousekeepingFailed(str(outage)))
            else:
                self._tell(BacklogSeen(backlog))
                self._retrier.seen(blocking=backlog.blocking, parkings=parkings)
                before = self._lag_breaker.state
                self._lag_breaker.saw(backlog.lag)
                if self._lag_breaker.state is not before:
                    reason = f"the oldest undelivered event is {backlog.lag:.1f} s old"
                    self._tell(BreakerChanged("lag", before, self._lag_breaker.state, reason))
            await anyio.sleep(BACKLOG_EVERY)
