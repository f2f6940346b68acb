"""Settling behind the delivery: what is done is merged, and written down once a second at most.

    delivery ──add──► done so far ──settle──► the store      a slow database makes fewer
                                                             settlements, not more memory

    at once                 parking, stopping, going idle
    in a steady flow        after min(1 s, a tenth of the shortest duplicate window)

Each settlement costs a round trip, WAL and a version of the cursor row. A crash publishes again
what was not settled, and the duplicate window drops it.

Who is right: the store's cursor. What was added and is not settled is lost with the term, and comes
again with the next one. On failure the store's error ends the term; but for want of room or of a
lock, which is waited for here, or every new term would publish the same page once more and fail.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import anyio

from relay.core.checkpoint import Tip
from relay.core.disposition import Parking
from relay.engine.link import BusLink
from relay.engine.outage import OutageBook
from relay.facts import FactSink, Parked
from relay.failpoints import reach
from relay.ports import OutboxStore, Settlement

SETTLE_EVERY = 1.0
"""Seconds between settlements in a steady flow."""

WINDOW_SHARE = 0.1
"""The part of the duplicate window that may be unsettled."""

BEHIND_SHARE = 0.5
"""The part of it after which nothing more is published, or a new term repeats too much (R-ONCE)."""

USUAL_WINDOW = 120.0
"""s: the duplicate window where none is known."""


@dataclass(slots=True)
class Done:
    """What is done and not yet settled. See ``Settlement``; ``refusals`` are told behind it."""

    position: object | None = None
    parked: list[Parking] = field(default_factory=list)
    unparked: list[str] = field(default_factory=list)
    tips: Sequence[Tip] = ()
    top_id: int = 0
    refusals: list[Parked] = field(default_factory=list)

    def followed_by(self, more: "Done") -> "Done":
        """Return both as one; neither is changed, for whoever made them may still read them."""
        return Done(
            self.position if more.position is None else more.position,
            self.parked + more.parked,
            self.unparked + more.unparked,
            _newest(self.tips, more.tips),
            max(self.top_id, more.top_id),
            self.refusals + more.refusals,
        )

    @property
    def settlement(self) -> Settlement:
        """What is written down."""
        return Settlement(self.position, self.parked, self.unparked, self.tips, self.top_id)


class Settler:
    """Writes down what is done. ``run`` in a task; ``add`` and the others from another one.

    Attributes:
        position: the newest position that was added, settled or not: what waits is behind it. One
            with parked events counts once it is settled, for they are nowhere else before.
        outage: the book of Postgres, for all that the delivery asks the store.
    """

    def __init__(
        self,
        store: OutboxStore,
        link: BusLink,
        outage: OutageBook,
        record: FactSink,
    ) -> None:
        """Settle with ``store`` what ``link`` published; ``outage`` is the book of Postgres.

        Refusals are recorded when they are settled.
        """
        self.position: object | None = None
        self._store = store
        self._link = link
        self.outage = outage
        self._record = record
        self._done: Done | None = None
        self._news = anyio.Event()
        self._written = anyio.Event()
        self._hurry = anyio.Event()
        self._no_more = False
        self._waits_since = 0.0
        self._unsettled_since: float | None = None

    def add(self, done: Done) -> None:
        """Merge ``done`` into what waits; the newest position counts."""
        before = self._done
        self._done = done if before is None else before.followed_by(done)
        if done.position is not None and not done.parked:
            self.position = done.position
        now = anyio.current_time()
        if before is None:
            self._waits_since = now
        if self._unsettled_since is None:
            self._unsettled_since = now
        self._news.set()

    def hurry(self, done: Done) -> anyio.Event:
        """Merge ``done`` and have it written down at once; the event is set when it is."""
        self.add(done)
        self._hurry.set()
        return self._written

    async def add_and_wait(self, done: Done) -> None:
        """Merge ``done`` and return when it is written down."""
        await self.hurry(done).wait()

    def is_behind(self) -> bool:
        """Say whether what is done has waited so long that nothing more may be published."""
        if self._unsettled_since is None:
            return False
        most = (self._link.bus.duplicate_window or USUAL_WINDOW) * BEHIND_SHARE
        return anyio.current_time() - self._unsettled_since > most

    def idle(self) -> None:
        """Nothing more is to be read at present: settle what waits, at once."""
        if self._done is not None:
            self._hurry.set()

    def finish(self) -> None:
        """Nothing more will be added: let ``run`` return behind the last settlement."""
        self._no_more = True
        self._hurry.set()
        self._news.set()

    async def run(self) -> None:
        """Settle until ``finish``.

        Raises:
            StoreOutage, TermLost: the term is over.
        """
        while True:
            await self._news.wait()
            with anyio.move_on_after(self._every()):
                await self._hurry.wait()
            if not self._no_more:
                self._hurry = anyio.Event()
            self._news = anyio.Event()
            done, self._done = self._done, None
            written, self._written = self._written, anyio.Event()
            if done is not None:
                reach("before settle")
                await self._write(done.settlement)
                for refusal in done.refusals:
                    self._record(refusal)
                reach("after settle")
                newer = self._done is not None and self._done.position is not None
                if done.position is not None and not newer:
                    self.position = done.position
            self._unsettled_since = None if self._done is None else self._waits_since
            written.set()
            if self._no_more and self._done is None:
                return

    def _every(self) -> float:
        window = self._link.bus.duplicate_window
        return SETTLE_EVERY if window is None else min(SETTLE_EVERY, window * WINDOW_SHARE)

    async def _write(self, settlement: Settlement) -> None:
        """Settle, however long there is no room or no lock: another term would fare no better.

        What was learnt of streams is remembered first: without their stream, subjects that were
        captured once wait (R-FATE), whoever leads then.
        """

        async def write() -> None:
            streams = self._link.learnt()
            if streams:
                await self._store.keep_streams(streams)
                self._link.kept(streams)
            await self._store.settle(settlement)

        await self.outage.wait_out(write, anyio.sleep)


def _newest(before: Sequence[Tip], after: Sequence[Tip]) -> Sequence[Tip]:
    """Return the newest tip of each stream."""
    if not before or not after:
        return before or after
    return list(({tip.stream: tip for tip in before} | {tip.stream: tip for tip in after}).values())
