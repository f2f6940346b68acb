"""The ``EventBus`` over NATS JetStream: events in, outcomes out, one connection at a time.

    publish ──► connected? ──► group by stream ──► Outgoing, one a stream, at once
                  │ no                               │
                  └─ connect, once through all       └─► outcomes, or BusOutage
                     servers

Authoritative: JetStream's answers; nothing is Stored without one. The order of a key is kept within
one call, across streams too: what follows an event that was not stored is not sent.

On failure: the connection is dropped, never mended; ``BusOutage`` says why, at once, and the next
call makes a new one. Backing off between calls is the caller's business. What was in flight is to
be published again with the same message ids, which the stream's duplicate window drops. An outage
of one stream is an outcome of its events, and what is known of it outlives the connection.

The configured stream is insisted on at the first connection only. Later a missing one is an outage
of that stream, for the others can do without it.
"""

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import anyio

from relay.core.event import Event
from relay.core.ordering import WAITS, put_behind
from relay.core.outcome import Held, Outcome, Stored
from relay.core.storage import StreamStorage
from relay.errors import BusOutage, StreamError
from relay.jetstream.api import (
    DeniedError,
    NoAnswerError,
    RejectedError,
    api_level,
    stream_info,
)
from relay.jetstream.connection import Connection, Servers
from relay.jetstream.grouping import Round, rounds_of, sole_stream
from relay.jetstream.known import KnownStreams, Stream
from relay.jetstream.options import BusOptions
from relay.jetstream.outgoing import Outcomes, Outgoing
from relay.jetstream.setup import FAST_INGEST_LEVEL, ensure_stream
from relay.jetstream.streams import ASK_TIMEOUT, StreamMap

log = logging.getLogger(__name__)

_LOOK_TIMEOUT = 0.5
_MOST_LOOKED_AT = 64
"""Streams: each costs a round trip, and series in whoever keeps the metrics."""


