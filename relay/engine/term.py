"""One term of leading: the tasks that take events from the outbox to the bus.

    reader ──page──► delivery ──done──► settler
      ▲   at most one waits │              merged into one settlement
      │                     └ the parked that are due, between pages
     bell (when to read)

    beside them   the lease's watch · the wake source · housekeeping

Who is right: the cursor behind the settler. Pages are read ahead of it, and whatever is lost on the
way from reader to settler is read again by the next term.

On failure: an outage of the bus is waited out by the delivery, with the page in hand; an outage of
the store, or the loss of the lease, ends the term by its exception. On stop the reader is cut off,
the page in hand is finished and settled, and ``run`` returns.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import anyio
import anyio.abc
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from relay.core.breakers import LagBreaker
from relay.core.disposition import Limits
from relay.core.pace import next_size
from relay.engine.bell import Bell
from relay.engine.deliver import Delivery
from relay.engine.housekeeping import BACKLOG_EVERY, Housekeeping
from relay.engine.link import BusLink, Stopped
from relay.engine.outage import OutageBook
from relay.engine.settle import Settler
from relay.facts import FactSink
from relay.failpoints import reach
from relay.ports import OutboxStore, Page, WakeSource


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
        self._settler = Settler(store, outage, duplicate_window=lambda: link.bus.duplicate_window)
        self._bell = Bell(
            source, poll_interval=policy.poll_interval, idle=self._settler.idle, record=record
        )
        self._delivery = Delivery(
            store,
            link,
            self._settler,
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

        Raises (in an exception group):
            StoreOutage, TermLost: the term is over; what was not settled comes again.
            StreamError, SettingsError: at the process's first connection to the bus.
        """
        self._link.bus.recall(await self._store.streams())
        send, receive = anyio.create_memory_object_stream[Page](0)
        async with anyio.create_task_group() as tasks:
            reading = anyio.CancelScope()
            tasks.start_soon(self._store.watch)
            tasks.start_soon(self._read, send, reading)
            tasks.start_soon(self._deliver, receive, stop)
            tasks.start_soon(self._settle, tasks.cancel_scope)
            tasks.start_soon(self._source.run)
            tasks.start_soon(self._housekeeping.prune)
            tasks.start_soon(self._housekeeping.look)
            await stop.wait()
            reading.cancel()

    async def _read(self, pages: MemoryObjectSendStream[Page], reading: anyio.CancelScope) -> None:
        """Read ahead by one page, resting as the bell says."""
        policy, size = self._policy, self._policy.batch_size
        # The delivery is gone first if it met an error: that one speaks for the term.
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
                await self._bell.rest(page)

    async def _deliver(self, pages: MemoryObjectReceiveStream[Page], stop: anyio.Event) -> None:
        """Deliver page by page; the next one begins when this one's last event is resolved."""
        delivery = self._delivery
        with pages, suppress(Stopped, anyio.EndOfStream):
            await self._link.connect(stop)
            while True:
                page = await self._next_page(pages)
                if page is None:
                    await self._link.connect(stop)  # an outage is noticed though nothing waits
                else:
                    await delivery.page(page, stop)
                if delivery.parked.maybe and delivery.parked.wait == 0 and not stop.is_set():
                    await delivery.due(stop)
        self._settler.finish()

    async def _next_page(self, pages: MemoryObjectReceiveStream[Page]) -> Page | None:
        """Return the next page; None when it is time to look at the parked."""
        with suppress(anyio.WouldBlock):
            return pages.receive_nowait()  # before the parked, or they could keep it waiting
        parked = self._delivery.parked
        wait = parked.wait if parked.maybe else None
        with anyio.move_on_after(BACKLOG_EVERY if wait is None else wait):
            return await pages.receive()
        return None

    async def _settle(self, term: anyio.CancelScope) -> None:
        """Settle what is done; end the term behind the last page."""
        await self._settler.run()
        term.cancel()
