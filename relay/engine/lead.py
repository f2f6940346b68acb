"""THE loop: stand by, lead, and begin again after every outage, until stopped.

    ┌─► campaign ──another leads──► wait 200 ms ─┐
    │      │ ▲───────────────────────────────────┘
    │      ▼
    │    lead (a Term) ──stop──► finished, settled, lease released
    │      │
    └──────┴─ term lost, Postgres away: drop the bus, back off with jitter

R-TERM. Who is right: the store. A relay leads because the store said so, until the store says
otherwise or cannot be asked: the store is the ``Permit`` that the bus looks at before each chunk it
sends, and ``OutboxStore.watch`` ends the term when the lease is lost.

On failure: outages and lost terms begin the loop again. What a person has to change (the schema,
the stream, a refused login) is raised at the first try. After the first success it counts as an
outage: someone may be changing it. Anything else is a bug and is raised too.
"""

import random
import secrets
from collections.abc import Callable

import anyio

from relay.core.breakers import LagBreaker
from relay.engine.link import BusLink
from relay.engine.outage import OutageBook
from relay.engine.term import Policy, Term
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
from relay.ports import EventBus, Outbox, OutboxStore, WakeSource

CAMPAIGN_EVERY = 0.2
"""Seconds between a standby's tries. Waiting in a statement instead would hold back vacuum."""

LASTING = 5.0
"""Seconds after which a term has shown that the store works: one that lets us in and then fails is
tried as seldom as one that is away."""


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
                await self._rest(self._outage.failed(str(outage)))
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
        """Try for a term every 200 ms; None once stopped."""
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
            await self._rest(CAMPAIGN_EVERY)
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
