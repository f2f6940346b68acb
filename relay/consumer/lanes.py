"""Handling: messages in transactions, each key in one lane, in order (R-ORDER, R-ONCE, R-FATE).

    delivered ──► lane of its key ──take──► handler ──seal, commit──► acknowledged
                                      │        │ raises, hangs, returns something
                                      │        └──► alone ──► parked, acknowledged
                                      ├── taken before ──────────────► acknowledged
                                      └── its key is blocked ──► parked behind, acknowledged

    parked ──due──► lane of its key ──retake──► handler ──► unparked; the next of its key is due
                                                  └──► due later; after ``max_attempts`` dead

A lane is one task with one transaction at a time. A key's messages, delivered and parked, all go
through one lane, so no two transactions about a key ever overlap. A transaction takes up to
``batch`` messages; one that fails is rolled back whole, and its messages go one by one. An outage
of the database costs no attempt: the same messages again. But a message during whose handling the
connection is lost three times, while connections are to be had, counts as refused.
"""

import asyncio
import random
import time
import zlib
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from relay.consumer.calling import Call, HandlerError, Telemetry
from relay.consumer.database import Inbox, Parked, Term
from relay.consumer.message import Delivery, Hand, Message
from relay.consumer.outages import Outage
from relay.core.backoff import delay
from relay.core.order import KeyFence
from relay.errors import Misconfigured, StoreBusy, StoreOutage, TermLost

MOST_LOSSES: Final = 3
MOST_CONFLICTS: Final = 50
"""Deadlocks and serialization failures in a row of the same messages."""

LONGEST_CONFLICT: Final = 0.05
_LONGEST_ERROR: Final = 2000

