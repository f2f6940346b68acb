"""Whether the streams still hold what they acknowledged, and what of ours they hold besides.

R-LOSS, R-ONCE. A stream's *tip* is how far it was when the engine last took it down; the settled
ones are checkpoints. On each new connection, where an answer shows that a sequence did not rise,
and where one is missing for half the duplicate window, a stream is compared with its tip before
anything more is published:

    created at another time ─────────► another stream: begin with it anew, and say so; but where a
                                       relay made it, because it was missing, all of it was lost
    a lower last sequence, or
    another message at the tip's ────► behind: StreamBehind; the engine goes back (``held``)
    else: more messages than the tip ► read their event ids (``tail``): those events count as Stored
                                       in this stream, and are not sent to it, however long ago the
                                       duplicate window ended

It costs what the connection asks anyway, and one question for the message at the tip's sequence. A
message that is missing there is no evidence: limits, consumers and people delete messages.
While what the tail held may still come to be published, tips keep the sequence at which the tail
began (``Tip.after``): a relay that dies meanwhile reads it again.

Authoritative: the stream. On failure: its events are held until it can be compared.
"""

import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

import anyio

from relay.core.checkpoint import Checkpoint, Found, Tip, Verdict, judge
from relay.core.event import Event
from relay.core.outcome import Held, Stored
from relay.errors import BusOutage, StreamBehind
from relay.jetstream.answers import out
from relay.jetstream.api import Api, DeniedError, NoAnswerError, RejectedError, StreamInfo
from relay.jetstream.connection import Connection
from relay.jetstream.duplicates import NO_MESSAGE_FOUND, read_stored
from relay.jetstream.options import BusOptions
from relay.jetstream.rounds import Outcomes
from relay.jetstream.routing import Route
from relay.jetstream.streams import Stream, Streams
from relay.jetstream.tail import read_tail

log = logging.getLogger(__name__)

_ASK = 2.0


