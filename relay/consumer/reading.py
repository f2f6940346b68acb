"""Reading: what JetStream has goes to the lanes, and what is done goes back to JetStream.

One of these for the life of a ``Consumer``. It makes connections and attaches, again and again,
while the process leads; the rest is its lanes' and its hand's.
"""

import asyncio
import random
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

from relay.consumer.calling import Telemetry
from relay.consumer.jetstream import Doubt, Durable, Reader, attached
from relay.consumer.lanes import Counts, Lanes
from relay.consumer.message import Delivery, Hand
from relay.consumer.outages import PAUSE_FIRST, Outage
from relay.errors import BusLoginRefused, BusOutage, Misconfigured
from relay.jetstream.api import Api, DeniedError, NoAnswerError
from relay.jetstream.connection import Connection
from relay.jetstream.servers import open_connection

CONNECT_DEADLINE: Final = 5.0
ACK_DEADLINE: Final = 2.0
_OURS: Final = frozenset(
    {
        *("servers", "allow_reconnect", "max_reconnect_attempts", "pending_size"),
        *("error_cb", "closed_cb", "disconnected_cb", "reconnected_cb", "lame_duck_mode_cb"),
    }
)
"""Options of ``nats.connect`` that are not the application's: a lost connection stays lost."""


class Reading:
    """NATS's side of a consumer. ``bus`` keeps its outages."""

    def __init__(
        self,
        durable: Durable,
        servers: Sequence[str],
        nats_options: Mapping[str, Any],
        *,
        is_trusted: Callable[[], bool],
        stopping: asyncio.Event,
        counts: Counts,
        telemetry: Telemetry,
    ) -> None:
        """Prepare it. Nothing is asked for unless ``is_trusted`` says that the lease lasts."""
        self.bus = Outage("NATS", stopping)
        self._doubts = Outage(
            f"JetStream consumer {durable.name}",
            stopping,
            began="delivered something to nobody: reading again what is not acknowledged",
            ended="is in order again",
        )
        self._durable = durable
        self._servers = servers
        self._nats_options = nats_options
        self._is_trusted = is_trusted
        self._counts = counts
        self._telemetry = telemetry
        self._has_read = False
        self._connection: Connection | None = None

    async def read(self, hand: Hand, lanes: Lanes) -> None:
        """Attach again and again; hand what comes to the lanes.

        Each attach has a connection of its own: with the one before, JetStream drops its pulls.
        """
        while True:
            try:
                async with connected(self._servers, self._nats_options) as connection:
                    self._connection = connection
                    await self._attach(connection, hand, lanes)
            except Doubt as doubt:
                await self._doubts.wait(doubt)
            except Misconfigured as error:
                if not self._has_read:
                    raise
                await self.bus.wait(error)
            except BusOutage as error:
                if not self._has_read and isinstance(error, BusLoginRefused):
                    raise
                await self.bus.wait(error)
            finally:
                self._connection = None

    async def _attach(self, connection: Connection, hand: Hand, lanes: Lanes) -> None:
        hand.caught_up = False
        since = hand.position_at if hand.position else None
        async with attached(connection, self._durable, since) as (behind, reader):
            self._has_read = True
            async for delivery in behind:
                await self._room(hand, lanes)
                self._route([delivery], hand, lanes)
            hand.caught_up = True
            await self._follow(reader, hand, lanes)

    async def _follow(self, reader: Reader, hand: Hand, lanes: Lanes) -> None:
        while True:
            while not self._is_trusted():  # noqa: ASYNC110 - the clock moves it
                await asyncio.sleep(PAUSE_FIRST)
            room = await self._room(hand, lanes)
            asked = time.monotonic()
            batch = await reader.batch(room)
            self.bus.over(asked)
            self._doubts.over(asked)
            known = self._route(batch, hand, lanes)
            await self.acknowledge(known)

    async def _room(self, hand: Hand, lanes: Lanes) -> int:
        """Wait until half of the hand is free; return for how many there is room."""
        while len(hand.held) > self._durable.most // 2:
            lanes.room.clear()
            await lanes.room.wait()
        return self._durable.most - len(hand.held)

    def _route(self, batch: Sequence[Delivery], hand: Hand, lanes: Lanes) -> list[Delivery]:
        """Queue what may not be done yet; return the rest."""
        known = [each for each in batch if hand.knows(each.message)]
        for delivery in batch:
            if not hand.knows(delivery.message):
                lanes.put(hand.add(delivery))
        self._counts.repeated += len(known)
        self._telemetry.consumed("repeated", len(known))
        return known

    async def acknowledge(self, batch: Sequence[Delivery]) -> None:
        """Acknowledge what is committed; the last one's answer says that all have arrived.

        Lost ones are delivered again, which the inbox sees.
        """
        acks = [delivery.ack for delivery in batch if delivery.ack]
        connection = self._connection
        if not acks or connection is None:
            return
        _publish(connection, acks[:-1], b"+ACK")
        with suppress(NoAnswerError, DeniedError):
            api = Api(connection, self._durable.prefix)
            await api.answer(acks[-1].decode(errors="replace"), b"+ACK", ACK_DEADLINE)

    async def keep(self, hand: Hand) -> None:
        """Tell JetStream that what is in hand is being worked on."""
        while True:
            await asyncio.sleep(self._durable.ack_wait / 3)
            if self._connection is not None:
                acks = [each.ack for each in hand.held.values() if each.ack]
                _publish(self._connection, acks, b"+WPI")


def _publish(connection: Connection, subjects: Sequence[bytes], payload: bytes) -> None:
    frames = (b"PUB %b %d\r\n%b\r\n" % (each, len(payload), payload) for each in subjects)
    connection.wire.write(b"".join(frames))


@asynccontextmanager
async def connected(
    servers: Sequence[str], options: Mapping[str, Any]
) -> AsyncIterator[Connection]:
    """Hold a connection to one of ``servers`` for the block; ``options`` as ``nats.connect``'s.

    Raises:
        BusLoginRefused, BusOutage: there is none.
    """
    connection = await _connect(servers, options)
    try:
        yield connection
    finally:
        connection.drop("done")
        await connection.dropped()


async def _connect(servers: Sequence[str], options: Mapping[str, Any]) -> Connection:
    how: dict[str, Any] = {"ping_interval": 2, "max_outstanding_pings": 2, "connect_timeout": 2}
    how |= {"name": "relay consumer", "inbox_prefix": "_INBOX"}
    how |= {name: value for name, value in options.items() if name not in _OURS}
    if isinstance(how["inbox_prefix"], bytes):
        how["inbox_prefix"] = how["inbox_prefix"].decode()
    refusals = list[BusOutage]()
    for server in random.sample(servers, len(servers)):
        url = server if "://" in server else f"nats://{server}"
        must_encrypt = "tls" in how or url.startswith("tls://")
        if must_encrypt:
            how.setdefault("tls", ssl.create_default_context())
        try:
            return await open_connection(url, CONNECT_DEADLINE, must_encrypt=must_encrypt, **how)
        except BusOutage as refusal:
            refusals.append(refusal)
    refused = all(isinstance(each, BusLoginRefused) for each in refusals)
    raise (BusLoginRefused if refused else BusOutage)(f"NATS: {'; '.join(map(str, refusals))}")
