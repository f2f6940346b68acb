"""Which stream takes a subject, or why none does.

    subject ──routed before──► stream, or why there is none       a dictionary look-up
            └─new─► filters of all streams, matched here          no question
                    └─none takes it─► STREAM.LIST, once for all such subjects of a call

    no stream captures it ──once X did──► Held "lost subjects of X"; "stream X" if that is gone
                          ├─never───────► Refused, uncaptured
                          └─no answer───► Held "streams"

Authoritative: the server's list of streams, believed until an answer or an unknown subject casts
doubt on it. An account's mappings can lead a subject elsewhere than its filter says: then the
answer is believed, and the subject's next event is asked of the stream that answered.

With RELAY_STREAM only that stream is published to. Where the permissions hide the streams, only
subjects below RELAY_STREAM_SUBJECTS are published to, by the windowed path: anything else might be
a service's, which would act upon it.

On failure: a silent JetStream is an outage, never "no stream".
"""

import logging
from collections.abc import Collection, Iterable, Mapping

import anyio

from relay.core.outcome import Fault, Held, Refused, Stored, Unknown
from relay.core.subjects import fault_of
from relay.jetstream.answers import HIDDEN, STREAMS, Elsewhere, lost, out, read_puback
from relay.jetstream.api import Account, Api, DeniedError, NoAnswerError, RejectedError
from relay.jetstream.codes import STREAM_NOT_FOUND
from relay.jetstream.connection import Connection
from relay.jetstream.frames import line_fault
from relay.jetstream.options import BusOptions
from relay.jetstream.streams import TTL_UNSEEN, Filters, Stream, Streams

log = logging.getLogger(__name__)

ASK_TIMEOUT = 2.0
"""s for a question about a stream. A leaderless one never answers, not even when it has a leader
again, so the question is better asked anew: 5 s each made the recovery from a dead leader slow."""

_LIST_TIMEOUT = 6.0
"""s for a page of the list. In a cluster it takes 4 s if one stream has no leader."""

ASK_AGAIN_TIMEOUT = 0.5
"""s for a question in the middle of an outage: other streams' events wait for it meanwhile."""

_LOOK_PAUSE_LEAST = 2.0
_LOOK_SHARE = 10
"""The list is asked for again, for subjects that no stream ever captured, after 2 s, and after ten
times as long as it took."""

_MOST_SUBJECTS = 65_536

Route = Stream | Refused | Held | Unknown