class Reconciler:
    """``relay.checkpoints.Reconciling`` over the streams of one bus, beyond any one connection.

    Attributes:
        active: whether an event may have to be passed over: ``publish`` decides on each.
    """

    def __init__(self, streams: Streams, options: BusOptions) -> None:
        """Know nothing yet."""
        self.active = False
        self._streams = streams
        self._options = options
        self._connection: Connection | None = None
        self._api: Api | None = None
        self._tails: dict[Stream, set[int]] = {}  # event ids that stand in its tail
        self._delivered: Collection[int] = ()  # ids that were delivered before the repair
        self._repairing: Collection[str] = ()
        self._behind: dict[str, StreamInfo] = {}
        self._repaired = self._remembered = 0
        self._denied: set[str] = set()

    # What the engine asks.

    def resume(self, tips: Sequence[Tip], repairing: Collection[str]) -> None:
        """Begin a term with what is settled."""
        for stream in self._streams.by_name.values():
            stream.forget_tip()
        self._streams.moved.clear()
        for tip in tips:
            stream = self._streams.get(tip.stream)
            stream.resume(tip)
            stream.uncompared = self._options.reconcile
        self._tails, self._delivered = {}, ()
        self._repairing = frozenset(repairing)
        self._behind.clear()
        self.active = False

    def tips(self, *, caught_up: bool = False) -> Sequence[Tip]:
        """Return the tips that have moved; with ``caught_up`` no tail is of use any more."""
        if caught_up and self._tails:
            self._streams.moved.update(self._tails)
            self._tails.clear()
            self.active = bool(self._delivered)
        if not self._streams.moved:
            return ()
        taken = [
            stream.take_tip(keep_after=stream in self._tails) for stream in self._streams.moved
        ]
        self._streams.moved.clear()
        return [tip for tip in taken if tip is not None]

    async def held(self, stream: str, ring: Sequence[Checkpoint]) -> Checkpoint:
        """Return the newest checkpoint that is older than all that the stream contradicts."""
        assert self._api is not None
        try:
            info = await self._api.stream_info(stream, _ASK)
            return (await scan(self._api, info, ring))[1]
        except (DeniedError, RejectedError, NoAnswerError) as why:
            self._behind.pop(stream, None)  # it waits until it answers; the others do not
            self._streams.get(stream).uncompared = True
            raise BusOutage(f"{out(stream)}: {why}") from why

    def accept(self) -> None:
        """Take the streams that are behind for what they are now."""
        for name, info in self._behind.items():
            self._begin(self._streams.get(name), info)
        self._behind.clear()

    def pass_over(self, ids: Collection[int]) -> None:
        """Take these events for stored, but those of a stream that is being repaired."""
        self._delivered = frozenset(ids)
        self.active = bool(self._delivered or self._tails)

    def repaired(self) -> tuple[int, int]:
        """Count, since asked last, events published again, and those not stored again."""
        counts = self._repaired, self._remembered
        self._repaired = self._remembered = 0
        return counts

    # What the bus asks.

    async def compare(self, connection: Connection, api: Api, present: Collection[str]) -> None:
        """Compare each stream with its tip, on a new connection; raises StreamBehind."""
        if connection is not self._connection and self._options.reconcile:
            self._connection, self._api = connection, api
            self._tails = {}  # they are read anew
            self._behind.clear()
            for stream in self._streams.by_name.values():
                stream.looked = 0
                stream.uncompared = stream.tip is not None or stream.name == self._options.stream
            for stream in map(self._streams.get, present):
                if stream.uncompared and stream.info is not None:
                    with suppress(BusOutage):  # compared when it answers
                        await self._look(stream, stream.info)
        if self._behind:
            raise StreamBehind(sorted(self._behind))

    async def look_first(self, routes: Mapping[str, Route]) -> Mapping[str, Route]:
        """Compare what has to be before it is sent to; hold what can't be. Raises as ``look``."""
        now, held = anyio.current_time(), dict[Route, Held]()
        for stream in set(routes.values()) if self._options.reconcile else ():
            if type(stream) is Stream and stream.unsure(now) and (why := await self.look(stream)):
                stream.takes_nothing(why)
                held[stream] = why
        return {on: held.get(route, route) for on, route in routes.items()} if held else routes

    async def look(self, stream: Stream) -> Held | None:
        """Compare one stream with its tip; why it is held where nobody can say.

        Raises:
            StreamBehind: it has lost messages.
        """
        assert self._api is not None
        try:
            info = await self._api.stream_info(stream.name, _ASK)
        except DeniedError as why:
            self._say_denied(stream, why)
            stream.uncompared, stream.unanswered_since = False, None
            return None
        except (RejectedError, NoAnswerError) as why:
            return Held(out(stream.name), f"nobody can say what {out(stream.name)} holds: {why}")
        try:
            await self._look(stream, info)
        except BusOutage as why:
            return Held(out(stream.name), str(why))
        if self._behind:
            raise StreamBehind(sorted(self._behind))
        return None

    async def doubted(self) -> None:
        """Compare those of which an answer casts doubt on the tip, before there is another tip.

        Where nobody can say, the stream keeps the tip that it has until somebody does.

        Raises:
            StreamBehind: one of them has lost messages.
        """
        doubted = list(self._streams.doubts)
        self._streams.doubts.clear()
        for stream in doubted if self._options.reconcile else ():
            if await self.look(stream) is not None:
                stream.uncompared, stream.newest = True, None
                self._streams.moved.discard(stream)

    async def publish(
        self,
        send: Callable[..., Awaitable[Outcomes]],
        events: Sequence[Event],
        routes: Mapping[str, Route],
    ) -> Outcomes:
        """Have those ``events`` sent that are not known to be stored; one outcome an event.

        Of what is published again, each answer is looked at: a stream that still remembers a
        message id does not store it again.
        """
        known = [self._known(event, routes[event.subject]) for event in events]
        rest = [event for event, stored in zip(events, known, strict=True) if stored is None]
        again = any(event.id in self._delivered for event in rest)
        sent = await send(rest, routes, apart=again) if rest else []
        for event, outcome in zip(rest if again else (), sent, strict=False):
            if event.id in self._delivered and isinstance(outcome, Stored):
                self._remembered += outcome.duplicate is True
                self._repaired += outcome.duplicate is not True
        each = iter(sent)
        return [next(each) if stored is None else stored for stored in known]

    def _known(self, event: Event, route: Route) -> Stored | None:
        if not isinstance(route, Stream):
            return None
        before = event.id in self._delivered and route.name not in self._repairing
        tail = self._tails.get(route)  # not another stream's: it may source this one, which lost it
        if before or (tail and as_number(event.event_id) in tail):
            return Stored(route.name, sent=False)
        return None

    # Comparing.

    async def _look(self, stream: Stream, info: StreamInfo) -> None:
        """Compare ``stream``, which is as ``info`` says, with its tip."""
        tip, last_seq = stream.tip, info.state["last_seq"]
        stream.last_seq = last_seq
        if tip is None:
            self._begin(stream, info)
            return
        verdict = judge(tip, created=info.created, last_seq=last_seq, found=None)
        if verdict is Verdict.REMADE and info.made_by_relay:
            verdict = Verdict.BEHIND
        if verdict is Verdict.NO_EVIDENCE and tip.message_id:
            found = await self._message(stream, tip.seq)
            verdict = judge(tip, created=info.created, last_seq=last_seq, found=found)
        if verdict is Verdict.REMADE:
            log.warning(
                "the stream was made anew: what the one before held is not published again",
                extra={"stream": stream.name, "made_at": info.created, "before": tip.created},
            )
            self._begin(stream, info)
        elif verdict is Verdict.BEHIND:
            self._behind[stream.name] = info
        else:
            await self._read_tail(stream, tip, last_seq)
        stream.uncompared, stream.unanswered_since = False, None

    def _begin(self, stream: Stream, info: StreamInfo) -> None:
        last_seq = info.state["last_seq"]
        stream.resume(Tip(stream.name, info.created, last_seq, after=last_seq))
        stream.uncompared, stream.last_seq = False, last_seq
        self._streams.moved.add(stream)

    async def _message(self, stream: Stream, seq: int) -> Found | None:
        """Return the message at ``seq``; None if there is none, or we may not look."""
        assert self._api is not None
        try:
            return await message_at(self._api, stream.name, seq)
        except DeniedError as why:
            self._say_denied(stream, why)
        except (RejectedError, NoAnswerError) as why:
            raise BusOutage(f"{out(stream.name)}: {why}") from why
        return None

    async def _read_tail(self, stream: Stream, tip: Tip, last_seq: int) -> None:
        """Learn which of our events stand behind the tip."""
        assert self._connection is not None
        assert self._api is not None
        after = max(tip.after, stream.looked)
        if last_seq <= after:
            return
        try:
            tail = await read_tail(
                self._connection, self._api, stream.name, after=after, up_to=last_seq
            )
        except DeniedError as why:
            self._say_denied(stream, why)
            return
        except NoAnswerError as why:
            raise BusOutage(
                f"{out(stream.name)}: its newest messages can't be read: {why}"
            ) from why
        stream.looked = last_seq
        if not tail.complete:
            log.warning(
                "the stream's newest messages are too many to look at: of the last ones, repeats"
                " are only dropped by the duplicate window",
                extra={"stream": stream.name, "looked_to": tail.reached, "last": last_seq},
            )
        if tail.event_ids:
            self._tails.setdefault(stream, tail.event_ids).update(tail.event_ids)
            self.active = True
        elif stream not in self._tails:
            stream.tip = replace(tip, after=last_seq)
            self._streams.moved.add(stream)
        if tail.last is not None:
            stream.stored_at(*tail.last, sure=True)

    def _say_denied(self, stream: Stream, why: DeniedError) -> None:
        if stream.name not in self._denied:
            self._denied.add(stream.name)
            log.warning(
                "the permissions forbid to look whether a stream still holds what it acknowledged:"
                " allow $JS.API.STREAM.INFO.*, $JS.API.STREAM.MSG.GET.*,"
                " $JS.API.CONSUMER.CREATE.*.*, $JS.API.CONSUMER.MSG.NEXT.*.* and"
                " $JS.API.CONSUMER.DELETE.*.*",
                extra={"stream": stream.name, "reason": str(why)},
            )


