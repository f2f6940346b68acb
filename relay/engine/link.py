"""The bus, waited for: asked again until it answers, with pauses that grow to half a second.

Who is right: the bus. An outage costs no event an attempt and is told once, however many tries it
takes and terms it outlasts. A connection that is lost while events are published is made again
here; whether the same events go out again, or fewer of them, is the caller's decision, for one of
them may be what cuts it.

What a person has to change (a missing stream, a refused login, a credentials file that can't be
read) is raised at the process's first connection only. Later it is an outage: someone may be
changing it.
"""

from collections.abc import Callable, Collection, Mapping, Sequence

import anyio

from relay.core.backoff import State
from relay.core.event import Event
from relay.core.outcome import Outcome, Refused
from relay.core.pace import Halving
from relay.engine.outage import OutageBook
from relay.errors import BusLoginRefused, BusOutage, Misconfigured, SettingsError, StreamError
from relay.facts import BusConnected, FactSink, Retried
from relay.failpoints import reach
from relay.ports import EventBus, Permit

CUTS = "the connection to NATS ends each time this event is sent"
LOST = "the connection to NATS was lost while they were published"

_REFUSALS = (BusOutage, StreamError, SettingsError)
"""What a bus raises, and what is waited out once it has worked."""


class Stopped(Exception):  # noqa: N818 - not an error: the waiting task gives up
    """The term is to stop, and the bus does not answer."""


class BusLink:
    """One bus for the process's life; ``bus`` may be asked directly only to close it."""

    def __init__(
        self,
        bus: EventBus,
        *,
        jitter: Callable[[], float],
        record: FactSink,
        longest_pause: float,
    ) -> None:
        """Begin with the breaker closed."""
        self.bus = bus
        self._record = record
        self._outage = OutageBook(
            "nats", jitter=jitter, record=record, longest_pause=longest_pause, breaker="bus"
        )
        self._worked_before = False
        self._connected = False
        self._learnt: dict[str, set[str]] = {}

    @property
    def state(self) -> State:
        """Where the bus breaker stands."""
        return self._outage.state

    async def connect(self, stop: anyio.Event) -> None:
        """Connect, however long it takes.

        Raises:
            Stopped: ``stop`` was set first.
            StreamError, SettingsError: at the first connection, what a person has to change.
        """
        self._outage.trying()  # a new term does not wait for the last one's pause
        while True:
            try:
                await self.bus.connect()
            except _REFUSALS as outage:
                self._refuse_at_the_start(outage)
                await self._sit_out(outage, stop)
            else:
                self._answered()
                return

    async def publish(
        self,
        events: Sequence[Event],
        permit: Permit,
        closed: Collection[str],
        stop: anyio.Event,
    ) -> Sequence[Outcome] | None:
        """Publish once; one outcome an event, or None if the connection was lost and is back.

        Raises:
            Stopped, StreamError, SettingsError: as ``connect``.
            TermLost, StoreOutage: the permit could not be renewed.
        """
        if self._outage.lasts:
            await self.connect(stop)
        reach("before send")
        try:
            outcomes = await self.bus.publish(events, permit, closed=closed)
        except _REFUSALS as outage:
            self._refuse_at_the_start(outage)
            await self._sit_out(outage, stop)
            await self.connect(stop)
            return None
        reach("after ack")
        self._answered()
        return outcomes

    def learnt(self) -> Mapping[str, Collection[str]]:
        """Return what was learnt of streams and is not ``kept``: a term may end in between."""
        for stream, subjects in self.bus.learnt().items():
            self._learnt.setdefault(stream, set()).update(subjects)
        return {name: frozenset(subjects) for name, subjects in self._learnt.items()}

    def kept(self, streams: Mapping[str, Collection[str]]) -> None:
        """Forget what ``learnt`` returned: it is remembered beyond this process."""
        for stream, subjects in streams.items():
            self._learnt[stream].difference_update(subjects)
            if not self._learnt[stream]:
                del self._learnt[stream]

    def stand_by(self) -> None:
        """Forget an outage: another relay leads, and this one does not ask the bus any more."""
        self._outage.forget()

    async def close(self) -> None:
        """Drop the connection at once, sending nothing more."""
        self._connected = False
        await self.bus.close()

    def _refuse_at_the_start(self, outage: BusOutage | Misconfigured) -> None:
        if self._worked_before:
            return
        if isinstance(outage, Misconfigured):
            raise outage
        if isinstance(outage, BusLoginRefused):
            raise SettingsError([f"NATS does not let us in: {outage}"]) from outage

    async def _sit_out(self, outage: BusOutage | Misconfigured, stop: anyio.Event) -> None:
        """Note the failure and pause."""
        await rest(self._outage.failed(outage), stop)
        self._outage.trying()

    def _answered(self) -> None:
        self._worked_before = True
        if not self._connected:
            self._connected = True
            self._record(BusConnected())
        if self._outage.lasts:
            self._outage.answered()


class Sender:
    """Sends events over a link for one term: fewer at a time after a lost connection.

    Attributes:
        took: s that the last answer took.
    """

    def __init__(self, link: BusLink, permit: Permit, record: FactSink) -> None:
        """Send while ``permit`` is granted."""
        self.took = 0.0
        self._link = link
        self._permit = permit
        self._record = record
        self._halving = Halving()

    async def send(
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
            outcomes = await self._link.publish(head, self._permit, closed, stop)
            self.took = anyio.current_time() - began
            if outcomes is not None:
                if suspicious:
                    self._halving.answered()
                return outcomes
            if self._halving.cut(len(head)):
                self._halving.answered()
                return [Refused(CUTS)]
            self._record(Retried(len(head), LOST, 1, 0.0))


async def rest(seconds: float, stop: anyio.Event) -> None:
    """Wait for ``seconds``; raise ``Stopped`` as soon as ``stop`` is set."""
    with anyio.move_on_after(seconds):
        await stop.wait()
    if stop.is_set():
        raise Stopped
