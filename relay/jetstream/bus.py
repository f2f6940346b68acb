"""The ``EventBus`` over NATS JetStream: events in, outcomes out, one connection at a time.

    publish ──► connected? ──► group by stream ──► fast ingest │ windowed, one a stream, at once
                  │ no                                          │
                  └─ connect, once through all servers          └─► outcomes, or BusOutage

Authoritative: JetStream's answers; nothing is Stored without one. The order of a key is kept within
a stream. Where the events of one key go to different streams, no order exists between these.

On failure: the connection is dropped, never mended; ``BusOutage`` says why, at once, and the next
call makes a new one. Backing off between calls is the caller's business. What was in flight is to
be published again with the same message ids, which the stream's duplicate window drops.
"""

import logging
from collections.abc import Sequence

import anyio

from relay.core.event import Event
from relay.core.outcome import Outcome
from relay.errors import BusOutage
from relay.jetstream.api import DeniedError, NoAnswerError, RejectedError, api_level
from relay.jetstream.connection import Connection, Servers
from relay.jetstream.fast_ingest import publish_batches
from relay.jetstream.options import BusOptions
from relay.jetstream.setup import FAST_INGEST_LEVEL, ensure_stream
from relay.jetstream.streams import FAST_INGEST, Notices, Route, Stream, StreamMap
from relay.jetstream.windowed import publish_windowed

log = logging.getLogger(__name__)

ASK_TIMEOUT = 2.0
"""s for a question about a stream. A leaderless one never answers, not even when it has a leader
again, so the question is better asked anew: 5 s each made the recovery from a dead leader slow."""

Group = tuple[Stream, Sequence[int]]


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
        self._notices = Notices()
        self._connecting = anyio.Lock()

    @property
    def paths(self) -> dict[str, str]:
        """How each stream met so far is published to: ``fast ingest`` or ``windowed``."""
        return dict(self._notices.paths)

    async def connect(self) -> None:
        """Connect unless connected, and make or check the configured stream.

        Raises:
            BusOutage: no server takes us, or JetStream does not answer.
            StreamError: the configured stream is missing, can't be made or can't be used.
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
        outcomes: list[Outcome | None] = [None] * len(events)
        routes = await streams.routes_of(dict.fromkeys(event.subject for event in events))
        groups = _grouped(routes, events, outcomes)
        if len(groups) == 1:
            await self._publish_group(connection, streams, groups[0], events, outcomes)
        else:
            async with anyio.create_task_group() as tasks:
                for group in groups:
                    tasks.start_soon(
                        self._publish_group, connection, streams, group, events, outcomes
                    )
        complete = [outcome for outcome in outcomes if outcome is not None]
        if len(complete) < len(events):
            raise BusOutage(f"connection lost: {connection.lost}")
        return complete

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
        streams = StreamMap(connection, level, self._notices, ask_timeout)
        info = await ensure_stream(connection, options, level)
        if info is not None:
            streams.learn(info)
        log.info(
            "connected to NATS",
            extra={"server": connection.wire.server_info.get("server_name"), "api_level": level},
        )
        return streams

    async def _publish_group(
        self,
        connection: Connection,
        streams: StreamMap,
        group: Group,
        events: Sequence[Event],
        outcomes: list[Outcome | None],
    ) -> None:
        stream, places = group
        ours = events if len(places) == len(events) else [events[place] for place in places]
        limits = [each for each in (connection.max_payload, stream.max_msg_size) if each > 0]
        timeout = self._options.ack_timeout
        if stream.path == FAST_INGEST:
            came, changed = await publish_batches(
                connection, stream, ours, max_bytes=min(limits), ack_timeout=timeout
            )
        else:
            came, changed = await publish_windowed(
                connection,
                ours,
                max_bytes=min(limits),
                window=self._options.window,
                ack_timeout=timeout,
            )
        for place, outcome in zip(places, came, strict=True):
            outcomes[place] = outcome
        if changed:
            streams.forget(stream)


def _grouped(
    routes: dict[str, Route], events: Sequence[Event], outcomes: list[Outcome | None]
) -> list[Group]:
    """Sort the events by stream; those without one get their outcome here."""
    streams = list(routes.values())
    first = streams[0]
    if isinstance(first, Stream) and all(route is first for route in streams):
        return [(first, range(len(events)))]
    groups: dict[str, tuple[Stream, list[int]]] = {}
    for place, event in enumerate(events):
        route = routes[event.subject]
        if isinstance(route, Stream):
            groups.setdefault(route.name, (route, []))[1].append(place)
        else:
            outcomes[place] = route
    return list(groups.values())


def _hint(connection: Connection) -> str | None:
    if connection.forbidden_inbox is None:
        return None
    return f"{connection.forbidden_inbox}: set RELAY_NATS_INBOX_PREFIX to one that is allowed"
