"""Looking now and then at what the events take up, by the leader, while somebody measures.

Nothing waits for it and nothing depends on it. The first of several failures in a row is told as
failed housekeeping; the others say nothing new. A bug in it ends it, and the relay goes on.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import anyio

from relay.core.storage import OutboxStorage, StreamStorage
from relay.errors import RelayError
from relay.facts import FactSink, HousekeepingFailed, Looked
from relay.ports import EventBus, Outbox

log = logging.getLogger("relay.otel")

LOOK_EVERY: Final = 10.0
TURN: Final = 0.5
"""Seconds; the first look comes at the first turn of a term, when the bus is connected."""


@dataclass(slots=True)
class Look:
    """One side.

    Attributes:
        at: what can't be seen, to a person.
        look: looks once; None or nothing if there is nothing to be seen yet.
    """

    at: str
    look: Callable[[], Awaitable[OutboxStorage | Sequence[StreamStorage] | None]]
    _again_at: float = 0.0
    _failing: bool = False

    async def turn(self, record: FactSink) -> None:
        """Look, if it is time."""
        now = anyio.current_time()
        if now < self._again_at:
            return
        self._again_at = now + LOOK_EVERY
        try:
            seen = await self.look()
        except RelayError as error:
            if not self._failing:
                record(HousekeepingFailed(f"{self.at} can't be looked at: {error}"))
            self._failing = True
        else:
            self._failing = False
            if not seen:
                self._again_at = 0.0  # nothing is there yet
            if seen is not None:
                record(Looked(seen))

    def rest(self) -> None:
        """Look at once when the next term begins."""
        self._again_at = 0.0


def both_sides(outbox: Outbox, bus: EventBus) -> list[Look]:
    """Return a look at each side of a relay."""
    return [
        Look("the outbox's size", outbox.storage),
        Look("the streams' sizes", bus.storage),
    ]


async def keep_looking(
    looks: Sequence[Look], leading: Callable[[], bool], record: FactSink
) -> None:
    """Look, while ``leading``, until cancelled."""
    try:
        while True:
            await anyio.sleep(TURN)
            for each in looks:
                if leading():
                    await each.turn(record)
                else:
                    each.rest()
    except Exception:
        log.exception("looking at sizes failed: delivery goes on without it")