def as_number(event_id: str) -> int:
    """Return a UUID as a whole number, which takes half the memory."""
    return int(event_id.replace("-", ""), 16)


async def message_at(api: Api, stream: str, seq: int) -> Found | None:
    """Return the message at ``seq``; None if there is none. Raises as ``Api.request``."""
    try:
        answer = await api.request(f"STREAM.MSG.GET.{stream}", _ASK, {"seq": seq})
    except RejectedError as no:
        if no.code == NO_MESSAGE_FOUND:
            return None
        raise
    return read_stored(answer)


async def scan(api: Api, info: StreamInfo, ring: Sequence[Checkpoint]) -> tuple[bool, Checkpoint]:
    """Judge every checkpoint of one stream's ``ring``, the newest first.

    Returns whether the stream contradicts one, and the newest one older than all those; one without
    a position if there is none.
    """
    contradicted, held = False, None
    created, last_seq = info.created, info.state["last_seq"]
    for checkpoint in ring:
        tip, found = checkpoint.tip, None
        if tip.created != created:
            contradicted = contradicted or (held is None and info.made_by_relay)
            break
        if tip.message_id and tip.seq <= last_seq:
            found = await message_at(api, info.name, tip.seq)
        if judge(tip, created=created, last_seq=last_seq, found=found) is Verdict.BEHIND:
            contradicted, held = True, None
        elif held is None:
            held = checkpoint
    return contradicted, held or Checkpoint(Tip(info.name, created, 0))
