"""One term of leading: the loop that takes events from the outbox to the bus.

    reader ──page──► publisher ──done──► settler
      ▲   at most one waits    │ merged into one settlement, so a slow database
      │                        │ makes fewer of them, not more memory
    doorbell                   └ again, with the same message ids, until every
    (when to read)               event of the page is stored or parked

Who is right: the cursor behind the settler. Pages are read ahead of it, and whatever is lost on the
way from reader to settler is read again by the next term.

On failure: an outage of the bus is waited out here, with the page in hand; an outage of the store
ends the term by its exception. On stop the reader is cut off, the page in hand is finished and
settled, and ``run`` returns.
"""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import anyio
import anyio.abc
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from relay.core.backoff import Backoff
from relay.core.event import Event
from relay.core.outcome import Refused, Stored
from relay.core.paging import next_size
from relay.doorbell import Doorbell
from relay.errors import BusOutage, RelayError, StoreOutage, StreamError
from relay.facts import (
    BacklogSeen,
    HousekeepingFailed,
    OutageBegan,
    OutageEnded,
    PageDelivered,
    Parked,
    Pruned,
    Retried,
    Tell,
)
from relay.ports import EventBus, OutboxStore, Page, Settlement, WakeSource

_Answer = TypeVar("_Answer")

BACKLOG_EVERY = 1.0
PRUNE_EVERY_MOST = 10.0
SETTLE_EVERY = 0.05
"""Seconds between settlements. Each costs a round trip and WAL; a crash publishes so much again."""

PRUNE_PAUSE = 0.02
RETRY_FIRST = 0.05
RECONNECT_MOST = 0.5
"""Seconds: one relay asking twice a second burdens no broker, and is back soon after it is."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The settings that steer a term; seconds and counts of events."""

    batch_size: int = 100
    max_batch_size: int = 2000
    poll_interval: float = 0.1
    max_retry_delay: float = 30.0
    retention: float = 900.0

    def reconnecting(self) -> Backoff:
        """Return the pauses between tries while a server is away."""
        return Backoff(base=RETRY_FIRST, cap=min(RECONNECT_MOST, self.max_retry_delay))


@dataclass(slots=True)
class _Tally:
    """What is done and not yet settled."""

    position: object
    delivered: int
    parked: list[tuple[Event, Refused]]


