"""The bus, waited for: every question is asked again until it is answered, under the bus breaker.

    closed     every failure is followed by a pause, jittered, growing to half a second
    open       pausing; nothing is published
    half-open  one try: connect first, which costs no event anything, then the question

Who is right: the bus. An outage costs no event an attempt and is told once, however many tries it
takes and terms it outlasts. What a person has to change (a missing stream, a refused login) is
raised at the process's first connection only; later it is waited for like any outage, for then it
worked before and somebody is at work on the other side.
"""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

import anyio

from relay.absence import Absence
from relay.core.backoff import Backoff
from relay.core.breakers import BusBreaker, State
from relay.core.event import Event
from relay.core.outcome import Outcome
from relay.errors import BusLoginRefused, BusOutage, SettingsError, StreamError
from relay.facts import BreakerChanged, BusConnected, Tell
from relay.failpoints import reach
from relay.ports import EventBus

_Answer = TypeVar("_Answer")


class Stopped(Exception):  # noqa: N818 - not an error: who waited gives up
    """The term is to stop, and the bus does not answer."""


class BusLink:
    """One bus for the process's life; ``bus`` may be asked directly only to close it."""

    def __init__(
        self, bus: EventBus, *, backoff: Backoff, jitter: Callable[[], float], tell: Tell
    ) -> None:
        """Begin with the breaker closed."""
        self._bus = bus
        self._backoff = backoff
        self._jitter = jitter
        self._tell = tell
        self._breaker = BusBreaker()
        self._absence = Absence("nats", tell)
        self._worked_before = False
        self._connected = False

    @property
    def state(self) -> State:
        """Where the bus breaker stands."""
        return self._breaker.state

    async def connect(self, stop: anyio.Event) -> None:
        """Connect, however long it takes.

        Raises:
            Stopped: ``stop`` was set first.
            StreamError, SettingsError: at the first connection, what a person has to change.
        """
        await self._ask(self._bus.connect, stop)

    async def publish(self, events: Sequence[Event], stop: anyio.Event) -> Sequence[Outcome]:
        """Publish; one outcome an event. Raises as ``connect``."""
        reach("before send")
        outcomes = await self._ask(partial(self._bus.publish, events), stop)
        reach("after ack")
        return outcomes

    def stand_by(self) -> None:
        """Forget an outage: another relay leads, and this one does not ask the bus any more."""
        self._absence.forget()
        self._backoff.succeeded()
        before = self._breaker.state
        self._breaker.forget()
        self._tell_change(before, "another relay leads, and asks the bus")

    async def close(self) -> None:
        """Drop the connection at once, sending nothing more."""
        self._connected = False
        await self._bus.close()

    async def _ask(self, ask: Callable[[], Awaitable[_Answer]], stop: anyio.Event) -> _Answer:
        self._pause_over("a new term does not wait for the last one's pause")
        while True:
            try:
                if self._absence.lasts:
                    await self._bus.connect()
                answer = await ask()
            except (BusOutage, StreamError) as outage:
                self._refuse_at_the_start(outage)
                await self._sit_out(outage, stop)
            else:
                self._answered()
                return answer

    def _refuse_at_the_start(self, outage: BusOutage | StreamError) -> None:
        if self._worked_before:
            return
        if isinstance(outage, StreamError):
            raise outage
        if isinstance(outage, BusLoginRefused):
            raise SettingsError([f"NATS does not let us in: {outage}"]) from outage

    async def _sit_out(self, outage: BusOutage | StreamError, stop: anyio.Event) -> None:
        """Note the failure and pause."""
        self._absence.failed(str(outage))
        before = self._breaker.state
        self._breaker.failed()
        self._tell_change(before, str(outage))
        await rest(self._backoff.failed(self._jitter()), stop)
        self._pause_over("the pause is over: trying")

    def _pause_over(self, reason: str) -> None:
        before = self._breaker.state
        self._breaker.pause_over()
        self._tell_change(before, reason)

    def _answered(self) -> None:
        self._worked_before = True
        if not self._connected:
            self._connected = True
            self._tell(BusConnected())
        if not self._absence.lasts:
            return
        self._absence.over()
        self._backoff.succeeded()
        before = self._breaker.state
        self._breaker.succeeded()
        self._tell_change(before, "the bus answers again")

    def _tell_change(self, before: State, reason: str) -> None:
        if self._breaker.state is not before:
            self._tell(BreakerChanged("bus", before, self._breaker.state, reason))


async def rest(seconds: float, stop: anyio.Event) -> None:
    """Wait for ``seconds``; raise ``Stopped`` as soon as ``stop`` is set."""
    with anyio.move_on_after(seconds):
        await stop.wait()
    if stop.is_set():
        raise Stopped
