"""What has been delivered and is not done, and up to where all is.

The floor is a place in the stream: every message up to it is taken by a committed transaction. It
is stored with the lease, so that a message of before it is never handled again, however late it
comes. A place is a sequence and its time: a stream that was made anew, or lost its tail, gives the
same sequences to other messages, at later times.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from relay.consumer.message import Delivery, Message


@dataclass(slots=True)
class Held:
    """A delivery in hand."""

    delivery: Delivery
    is_done: bool = False


class Hand:
    """Deliveries in hand; ``position`` and ``position_at`` are the floor.

    ``caught_up``: whether all that JetStream delivered to anybody has been added.
    """

    def __init__(
        self, position: int, position_at: datetime, now: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin at a floor with nothing in hand; ``now`` gives s."""
        self.position = position
        self.position_at = position_at
        self.held: dict[int, Held] = {}
        self.caught_up = False
        self._now = now
        self._in_order: deque[Held] = deque()
        self._newest = 0, position_at
        self._added = self._passed = 0
        self._mark = now(), -1
        self._settled_at: float | None = None

    def knows(self, message: Message) -> bool:
        """Say whether the message is at or below the floor: done, and nobody has to ask."""
        return message.sequence <= self.position and message.stored_at <= self.position_at

    def add(self, delivery: Delivery) -> Held:
        """Take a delivery; ``done`` follows."""
        held = Held(delivery)
        self.held[id(held)] = held
        sequence, stored_at = self._newest
        message = delivery.message
        if message.sequence > sequence or message.stored_at > stored_at:
            self._newest = message.sequence, message.stored_at
            self._in_order.append(held)
            self._added += 1
        return held

    def done(self, held: Held) -> None:
        """Its transaction has committed."""
        held.is_done = True
        del self.held[id(held)]
        while self._in_order and self._in_order[0].is_done:
            message = self._in_order.popleft().delivery.message
            self.position, self.position_at = message.sequence, message.stored_at
            self._passed += 1

    def settled_for(self) -> float | None:
        """Return for how many s all that was taken before that has been below the floor.

        None if that is not known. What was taken later than that must not be forgotten: it may
        still be delivered again.
        """
        at, added = self._mark
        if added >= 0 and self._passed >= added:
            self._settled_at, self._mark = at, (at, -1)
        if self._mark[1] < 0 and self.caught_up:
            self._mark = self._now(), self._added
        return None if self._settled_at is None else self._now() - self._settled_at
