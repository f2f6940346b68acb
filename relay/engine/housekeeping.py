"""Beside the delivery: looking at the backlog, pruning, and leaving word of the leader.

Nothing here is needed to deliver. A failure is told and tried again, unless it says that the term
is over: another term has begun, or the server takes no writes.
"""

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any

import anyio

from relay.core.backoff import LagBreaker
from relay.core.durations import lasting
from relay.engine.deliver import Delivery
from relay.engine.link import BusLink
from relay.engine.settle import Done, Settler
from relay.errors import StoreOutage, StoreReadOnly
from relay.facts import BacklogSeen, BreakerChanged, FactSink, HousekeepingFailed, Pruned
from relay.ports import OutboxStore, Report, Wake

BACKLOG_EVERY = 1.0
TEND_EVERY_MOST = 10.0
TEND_PAUSE = 0.02
"""Seconds."""

SAY_AGAIN = 60.0
"""Seconds for which a failure of the same work is no news."""

FIRST_PAGE_WITHIN = 0.25
"""Seconds for which a term's first page may have the process for itself."""


class Housekeeping:
    """Two tasks of a term: ``look`` and ``prune``. ``may_begin`` is set by who needs no session."""

    def __init__(
        self,
        store: OutboxStore,
        link: BusLink,
        delivery: Delivery,
        settler: Settler,
        wakes: Mapping[Wake, int],
        *,
        retention: float,
        lag_breaker: LagBreaker,
        record: FactSink,
    ) -> None:
        """Keep house for ``store``; ``retention`` is in s, ``wakes`` counts by cause."""
        self._store = store
        self._link = link
        self._delivery = delivery
        self._settler = settler
        self._wakes = wakes
        self._retention = retention
        self._lag_breaker = lag_breaker
        self._record = record
        self._reported: Report | None = None
        self._failing = dict[str, float]()
        self.may_begin = anyio.Event()

    async def run(self, beside: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do both, and ``beside`` them what rings the bell; raises what ends the term.

        Each opens a session, 3 ms of the event loop and more: not before the first page is out,
        which the producers of a leader that was replaced wait for.
        """
        with anyio.move_on_after(FIRST_PAGE_WITHIN):
            await self.may_begin.wait()
        async with anyio.create_task_group() as tasks:
            for work in (beside, self.prune, self.look):
                tasks.start_soon(work)

    async def look(self) -> None:
        """Look at the backlog once a second, and report; raises what ends the term."""
        while True:
            await self._careful(self._look_once)
            await self._careful(self._report)
            if self._link.learnt():
                self._settler.add(Done())  # a settlement keeps it
            await anyio.sleep(BACKLOG_EVERY)

    async def prune(self) -> None:
        """Delete what is past its retention, chunk by chunk; raises what ends the term."""
        every = min(TEND_EVERY_MOST, max(self._retention / 10, 0.1))
        while True:
            await self._careful(self._prune_all)
            # What a person has freed among the parked is due at one of the next turns.
            await anyio.sleep(min(every, BACKLOG_EVERY) if self._delivery.parked.maybe else every)

    async def _look_once(self) -> None:
        watch = self._delivery.parked
        token = watch.begin_look()
        backlog = await self._store.look(self._settler.position)
        self._record(BacklogSeen(backlog))
        if watch.end_look(token, blocking=backlog.blocking) and not backlog.held:
            self._delivery.nothing_held()
        before = self._lag_breaker.state
        self._lag_breaker.saw(backlog.lag)
        if self._lag_breaker.state is not before:
            reason = f"the oldest undelivered event is {lasting(backlog.lag)} old"
            self._record(BreakerChanged("lag", before, self._lag_breaker.state, reason))

    async def _report(self) -> None:
        report = Report(
            self._lag_breaker.state,
            self._link.state,
            self._delivery.delivered,
            self._delivery.refused,
            dict(self._wakes),
        )
        at_rest = replace(report, wakes={**report.wakes, Wake.POLL: 0})  # polls alone are no news
        if at_rest != self._reported:
            await self._store.report(report)
            self._reported = at_rest

    async def _prune_all(self) -> None:
        while pruned := await self._store.tend(self._retention):
            self._record(Pruned(pruned))
            await anyio.sleep(TEND_PAUSE)

    async def _careful(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
            self._failing.pop(work.__name__, None)
        except StoreReadOnly:
            raise  # nothing could be settled either: the term is over
        except StoreOutage as outage:
            now, before = anyio.current_time(), self._failing.get(work.__name__)
            again = before is not None and now < before + SAY_AGAIN
            if not again:
                self._failing[work.__name__] = now
            self._record(HousekeepingFailed(str(outage), again=again or None))
