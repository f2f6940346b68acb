"""Reading: what JetStream has goes to the lanes, and what is done goes back to JetStream.

One of these for the life of a ``Consumer``. It makes connections and attaches, again and again,
while the process leads; the rest is its lanes' and its hand's.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from nats import errors as nats_errors

from relay.consumer.hand import Hand, Held
from relay.consumer.jetstream import Doubt, Durable, Reader, attached
from relay.consumer.lanes import Counts, Lanes
from relay.consumer.link import Link, open_link
from relay.consumer.message import Delivery
from relay.consumer.outages import PAUSE_FIRST, Outage
from relay.consumer.telemetry import Telemetry
from relay.errors import BusLoginRefused, BusOutage, Misconfigured

ACK_DEADLINE = 2.0


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
        self._link: Link | None = None

    async def read(self, hand: Hand, lanes: Lanes) -> None:
        """Attach again and again; hand what comes to the lanes."""
        while True:
            try:
                async with open_link(self._servers, self._nats_options) as self._link:
                    while True:
                        await self._attach(self._link, hand, lanes)
            except Misconfigured as error:
                if not self._has_read:
                    raise
                await self.bus.wait(error)
            except BusOutage as error:
                if not self._has_read and isinstance(error, BusLoginRefused):
                    raise
                await self.bus.wait(error)
            finally:
                self._link = None

    async def _attach(self, link: Link, hand: Hand, lanes: Lanes) -> None:
        hand.caught_up = False
        try:
            since = hand.position_at if hand.position else None
            async with attached(link, self._durable, since) as (behind, reader):
                self._has_read = True
                async for delivery in behind:
                    await self._room(hand, lanes)
                    self._route([delivery], hand, lanes)
                hand.caught_up = True
                await self._follow(reader, hand, lanes)
        except Doubt as doubt:
            await self._doubts.wait(doubt)

    async def _follow(self, reader: Reader, hand: Hand, lanes: Lanes) -> None:
        while True:
            while not self._is_trusted():  # noqa: ASYNC110 - the clock moves it
                await asyncio.sleep(PAUSE_FIRST)
            batch = await reader.batch(await self._room(hand, lanes))
            self.bus.over()
            self._doubts.over()
            known = self._route(batch, hand, lanes)
            await self.acknowledge(known)

    async def _room(self, hand: Hand, lanes: Lanes) -> int:
        """Wait until half of the hand is free; return for how many there is room."""
        while len(hand.held) > self._durable.most // 2:
            lanes.room.clear()
            await lanes.room.wait()
        return self._durable.most - len(hand.held)

    def _route(self, batch: Sequence[Delivery], hand: Hand, lanes: Lanes) -> list[Held]:
        """Queue what may not be done yet; return the rest."""
        known = []
        for delivery in batch:
            if hand.knows(delivery.message):
                known.append(Held(delivery))
            else:
                lanes.put(hand.add(delivery))
        self._counts.repeated += len(known)
        self._telemetry.consumed("repeated", len(known))
        return known

    async def acknowledge(self, batch: Sequence[Held]) -> None:
        """Acknowledge what is committed; the last one's answer says that all have arrived.

        Lost ones are delivered again, which the inbox sees.
        """
        acks = [held.delivery.ack for held in batch if held.delivery.ack]
        link = self._link
        if not acks or link is None or link.lost.is_set():
            return
        with suppress(nats_errors.Error, OSError, TimeoutError):
            for ack in acks[:-1]:
                await link.publish(ack, b"+ACK")
            await link.request(acks[-1], b"+ACK", timeout=2)

    async def keep(self, hand: Hand) -> None:
        """Tell JetStream that what is in hand is being worked on."""
        while True:
            await asyncio.sleep(self._durable.ack_wait / 3)
            link = self._link
            if link is None:
                continue
            with suppress(nats_errors.Error, OSError):
                for held in list(hand.held.values()):
                    if held.delivery.ack:
                        await link.publish(held.delivery.ack, b"+WPI")
