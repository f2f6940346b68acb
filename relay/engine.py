"""THE loop: stand by, lead, and begin again after every outage, until stopped.

    ┌─► campaign ──another leads──► wait 200 ms ─┐
    │      │ ▲───────────────────────────────────┘
    │      ▼
    │    lead (a Term) ──stop──► finished, settled, lease released
    │      │
    └──────┴─ term lost, Postgres away: drop the bus, back off with jitter

Who is right: the store. A relay leads because the store said so, until the store says otherwise.
On failure: outages and lost terms begin the loop again; what a person has to change (a missing
schema, a missing stream at the start) is raised; anything else is a bug and is raised too.
"""

import random
from collections.abc import Callable

import anyio

from relay.errors import RelayError, StoreOutage, TermLost, sole
from relay.facts import OutageBegan, OutageEnded, StandingBy, Tell, TermBegan, TermEnded
from relay.ports import EventBus, Outbox, OutboxStore, WakeSource
from relay.term import Policy, Term

CAMPAIGN_EVERY = 0.2
"""Seconds between a standby's tries. Waiting in a statement instead would hold back vacuum."""


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
        tell: Tell,
        shutdown_timeout: float = 8.0,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """Lead under the name ``holder``; tell every fact to ``tell``.

        ``shutdown_timeout`` bounds, in seconds, how long a stop waits for the page in hand.
        """
        self._outbox = outbox
        self._bus = bus
        self._source = source
        self._holder = holder
        self._policy = policy
        self._tell = tell
        self._shutdown_timeout = shutdown_timeout
        self._jitter = jitter
        self._stop = anyio.Event()

    def stop(self) -> None:
        """Read no more, finish what is in flight, settle, and let ``run`` return."""
        self._stop.set()

    async def run(self) -> None:
        """Work until ``stop``.

        Raises:
            SchemaError, StreamError: a person has to change something first.
        """
        try:
            await self._run()
        finally:
            with anyio.CancelScope(shield=True):
                await self._outbox.close()

    async def _run(self) -> None:
        backoff = self._policy.reconnecting()
        away_since: float | None = None
        while not self._stop.is_set():
            try:
                store = await self._campaign()
                if store is None:
                    return
                if away_since is not None:
                    seconds = anyio.current_time() - away_since
                    self._tell(OutageEnded("postgres", seconds, backoff.attempts))
                    away_since = None
                    backoff.succeeded()
                await self._lead(store)
            except StoreOutage as outage:
                if away_since is None:
                    away_since = anyio.current_time()
                    self._tell(OutageBegan("postgres", str(outage)))
                await self._rest(backoff.failed(self._jitter()))
            except TermLost:
                await self._rest(CAMPAIGN_EVERY)

    async def _campaign(self) -> OutboxStore | None:
        """Try for a term every 200 ms; None once stopped."""
        standing_by = False
        while not self._stop.is_set():
            store = await self._outbox.campaign(self._holder)
            if store is not None:
                return store
            if not standing_by:
                standing_by = True
                self._tell(StandingBy(self._holder))
            await self._rest(CAMPAIGN_EVERY)
        return None

    async def _lead(self, store: OutboxStore) -> None:
        """Run one term, and leave nothing of it behind, whatever ends it."""
        self._tell(TermBegan(self._holder, store.epoch))
        reason = ""
        try:
            term = Term(
                store, self._bus, self._source, self._policy, jitter=self._jitter, tell=self._tell
            )
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._limit_stop, tasks.cancel_scope)
                await term.run(self._stop)
                tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            error = sole(group)
            reason = str(error)
            raise error from None
        except RelayError as error:
            reason = str(error)
            raise
        finally:
            with anyio.CancelScope(shield=True):
                await self._bus.close()  # at once: a term that is over must publish nothing more
                await store.close()
            self._tell(TermEnded(store.epoch, reason))

    async def _limit_stop(self, term: anyio.CancelScope) -> None:
        """Give a stopped term its time to finish, then cut it off: nothing is lost by that."""
        await self._stop.wait()
        await anyio.sleep(self._shutdown_timeout)
        term.cancel()

    async def _rest(self, seconds: float) -> None:
        """Wait, but not past a stop."""
        with anyio.move_on_after(seconds):
            await self._stop.wait()