class JetStreamBus:
    """Publish events to JetStream. See ``relay.ports.EventBus`` for what is promised."""

    def __init__(self, options: BusOptions) -> None:
        """Take the options; nothing is connected before ``connect`` or ``publish``.

        Raises:
            SettingsError: a URL can't be used.
        """
        self._options = options
        self._servers = Servers(options)
        self._connection: Connection | None = None
        self._streams: StreamMap | None = None
        self._known = KnownStreams()
        self._let_in = False
        self._connecting = anyio.Lock()

    @property
    def paths(self) -> dict[str, str]:
        """How each stream met so far is published to: ``fast ingest`` or ``windowed``."""
        return dict(self._known.paths)

    @property
    def server(self) -> tuple[str, int] | None:
        """Host and port of the server that the newest connection is, or was, to."""
        return None if self._connection is None else self._connection.address

    def stream_of(self, subject: str) -> str | None:
        """Name the stream that takes ``subject``, as far as is known from publishing to it."""
        return None if self._streams is None else self._streams.stream_of(subject)

    async def storage(self) -> Sequence[StreamStorage]:
        """Look at what the streams met so far hold; those that can't be seen now are left out."""
        connection, found = self._connection, list[StreamStorage]()
        with anyio.move_on_after(ASK_TIMEOUT):
            for name in list(self._known.paths)[:_MOST_LOOKED_AT]:
                if connection is None or connection.lost is not None:
                    break
                with suppress(DeniedError, RejectedError, NoAnswerError):
                    state = (await stream_info(connection, name, _LOOK_TIMEOUT))["state"]
                    found.append(StreamStorage(name, state["messages"], state["bytes"]))
        return found

    async def connect(self) -> None:
        """Connect unless connected, and make or check the configured stream.

        Raises:
            BusOutage: no server takes us, or JetStream does not answer.
            BusLoginRefused: every server refuses the credentials.
            StreamError: the configured stream is missing, can't be made or can't be used; at the
                first connection only.
            SettingsError: a credentials or certificate file can't be used.
        """
        await self._connected()

    async def publish(self, events: Sequence[Event]) -> Sequence[Outcome]:
        """Publish in order, per key; one outcome an event, in the order of ``events``.

        ``Stored.seq`` is given where JetStream's answer said it for this very event: always on the
        windowed path, on fast ingest for the last event of the call where it can be told.

        Raises:
            BusOutage: the connection is or was lost: publish all of them again.
            StreamError, SettingsError: as ``connect``, if it has to connect first.
        """
        if not events:
            return []
        connection, streams = await self._connected()
        routes = await streams.routes_of(dict.fromkeys(event.subject for event in events))
        outgoing = Outgoing(connection, streams, self._options)
        stream = sole_stream(routes)
        if stream is not None:
            outcomes = await outgoing.publish(stream, events)
        else:
            outcomes = [None] * len(events)
            stuck: set[str | None] = set()
            for each in rounds_of(routes, events, outcomes):
                await _publish_round(outgoing, each, events, outcomes, stuck)
        return self._concluded(connection, events, outcomes)

    async def close(self) -> None:
        """Drop the connection at once; what is not sent yet is never sent. Never raises."""
        connection, self._connection, self._streams = self._connection, None, None
        if connection is not None:
            connection.drop("closed")
            await connection.dropped()

    async def _connected(self) -> tuple[Connection, StreamMap]:
        async with self._connecting:
            connection, streams = self._connection, self._streams
            if connection is not None and streams is not None and connection.lost is None:
                return connection, streams
            await self.close()
            connection = await self._servers.connect()
            try:
                streams = await self._begin(connection)
            except BaseException:
                connection.drop("the start failed")
                await connection.dropped()
                raise
            self._connection, self._streams = connection, streams
            return connection, streams

    async def _begin(self, connection: Connection) -> StreamMap:
        """Prove that JetStream answers us, and make or check the configured stream."""
        options = self._options
        try:
            level = await api_level(connection, options.ack_timeout)
        except DeniedError:
            version = connection.wire.connected_server_version
            level = FAST_INGEST_LEVEL if (version.major, version.minor) >= (2, 14) else 0
        except (RejectedError, NoAnswerError) as why:
            raise BusOutage(f"JetStream does not answer: {_hint(connection) or why}") from why
        ask_timeout = min(options.ack_timeout, ASK_TIMEOUT)
        streams = StreamMap(connection, level, self._known, ask_timeout)
        try:
            info = await ensure_stream(connection, options, level, ask_timeout)
        except (StreamError, BusOutage) as why:
            if not self._let_in or connection.lost is not None or options.stream is None:
                raise
            log.warning("the configured stream is not as required", extra={"reason": str(why)})
            streams.out_of_reach(options.stream, str(why))
        else:
            if info is not None:
                streams.learn(info)
        self._let_in = True
        log.info(
            "connected to NATS",
            extra={"server": connection.wire.server_info.get("server_name"), "api_level": level},
        )
        return streams

    def _concluded(
        self, connection: Connection, events: Sequence[Event], outcomes: Outcomes
    ) -> Sequence[Outcome]:
        """Hand the outcomes over: all stored at a look, or in order, with the outages marked."""
        kinds = set(map(type, outcomes))
        complete = [outcome for outcome in outcomes if outcome is not None]
        if len(complete) < len(events):
            raise BusOutage(f"connection lost: {connection.lost}")
        if kinds != {Stored}:
            put_behind(events, complete)
        if Held in kinds and (alone := self._known.alone) is not None:
            complete = [
                replace(each, alone=True) if isinstance(each, Held) and each.by == alone else each
                for each in complete
            ]
        return complete


async def _publish_round(
    outgoing: Outgoing,
    groups: Round,
    events: Sequence[Event],
    outcomes: Outcomes,
    stuck: set[str | None],
) -> None:
    """Publish to several streams at once: none waits for what another one takes.

    Events of the keys in ``stuck`` are not sent; keys of which something is not stored are added.
    """

    async def publish_group(stream: Stream, places: Sequence[int]) -> None:
        came = await outgoing.publish(stream, [events[place] for place in places])
        for place, outcome in zip(places, came, strict=True):
            outcomes[place] = outcome
            if not isinstance(outcome, Stored) and events[place].key is not None:
                behind.add(events[place].key)

    behind: set[str | None] = set()
    async with anyio.create_task_group() as tasks:
        for stream, places in groups.values():
            for place in places:
                if events[place].key in stuck:
                    outcomes[place] = WAITS
            free = [place for place in places if outcomes[place] is None]
            if free:
                tasks.start_soon(publish_group, stream, free)
    stuck |= behind


def _hint(connection: Connection) -> str | None:
    if connection.forbidden_inbox is None:
        return None
    return f"{connection.forbidden_inbox}: set RELAY_NATS_INBOX_PREFIX to one that is allowed"
