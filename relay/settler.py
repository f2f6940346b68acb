"""Settling behind the publisher: what is done is merged, and written down every 50 ms at most.

    publisher ──add──► done so far ──settle──► the store      a slow database makes fewer
                                                              settlements, not more memory

Who is right: the store's cursor. What was added and is not settled is lost with the term, and comes
again with the next one. On failure the store's error ends the term; but for want of room, which is
waited for here, or every new term would publish the same page once more and fail again.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import anyio

from relay.absence import Absence
from relay.core.backoff import Backoff
from relay.core.parking import Parking
from relay.errors import StoreFull
from relay.facts import Tell
from relay.failpoints import reach
from relay.ports import OutboxStore, Settlement, Wake

SETTLE_EVERY = 0.05
"""Seconds between settlements. Each costs a round trip and WAL; a crash publishes so much again."""


@dataclass(slots=True)
class Done:
    """What is done and not yet settled. See ``Settlement``."""

    position: object | None = None
    delivered: int = 0
    parked: list[Parking] = field(default_factory=list)
    unparked: list[int] = field(default_factory=list)

    def followed_by(self, more: "Done") -> "Done":
        """Return both as one; neither is changed, for who made them may still read them."""
        return Done(
            self.position if more.position is None else more.position,
            self.delivered + more.delivered,
            self.parked + more.parked,
            self.unparked + more.unparked,
        )


class Settler:
    """Writes down what is done. ``run`` in a task; ``add`` and the others from another one."""

    def __init__(
        self,
        store: OutboxStore,
        take_wakes: Callable[[], dict[Wake, int]],
        *,
        backoff: Backoff,
        jitter: Callable[[], float],
        tell: Tell,
    ) -> None:
        """Settle with ``store``; ``take_wakes`` gives the wakes since it was asked last."""
        self._backoff = backoff
        self._jitter = jitter
        self._absence = Absence("postgres", tell)
        self._store = store
        self._take_wakes = take_wakes
        self._done: Done | None = None
        self._news = anyio.Event()
        self._written = anyio.Event()
        self._hurry = anyio.Event()
        self._no_more = False

    def add(self, done: Done) -> None:
        """Merge ``done`` into what waits; the newest position counts."""
        before = self._done
        self._done = done if before is None else before.followed_by(done)
        self._news.set()

    async def add_and_wait(self, done: Done) -> None:
        """Merge ``done`` and return when it is written down."""
        self.add(done)
        written = self._written
        self._hurry.set()
        await written.wait()

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
            self._news = anyio.Event()
            done, self._done = self._done, None
            written, self._written = self._written, anyio.Event()
            if done is not None:
                reach("before settle")
                await self._write(
                    Settlement(
                        done.position,
                        done.delivered,
                        done.parked,
                        done.unparked,
                        self._take_wakes(),
                    )
                )
                reach("after settle")
            written.set()
            if self._no_more and self._done is None:
                return
            with anyio.move_on_after(SETTLE_EVERY):
                await self._hurry.wait()
            if not self._no_more:
                self._hurry = anyio.Event()

    async def _write(self, settlement: Settlement) -> None:
        """Settle, however long there is no room for it: another term would have none either."""
        try:
            while True:
                try:
                    await self._store.settle(settlement)
                except StoreFull as full:
                    self._absence.failed(str(full))
                    await anyio.sleep(self._backoff.failed(self._jitter()))
                else:
                    return
        finally:
            self._absence.over()
            self._backoff.succeeded()