class Routing:
    """Subjects to streams, for one connection. ``streams`` outlives it."""

    def __init__(
        self,
        connection: Connection,
        api: Api,
        account: Account | None,
        streams: Streams,
        options: BusOptions,
    ) -> None:
        """Begin with what is known of ``streams``; ``begin`` before it is used.

        ``account`` is what JetStream says of itself, None where the permissions hide it.
        """
        self._api = api
        self._inbox = connection.inbox
        self.can_batch = account is not None and account.can_batch
        # From API level 1 on the server itself refuses a ttl that the stream does not keep.
        self._no_ttl = "" if account is not None and account.level else TTL_UNSEEN
        self._domain = None if account is None else account.domain
        self.streams = streams
        self._options = options
        self._timeout = min(options.ack_timeout, ASK_TIMEOUT)
        self._routes: dict[str, Stream | Refused] = {}
        self._unfit: dict[str, Refused] = {}
        self._led: dict[str, str] = {}
        self._present: set[str] = set()
        self._filters = Filters[Stream]()
        self._away: Collection[str] = ()
        self._list_outage: Held | None = None
        self._hidden = False
        self._look_again_at = 0.0
        connection.on_stray = self.stray
        self._take([stream for stream in streams.by_name.values() if stream.subjects])

    async def routes_of(
        self, subjects: Iterable[str], closed: Collection[str]
    ) -> Mapping[str, Route]:
        """Find where each of ``subjects`` goes; at most one question, whatever their number.

        What one of ``closed`` is known to hold up is ``Held`` by it.
        """
        routes: dict[str, Route] = {}
        unsure = []
        for subject in subjects:
            route = routes[subject] = self._routes.get(subject) or self.resolve(subject)
            if not isinstance(route, Stream) and subject not in self._unfit:
                unsure.append(subject)
        if unsure and self._worth_a_look([routes[subject] for subject in unsure], closed):
            await self.look()
            for subject in unsure:
                routes[subject] = self.resolve(subject)
        streams = {each for each in routes.values() if isinstance(each, Stream)}
        for stream in streams:
            if stream.no_ack and out(stream.name) not in closed:
                await self.refresh(stream)
            if not stream.met:
                self.streams.meet(stream)
        if not closed and not any(stream.no_ack for stream in streams):
            return routes
        return {
            subject: (isinstance(route, Stream) and route.hold_of(subject, closed)) or route
            for subject, route in routes.items()
        }

    def _worth_a_look(self, routes: Iterable[Route], closed: Collection[str]) -> bool:
        if any(isinstance(route, Held) and route.by not in closed for route in routes):
            return True
        return anyio.current_time() >= self._look_again_at

    @property
    def present(self) -> Collection[str]:
        """The streams that there are, as far as was listed."""
        return self._present

    # Asking the server.

    async def begin(self) -> None:
        """Look for the first time. What was known before is believed if the answer takes long."""
        await self._look(self._timeout if self._present else _LIST_TIMEOUT)

    async def look(self) -> None:
        """Ask for all streams, with their filters; if nobody answers, that is noted.

        While nobody answers, most looks are short: whoever publishes waits for them.
        """
        due = anyio.current_time() >= self._look_again_at
        await self._look(_LIST_TIMEOUT if due or self._list_outage is None else ASK_AGAIN_TIMEOUT)

    async def _look(self, timeout: float) -> None:  # noqa: ASYNC109 - of each question
        began = anyio.current_time()
        self._list_outage = None
        self._routes.clear()
        try:
            infos, self._away = await self._api.streams(timeout)
        except DeniedError:
            await self._look_at_the_one()
        except (RejectedError, NoAnswerError) as why:
            self._list_outage = Held(STREAMS, f"nobody can say which streams there are: {why}")
            if timeout < _LIST_TIMEOUT:
                return
        else:
            self._hidden = False
            self._take([self.streams.learn(info, can_batch=self.can_batch) for info in infos])
        took = anyio.current_time() - began
        self._look_again_at = began + took + max(_LOOK_PAUSE_LEAST, _LOOK_SHARE * took)

    async def _look_at_the_one(self) -> None:
        """Where the streams can't be listed, ask about the configured one alone."""
        self._away = ()
        name = self._options.stream
        if name is None:
            self._go_by_the_settings()
            return
        try:
            info = await self._api.stream_info(name, self._timeout)
        except DeniedError:
            self._go_by_the_settings()
        except RejectedError as no:
            self._take([])
            if no.code != STREAM_NOT_FOUND:
                self._list_outage = Held(out(name), str(no), no.code)
        except NoAnswerError as why:
            reason = f"nobody can say what stream {name} captures: {why}"
            self._list_outage = Held(STREAMS, reason)
        else:
            self._take([self.streams.learn(info, can_batch=self.can_batch)])

    def _go_by_the_settings(self) -> None:
        """Publish below RELAY_STREAM_SUBJECTS alone: the permissions hide the streams."""
        if not self._hidden:
            self._hidden = True
            log.warning(
                "the permissions hide the streams: no fast ingest, no check of their limits, and "
                "nothing is published but below RELAY_STREAM_SUBJECTS; allow "
                "$JS.API.STREAM.LIST and $JS.API.STREAM.INFO.*"
            )
        stream = self.streams.get(self._options.stream or HIDDEN, self._domain)
        stream.subjects, stream.no_ttl = self._options.stream_subjects, TTL_UNSEEN
        self._take([stream])

    def _take(self, present: Collection[Stream]) -> None:
        self._present = {stream.name for stream in present}
        self._filters = Filters((each, stream) for stream in present for each in stream.subjects)

    async def refresh(self, stream: Stream) -> None:
        """Ask anew what ``stream`` is like. If nobody answers, it is believed to be as it was."""
        try:
            info = await self._api.stream_info(stream.name, self._timeout)
        except (DeniedError, RejectedError, NoAnswerError):
            return
        before = stream.subjects
        self.streams.learn(info, can_batch=self.can_batch)
        if stream.subjects != before:
            await self.look()

    # Answers of other streams.

    async def leads_to(self, subject: str, name: str) -> Refused | Unknown | None:
        """Note that only ``name`` answered for ``subject``: it is asked of that stream next.

        None if we know of no such stream: whoever answered is none.
        """
        if name not in self._present:
            await self.look()
        if name not in self._present:
            return None
        only = self._options.stream
        if only is not None and name != only:
            return Refused(f"{subject} leads to stream {name}, {_only(only)}")
        if len(self._led) >= _MOST_SUBJECTS:
            self._led.clear()
        self._led[subject] = name
        self._routes.pop(subject, None)
        return Unknown(f"stream {name} answered for {subject}: asking it from now on")

    def stray(self, payload: bytes) -> None:
        """Look at an answer that no exchange waits for. It proves nothing.

        A stream that answers late is given more time; a second capture of our subjects is named.
        """
        name = next(iter(self._present), HIDDEN)
        found = read_puback(payload, None, self.streams.get(name, self._domain).expected)
        if isinstance(found, Elsewhere) and not found.home:
            self.streams.second_capture(found.stream)
        elif isinstance(found, Elsewhere | Stored):
            by_name = self.streams.by_name
            stream = by_name.get(found.stream) or by_name.get(HIDDEN)
            if stream is not None:
                stream.late = stream.silent

    # Resolving.

    def resolve(self, subject: str) -> Route:
        """Find where ``subject`` goes without asking the server."""
        unfit = self._unfit.get(subject)
        if unfit is not None:
            return unfit
        if len(self._routes) + len(self._unfit) >= _MOST_SUBJECTS:
            self._routes.clear()
            self._unfit.clear()
        fault = fault_of(subject) or line_fault(subject, self._inbox)
        if fault is not None:
            unfit = self._unfit[subject] = Refused(fault)
            return unfit
        route = self._route(subject)
        if isinstance(route, Stream | Refused):
            self._routes[subject] = route
        return route

    def _route(self, subject: str) -> Route:
        led, only = self._led.get(subject), self._options.stream
        if led is not None and led in self._present:
            return self.streams.get(led)
        stream = self._filters.find(subject)
        if stream is not None:
            if only is None or stream.name == only:
                return stream
            return Refused(f"stream {stream.name} captures {subject}, {_only(only)}")
        if self._hidden and not self._options.stream_subjects:
            reason = "the permissions hide the streams: set RELAY_STREAM_SUBJECTS, or allow "
            return Held(STREAMS, reason + "$JS.API.STREAM.LIST")
        once = self.streams.once(subject, only)
        return self._uncaptured(subject) if once is None else self._lost(once, subject)

    def _lost(self, name: str, subject: str) -> Stream | Held:
        if name in self._away or self._list_outage is not None:
            stream = self.streams.get(name, self._domain)
            if stream.info is None:
                stream.no_ttl = self._no_ttl
            return stream
        if name in self._present:
            remedy = "add it to its subjects again"
            return Held(lost(name), f"{out(name)} does not capture {subject} any more: {remedy}")
        reason = f"{out(name)} is gone: make it again, with its subjects"
        return Held(out(name), reason, STREAM_NOT_FOUND)

    def _uncaptured(self, subject: str) -> Held | Refused:
        if self._list_outage is not None:
            return self._list_outage
        if self._away:
            names = ", ".join(sorted(self._away)[:3])
            return Held(STREAMS, f"{subject}: no leader says what these streams capture: {names}")
        if self._hidden:
            reason = (
                f"{subject} is not below RELAY_STREAM_SUBJECTS, and the permissions hide streams"
            )
            return Refused(reason, fault=Fault.UNCAPTURED)
        remedy = "create one or set RELAY_STREAM_CREATE"
        if self._options.stream:  # no other is published to
            remedy = f"create stream {self._options.stream} with it, or add it to its subjects"
        return Refused(f"no stream captures {subject}: {remedy}", fault=Fault.UNCAPTURED)


def _only(stream: str) -> str:
    return f"and RELAY_STREAM lets the relay publish to {stream} only"