class Term:
    """Runs one term over an ``OutboxStore``. Made for one ``run``."""

    def __init__(
        self,
        store: OutboxStore,
        bus: EventBus,
        source: WakeSource,
        policy: Policy,
        *,
        jitter: Callable[[], float],
        tell: Tell,
    ) -> None:
        """Lead over ``store`` until stopped; ``jitter`` gives chance in [0, 1)."""
        self._store = store
        self._bus = bus
        self._source = source
        self._policy = policy
        self._jitter = jitter
        self._tell = tell
        self._doorbell = Doorbell(source, poll_interval=policy.poll_interval, tell=tell)
        self._done: _Tally | None = None
        self._news = anyio.Event()
        self._all_published = False
        self._finishing = anyio.Event()

    async def run(self, stop: anyio.Event) -> None:
        """Deliver until ``stop`` is set, then finish the page in hand and settle it.

        Raises (in an exception group):
            StoreOutage, TermLost: the term is over; what was not settled comes again.
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

    # From the outbox.

    async def _read(self, pages: MemoryObjectSendStream[Page], reading: anyio.CancelScope) -> None:
        """Read ahead by one page, resting as the doorbell says."""
        policy, size = self._policy, self._policy.batch_size
        with reading, pages:
            while True:
                page = await self._store.read(size)
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

    # To the bus.

    async def _publish(self, pages: MemoryObjectReceiveStream[Page], stop: anyio.Event) -> None:
        """Publish page by page; the next one begins when this one's last event is resolved."""
        with pages, suppress(_Stopped):
            await self._through_outages(self._bus.connect, stop)
            async for page in pages:
                tally = _Tally(page.position, 0, [])
                if page.events:
                    await self._deliver(page.events, tally, stop)
                self._add(tally)
        self._all_published = True
        self._finishing.set()
        self._news.set()

    async def _deliver(self, events: Sequence[Event], tally: _Tally, stop: anyio.Event) -> None:
        """Publish until every event is stored or parked."""
        began, oldest_at = anyio.current_time(), events[0].created_at
        retry = Backoff(base=RETRY_FIRST, cap=self._policy.max_retry_delay)
        duplicates = 0
        while True:
            outcomes = await self._through_outages(
                partial(self._bus.publish, events), stop, also=StreamError
            )
            left: list[Event] = []
            reason = ""
            if set(map(type, outcomes)) == {Stored}:  # the common answer, at a tenth of the cost
                tally.delivered += len(outcomes)
                duplicates += sum([outcome.duplicate is True for outcome in outcomes])  # type: ignore[union-attr]
                break
            for event, outcome in zip(events, outcomes, strict=True):
                if isinstance(outcome, Stored):
                    tally.delivered += 1
                    duplicates += outcome.duplicate is True
                elif isinstance(outcome, Refused):
                    self._park(event, outcome, tally)
                else:
                    left.append(event)
                    reason = reason or outcome.reason
            if not left:
                break
            if len(left) < len(events):
                retry.succeeded()
            delay = retry.failed(self._jitter())
            self._tell(Retried(len(left), reason, retry.attempts, delay))
            await _rest(delay, stop)
            events = left
        seconds = anyio.current_time() - began
        self._tell(PageDelivered(tally.delivered, duplicates, seconds, oldest_at))

    async def _through_outages(
        self,
        ask: Callable[[], Awaitable[_Answer]],
        stop: anyio.Event,
        *,
        also: type[RelayError] = BusOutage,
    ) -> _Answer:
        """Ask the bus until it answers; ``also`` names one more error to wait out."""
        backoff = self._policy.reconnecting()
        began = anyio.current_time()
        while True:
            try:
                answer = await ask()
            except (BusOutage, also) as outage:
                if backoff.attempts == 0:
                    self._tell(OutageBegan("nats", str(outage)))
                await _rest(backoff.failed(self._jitter()), stop)
                continue
            if backoff.attempts:
                seconds = anyio.current_time() - began
                self._tell(OutageEnded("nats", seconds, backoff.attempts))
            return answer

    def _park(self, event: Event, refused: Refused, tally: _Tally) -> None:
        tally.parked.append((event, refused))
        self._tell(
            Parked(event.id, event.event_id, event.subject, event.key, refused.reason, refused.code)
        )

    # Behind it.

    def _add(self, tally: _Tally) -> None:
        """Hand a done page to the settler, merged with what it has not settled yet."""
        if self._done is not None:
            tally.delivered += self._done.delivered
            tally.parked = self._done.parked + tally.parked
        self._done = tally
        self._news.set()

    async def _settle(self, term: anyio.CancelScope) -> None:
        """Settle what is done, the newest position at once; end the term behind the last page."""
        while True:
            await self._news.wait()
            self._news = anyio.Event()
            done, self._done = self._done, None
            if done is not None:
                await self._store.settle(
                    Settlement(
                        done.position, done.delivered, done.parked, self._doorbell.take_wakes()
                    )
                )
            if self._all_published and self._done is None:
                term.cancel()
                return
            with anyio.move_on_after(SETTLE_EVERY):
                await self._finishing.wait()

    # Beside it.

    async def _prune(self) -> None:
        """Delete what is past its retention, chunk by chunk."""
        every = min(PRUNE_EVERY_MOST, max(self._policy.retention / 10, 0.1))
        while True:
            try:
                while pruned := await self._store.prune(self._policy.retention):
                    self._tell(Pruned(pruned))
                    await anyio.sleep(PRUNE_PAUSE)
            except StoreOutage as outage:
                self._tell(HousekeepingFailed(str(outage)))
            await anyio.sleep(every)

    async def _watch_backlog(self) -> None:
        """Look at the backlog once a second: for people, and to learn of another term when idle."""
        while True:
            try:
                self._tell(BacklogSeen(await self._store.backlog()))
            except StoreOutage as outage:
                self._tell(HousekeepingFailed(str(outage)))
            await anyio.sleep(BACKLOG_EVERY)


class _Stopped(Exception):  # noqa: N818 - not an error: the publisher gives up its page
    """The term is stopped and the bus does not answer."""


async def _rest(seconds: float, stop: anyio.Event) -> None:
    """Wait for ``seconds``; raise ``_Stopped`` as soon as ``stop`` is set."""
    with anyio.move_on_after(seconds):
        await stop.wait()
    if stop.is_set():
        raise _Stopped
