"""The ``EventBus`` over NATS JetStream: events in, outcomes out, one connection at a time.

    publish ──► connected? ──► where does each subject go? ──► Delivery ──► outcomes, or BusOutage
                  │ no                 (routing)                 (by fast_ingest or windowed)
                  └─ connect, once through all servers

Authoritative: JetStream's answers; nothing is Stored without proof (R-LOSS: ``answers``). Nothing
is sent without the permit (R-TERM: ``connection.Sender``). The order of a key is kept within one
call, across streams too (R-ORDER: ``core.order``).

On failure: the connection is dropped, never mended; ``BusOutage`` says why, at once, and the next
call makes a new one. Pausing between calls is the caller's business. What was in flight is to be
published again with the same message ids, which the stream's duplicate window drops. An outage of
one stream is an outcome of its events, and what is known of it outlives the connection.

The configured stream is insisted on at the first connection only. Later a missing one is an outage
of that stream: a person may be at work on it.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import anyio

from relay.core.event import Event
from relay.core.outcome import Outcome
from relay.core.storage import StreamStorage
from relay.errors import BusLoginRefused, BusOutage, StreamError
from relay.jetstream.api import Account, Api, DeniedError, NoAnswerError, RejectedError
from relay.jetstream.connection import Connection, Sender
from relay.jetstream.delivery import Delivery
from relay.jetstream.error_codes import out
from relay.jetstream.options import BusOptions
from relay.jetstream.routing import ASK_TIMEOUT, Routing
from relay.jetstream.servers import Servers
from relay.jetstream.setup import FAST_INGEST_LEVEL, ensure_stream
from relay.jetstream.streams import Streams
from relay.ports import Permit

log = logging.getLogger(__name__)

_LOOK_TIMEOUT = 0.5
_MOST_LOOKED_AT = 64
"""Streams: each costs a round trip, and series in whoever keeps the metrics."""


@dataclass(slots=True)
class _Open:
    """What belongs to one connection."""

    connection: Connection
    api: Api
    routing: Routing


class JetStreamBus:
    """Publish events to JetStream. See ``relay.ports.EventBus`` for what is promised."""

    def __init__(self, options: BusOptions) -> None:
        """Take the options; nothing is connected before ``connect`` or ``publish``.

        Raises:
            SettingsError: a URL can't be used.
        """
        self._options = options
        self._servers = Servers(options)
        self._open: _Open | None = None
        self._streams = Streams()
        self._was_connected = False
        self._connecting = anyio.Lock()

    @property
    def paths(self) -> Mapping[str, str]:
        """How each stream met so far is published to: ``fast ingest`` or ``windowed``."""
        return self._streams.paths

    @property
    def server(self) -> tuple[str, int] | None:
        """Host and port of the server that the newest connection is, or was, to."""
        return None if self._open is None else self._open.connection.address

    @property
    def sole_hold(self) -> str | None:
        """The name of the hold that would hold up every event; None if events go apart."""
        return None if self._options.stream is None else out(self._options.stream)

    @property
    def duplicate_window(self) -> float | None:
        """The shortest duplicate window in s of the streams met so far; None if none is known."""
        windows = [stream.duplicate_window for stream in self._streams.met]
        return min((each for each in windows if each), default=None)

    def recall(self, streams: Mapping[str, Collection[str]]) -> None:
        """Take in the streams, with every filter they ever had, that an earlier process learnt."""
        self._streams.recall(streams)

    def learnt(self) -> Mapping[str, Collection[str]]:
        """Return the streams and filters learnt since this was asked last; empty if none."""
        return self._streams.learnt()

    async def storage(self) -> Sequence[StreamStorage]:
        """Look at what the streams met so far hold; those that can't be seen now are left out."""
        now, found = self._open, list[StreamStorage]()
        with anyio.move_on_after(ASK_TIMEOUT):
            for name in list(self._streams.paths)[:_MOST_LOOKED_AT]:
                if now is None or now.connection.lost is not None:
                    break
                with suppress(DeniedError, RejectedError, NoAnswerError):
                    state = (await now.api.stream_info(name, _LOOK_TIMEOUT)).state
                    found.append(StreamStorage(name, state["messages"], state["bytes"]))
        return found

    async def connect(self) -> None:
        """Connect unless connected, and make or check the configured stream.

        Raises:
            BusOutage: no server takes us, or JetStream does not answer.
            BusLoginRefused: every server refuses us as we are set up.
            StreamError: the configured stream is missing, can't be made or can't be used; at the
                first connection only.
            SettingsError: a credentials or certificate file can't be used.
        """
        await self._connected()

    async def publish(
        self, events: Sequence[Event], permit: Permit, *, closed: Collection[str] = ()
    ) -> Sequence[Outcome]:
        """Publish in order, per key; one outcome an event, in the order of ``events``.

        ``Stored.seq`` is given where JetStream's answer said it for this very event: always on the
        windowed path, on fast ingest for the last event of the call where it can be told.

        Raises:
            BusOutage: the connection is or was lost: publish all of them again.
            StreamError, SettingsError: as ``connect``, if it has to connect first.
            TermLost, StoreOutage: ``permit`` could not be renewed.
        """
        if not events:
            return []
        now = await self._connected()
        subjects = dict.fromkeys([event.subject for event in events])
        routes = await now.routing.routes_of(subjects, closed)
        delivery = Delivery(Sender(now.connection, permit), now.api, now.routing, self._options)
        outcomes = await delivery.publish(events, routes)
        complete = [outcome for outcome in outcomes if outcome is not None]
        if len(complete) < len(events):
            raise BusOutage(f"connection lost: {now.connection.lost}")
        return complete

    async def close(self) -> None:
        """Drop the connection at once; what is not sent yet is never sent. Never raises."""
        now, self._open = self._open, None
        if now is not None:
            now.connection.drop("closed")
            await now.connection.dropped()

    async def _connected(self) -> _Open:
        async with self._connecting:
            now = self._open
            if now is not None and now.connection.lost is None:
                return now
            await self.close()
            connection = await self._servers.connect()
            try:
                self._open = await self._begin(connection)
            except BaseException:
                connection.drop("the start failed")
                await connection.dropped()
                raise
            return self._open

    async def _begin(self, connection: Connection) -> _Open:
        """Prove that JetStream answers us, make or check the configured stream, list all."""
        options, api = self._options, Api(connection, self._options.api)
        account = await self._account(connection, api)
        level = account.level if account is not None else _level_of(connection)
        timeout = min(options.ack_timeout, ASK_TIMEOUT)
        routing = Routing(connection, api, account, self._streams, options)
        try:
            info = await ensure_stream(api, options, level, timeout)
        except (StreamError, BusOutage) as why:
            if not self._was_connected or connection.lost is not None or options.stream is None:
                raise
            log.warning("the configured stream is not as required", extra={"reason": str(why)})
        else:
            if info is not None:
                stream = self._streams.learn(info, can_batch=level >= FAST_INGEST_LEVEL)
                self._streams.meet(stream)
        await routing.begin()
        self._was_connected = True
        log.info(
            "connected to NATS",
            extra={"server": connection.wire.server_info.get("server_name"), "api_level": level},
        )
        return _Open(connection, api, routing)

    async def _account(self, connection: Connection, api: Api) -> Account | None:
        """Ask JetStream what it is; None if the permissions hide that."""
        try:
            return await api.account(self._options.ack_timeout)
        except DeniedError:
            return None
        except (RejectedError, NoAnswerError) as why:
            if connection.forbidden_inbox is not None:
                remedy = "set RELAY_NATS_INBOX_PREFIX to one that is allowed"
                raise BusLoginRefused(f"{connection.forbidden_inbox}: {remedy}") from why
            raise BusOutage(f"JetStream does not answer: {why}") from why


def _level_of(connection: Connection) -> int:
    """Guess the API level where the permissions hide it, by the server's version."""
    major, _, rest = str(connection.wire.server_info.get("version", "")).partition(".")
    minor = rest.partition(".")[0]
    if not (major.isdecimal() and minor.isdecimal()):
        return 0
    return FAST_INGEST_LEVEL if (int(major), int(minor)) >= (2, 14) else 0