Acknowledge = Callable[[Sequence[Delivery]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Rules:
    """How messages are handled; times in s."""

    batch: int
    lanes: int
    max_attempts: int
    retry_delay: float
    max_retry_delay: float


@dataclass(slots=True)
class Counts:
    """What has been done since the consumer began."""

    handled: int = 0
    repeated: int = 0
    parked: int = 0
    waiting: int = 0
    refused: int = 0


@dataclass(slots=True)
class _Lane:
    waiting: deque[Delivery | tuple[int, str | None]] = field(default_factory=deque)
    news: asyncio.Event = field(default_factory=asyncio.Event)


class Lanes:
    """The lanes of one term."""

    def __init__(
        self,
        inbox: Inbox,
        term: Term,
        rules: Rules,
        *,
        call: Call,
        acknowledge: Acknowledge,
        hand: Hand,
        outage: Outage,
        counts: Counts,
        telemetry: Telemetry,
    ) -> None:
        """Prepare them; ``workers`` work them."""
        self.room = asyncio.Event()
        self.look_for_due = asyncio.Event()
        self._inbox = inbox
        self._term = term
        self._rules = rules
        self._call = call
        self._acknowledge = acknowledge
        self._hand = hand
        self._outage = outage
        self._counts = counts
        self._telemetry = telemetry
        self._lanes = [_Lane() for _ in range(rules.lanes)]
        self._retrying: set[int] = set()
        self._stopping = False

    def put(self, delivery: Delivery) -> None:
        """Queue a delivery behind all of its key."""
        message = delivery.message
        self._put(message.key if message.key is not None else message.id, delivery)

    def retry(self, id_: int, key: str | None) -> None:
        """Queue a parked message that is due, unless it is queued already."""
        if id_ not in self._retrying:
            self._retrying.add(id_)
            self._put(key if key is not None else str(id_), (id_, key))

    def stop(self) -> None:
        """Let every lane end behind its transaction."""
        self._stopping = True
        self.look_for_due.set()
        for lane in self._lanes:
            lane.news.set()

    def workers(self) -> list[Coroutine[Any, Any, None]]:
        """Return what works each lane until ``stop``.

        Raises, when run:
            TermLost: another process leads.
            Misconfigured: a person has to act.
        """
        return [self._work(lane) for lane in self._lanes]

    def _put(self, by: str, what: Delivery | tuple[int, str | None]) -> None:
        lane = self._lanes[zlib.crc32(by.encode()) % len(self._lanes)]
        lane.waiting.append(what)
        lane.news.set()

    async def _work(self, lane: _Lane) -> None:
        while not self._stopping:
            if not lane.waiting:
                lane.news.clear()
                await lane.news.wait()
                continue
            first = lane.waiting.popleft()
            if isinstance(first, tuple):
                await self._retry(*first)
                continue
            batch = [first]
            while len(batch) < self._rules.batch and lane.waiting:
                following = lane.waiting.popleft()
                if isinstance(following, tuple):
                    lane.waiting.appendleft(following)
                    break
                batch.append(following)
            await self._handle(batch)

    async def _handle(self, batch: Sequence[Delivery]) -> None:
        """Handle or park all of ``batch``, or what a stop leaves of it, and acknowledge it."""
        error = await self._try(batch)
        if error is not None and len(batch) > 1:
            for delivery in batch:
                if not self._stopping:
                    await self._handle([delivery])
            return
        if error is None or await self._refuse(batch[0].message, error):
            await self._finish(batch)

    async def _try(self, batch: Sequence[Delivery]) -> Exception | None:
        """Take, handle, commit; return what was wrong with the messages, if something was."""
        losses = 0
        while True:
            handling, began = False, time.monotonic()
            try:
                messages = [delivery.message for delivery in batch]
                async with self._inbox.taking(self._term, messages) as taking:
                    fence = KeyFence(taking.blocked)
                    fresh, behind = list[Message](), list[Message]()
                    for message in messages:
                        if message.id in taking.fresh:
                            taking.fresh.discard(message.id)
                            (fresh if fence.passes(message.key) else behind).append(message)
                    handling = True
                    await self._call(taking.connection, fresh)
                    if behind:
                        await self._inbox.park(taking, behind)
            except Exception as raised:  # noqa: BLE001 - a handler may raise anything
                losses += handling
                error = self._judged(raised, handling=handling, losses=losses)
                if error is not None:
                    return error
                await self._wait(raised)
                if self._stopping:
                    return raised
            else:
                self._outage.over(began)
                self._count("handled", len(fresh))
                self._count("waiting", len(behind))
                self._count("repeated", len(batch) - len(fresh) - len(behind))
                if fresh:
                    lag = datetime.now(UTC) - fresh[-1].stored_at
                    self._telemetry.lagged(lag.total_seconds())
                return None

    def _judged(self, raised: Exception, *, handling: bool, losses: int) -> Exception | None:
        """Return the messages' own fault; None for an outage; raise what ends the term."""
        error = self._inbox.translated(raised)
        if isinstance(error, StoreOutage):
            most = MOST_CONFLICTS if isinstance(error, StoreBusy) else MOST_LOSSES
            return error if losses >= most else None
        if isinstance(error, TermLost | Misconfigured) or not handling:
            raise error
        return error

    async def _wait(self, raised: Exception) -> None:
        """Pause; say so unless it is only others' transactions that are in the way."""
        error = self._inbox.translated(raised)
        if isinstance(error, StoreBusy):
            await asyncio.sleep(random.random() * LONGEST_CONFLICT)
        else:
            await self._outage.wait(error)

    async def _refuse(self, message: Message, error: Exception) -> bool:
        """Park a message whose handler failed; False if a stop came before that."""
        words, pause = self._refusal(error, attempts=0)
        outcome = "repeated"
        while not self._stopping:
            try:
                async with self._inbox.taking(self._term, [message]) as taking:
                    if message.id not in taking.fresh:
                        pass  # taken by another, or by a try of ours whose answer was lost
                    elif message.key in taking.blocked:
                        outcome = "waiting"
                        await self._inbox.park(taking, [message])
                    else:
                        outcome = "parked"
                        await self._inbox.park(taking, [message], error=words, delay=pause)
            except Exception as raised:
                outage = self._inbox.translated(raised)
                if not isinstance(outage, StoreOutage):
                    raise
                await self._wait(outage)
            else:
                self._count_refusal(error)
                self._count(outcome, 1)
                return True
        return False

    async def _retry(self, id_: int, key: str | None) -> None:
        """Try a parked message, and with it those that wait behind it."""
        limit, losses = self._rules.batch if key is not None else 1, 0
        while not self._stopping:
            handling, parked, began = False, list[Parked](), time.monotonic()
            try:
                async with self._inbox.retaking(self._term, id_, limit) as taking:
                    parked, handling = taking.parked, True
                    await self._call(taking.connection, [each.message for each in parked])
            except Exception as raised:  # noqa: BLE001 - a handler may raise anything
                losses += handling
                error = self._judged(raised, handling=handling, losses=losses)
                if error is None:
                    await self._wait(raised)
                elif len(parked) > 1:
                    limit, losses = len(parked) // 2, 0
                elif await self._refused_again(parked[0], error):
                    break
            else:
                self._outage.over(began)
                self._count("handled", len(parked))
                break
        self._retrying.discard(id_)
        self.look_for_due.set()

    async def _refused_again(self, parked: Parked, error: Exception) -> bool:
        words, pause = self._refusal(error, parked.attempts)
        try:
            await self._inbox.refuse(self._term, parked, error=words, delay=pause)
        except Exception as raised:
            outage = self._inbox.translated(raised)
            if not isinstance(outage, StoreOutage):
                raise
            await self._wait(outage)
            return False
        self._count_refusal(error)
        return True

    def _refusal(self, error: Exception, attempts: int) -> tuple[str, float | None]:
        """Return the error's words, and the s until the next try; None: the message is dead."""
        words = (
            f"{type(error).__name__}: {error}"
            if not isinstance(error, HandlerError)
            else str(error)
        )
        pause = delay(
            attempts,
            base=self._rules.retry_delay,
            cap=self._rules.max_retry_delay,
            jitter=random.random(),
        )
        is_dead = attempts + 1 >= self._rules.max_attempts
        return words[:_LONGEST_ERROR], None if is_dead else pause

    async def _finish(self, batch: Sequence[Delivery]) -> None:
        for delivery in batch:
            self._hand.done(delivery)
        self.room.set()
        await self._acknowledge(batch)

    def _count_refusal(self, error: Exception) -> None:
        self._counts.refused += 1
        self._telemetry.refused(error)

    def _count(self, outcome: str, count: int) -> None:
        setattr(self._counts, outcome, getattr(self._counts, outcome) + count)
        self._telemetry.consumed(outcome, count)
