"""Going back to what the streams still hold, and publishing again what they have lost.

    the term begins ──► newest tips ──► the bus ──connect──► compared
                                                               │ behind
      ┌── the term ends ◄── the cursor goes back to the ◄──────┘
      │                     newest checkpoint that holds
      ▼
    the next term reads on from there: what was delivered before and went to such a stream is
    published again, in the order of id, before anything newer of its key

R-LOSS. Who is right: the stream about what it holds, the cursor about what is delivered. Going back
is one transaction of the store, so a relay that dies at any moment goes on from the right place:
before it, it compares again; after it, the cursor says what is new, and the tail of each stream
says what of that it has already. Nothing is kept in memory that matters.

What is read again and went to a stream that holds everything counts as stored; what is parked stays
parked. Once the reader has caught up, the repair is over.

RELAY_REPAIR: ``auto`` does this, ``report`` only says what was lost, ``off`` compares nothing.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

import anyio

from relay.checkpoints import Before
from relay.core.checkpoint import Tip
from relay.core.event import Event
from relay.engine.link import BusLink, rest
from relay.engine.settle import Done, Settler
from relay.errors import BusOutage, StoreBusy, StreamBehind
from relay.facts import FactSink, Repaired, RepairEnded, StreamLost
from relay.ports import OutboxStore, Page

AUTO: Final = "auto"

_PAUSE: Final = 0.1


class Reconciliation:
    """One term's. ``lasts``: whether what was delivered before is being published again."""

    def __init__(
        self, store: OutboxStore, link: BusLink, settler: Settler, repair: str, record: FactSink
    ) -> None:
        """Go back on ``repair`` "auto" alone."""
        self.lasts = False
        self._checkpoints = store.checkpoints
        self._link = link
        self._settler = settler
        self._repair = repair
        self._record = record
        self._repaired = 0

    async def begin(self) -> None:
        """Tell the bus what is settled; before anything is connected."""
        tips = await self._checkpoints.newest()
        self.lasts = bool(self._checkpoints.repairing)
        self._link.bus.reconciling.resume(tips, self._checkpoints.repairing)

    async def connect(self, stop: anyio.Event) -> None:
        """Connect for the first time in this term, and compare, before anything is published.

        Raises:
            Stopped, StreamError, SettingsError: as ``BusLink.connect``.
            TermLost: the cursor has gone back.
        """
        while True:
            try:
                await self._link.connect(stop)
                break
            except StreamBehind as behind:
                if self._repair == AUTO:
                    await self._go_back(behind, stop)
                else:
                    for stream in behind.streams:
                        self._record(StreamLost(stream))
                    self._link.bus.reconciling.accept()
        tips = self._link.bus.reconciling.tips()
        if tips:  # first, or a relay that dies in its first second leaves none, and no tail
            await self._settler.add_and_wait(Done(tips=tips))

    async def _go_back(self, behind: StreamBehind, stop: anyio.Event) -> None:
        """Move the cursor back and end the term; return if the bus went away meanwhile."""
        try:
            ring = await self._checkpoints.ring(behind.streams)
            held = {
                stream: await self._link.bus.reconciling.held(stream, ring.get(stream, ()))
                for stream in behind.streams
            }
            with anyio.CancelScope(shield=True):  # it ends the term, also for whoever cancels this
                for each in await self._checkpoints.rewind(held):
                    self._record(StreamLost.of(each))
        except (BusOutage, StoreBusy):
            await rest(_PAUSE, stop)
            return
        raise behind

    async def sift(self, page: Page, stop: anyio.Event) -> Sequence[Event]:
        """Leave out what is parked, and tell the bus what had been delivered before."""
        before = await self._delivered(page.events, stop)
        stored = [id_ for id_, each in before.items() if each.stored]
        self._link.bus.reconciling.pass_over(stored)  # the parked are still to be sent
        return [each for each in page.events if not (each.id in before and before[each.id].parked)]

    async def _delivered(self, events: Sequence[Event], stop: anyio.Event) -> Mapping[int, Before]:
        ask = partial(self._checkpoints.delivered, [event.id for event in events])
        return await self._settler.outage.wait_out(ask, partial(rest, stop=stop))

    async def page_done(self, page: Page, stop: anyio.Event) -> None:
        """Count what a page published again; the repair is over once the reader has caught up."""
        repaired, remembered = self._link.bus.reconciling.repaired()
        self._repaired += repaired
        over = not page.full
        if repaired or remembered:
            self._record(Repaired(repaired, remembered))
        if over:  # not before its last page is settled, or a relay that dies now would forget it
            await self._settler.add_and_wait(Done(page.position))
        if repaired or remembered or over:
            note = partial(self._checkpoints.repaired, repaired, remembered, over=over)
            await self._settler.outage.wait_out(note, partial(rest, stop=stop))
        if over:
            self.lasts = False
            self._link.bus.reconciling.pass_over(())
            self._record(RepairEnded(self._repaired))

    def tips(self, *, caught_up: bool = False) -> Sequence[Tip]:
        """Return how far the streams are that have moved."""
        return self._link.bus.reconciling.tips(caught_up=caught_up)
