"""A consumer: each message's effect committed once, in order per key.

    standing by ──lease free──► leading: read ──► lanes ──► acknowledge
         ▲                          │
         └──── another one leads ◄──┘    stop: transactions under way end, the lease is given back

Authoritative: the consumer's own database. It holds the lease (a row with a time, by its clock),
what is taken, and what is parked. Every transaction holds the term's row, so that a process that
was frozen, or cut off, commits nothing once the next term has begun. JetStream is asked for
messages and told what is done; an acknowledgement that is lost costs a second delivery.

One process leads a consumer's name; others stand by. That is what keeps the order of a key across
processes: JetStream hands messages out to all who ask, and who holds an earlier one of the key
can't be known. Who needs more than one process gives each its own subjects and its own name.
"""

import asyncio
import logging
import os
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from relay.consumer.calling import Telemetry, calling
from relay.consumer.database import Database, Inbox, Term
from relay.consumer.jetstream import Durable
from relay.consumer.lanes import Counts, Lanes, Rules
from relay.consumer.message import Hand
from relay.consumer.options import Options
from relay.consumer.outages import Outage, pause
from relay.consumer.reading import Reading
from relay.errors import (
    AlreadyRunning,
    RelayError,
    SettingsError,
    StoreBusy,
    StoreOutage,
    TermLost,
)
from relay.jetstream.options import api_prefix

log = logging.getLogger("relay.consumer")

STAND_BY: Final = 0.5
"""Seconds between looks at the lease."""

LOOK_FOR_DUE: Final = 0.5
PRUNE_EVERY: Final = 30.0
PRUNED_ROWS: Final = 10_000
_MOST_DUE: Final = 100
_ENDS_WITHIN: Final = 15.0
"""Seconds after which a task that takes no cancellation is left alone."""

_MARGIN: Final = 1.0
"""Seconds before the lease's end after which nothing more is asked for."""


class Consumer:
    """A consumer of one stream, under a name that is its own in its database and in JetStream.

    ``counts`` says what has been done, ``is_leading`` whether this process handles messages now.
    """

    def __init__(
        self,
        database: Database,
        handler: Callable[..., Awaitable[None]],
        *,
        name: str,
        stream: str,
        servers: str | Sequence[str] = "nats://127.0.0.1:4222",
        nats_options: Mapping[str, Any] | None = None,
        options: Options | None = None,
    ) -> None:
        """Prepare it; ``run`` runs it.

        Args:
            database: ``PsycopgDatabase(pool)`` or ``SqlalchemyDatabase(engine)``.
            handler: ``async def handler(connection, message) -> None``; it makes the effect on the
                connection, and neither commits nor rolls back. It raises to refuse the message.
            name: of the JetStream durable, and of the consumer in the inbox.
            stream: what it reads.
            servers: NATS's URLs.
            nats_options: for ``nats.connect``: user, password, user_credentials, tls, ...
            options: all the rest.

        Raises:
            SettingsError: a name that JetStream does not take.
        """
        for what, word in (("name", name), ("stream", stream)):
            if not word or set(word) & set(" .*>/\\\t\r\n\0"):
                raise SettingsError(
                    [f"{what} is {word!r}: no dot, space, *, > or slash, not empty"]
                )
        self.counts = Counts()
        self.is_leading = False
        self._options = chosen = options or Options()
        self._name = name
        self._durable = Durable(
            stream=stream,
            name=name,
            subjects=tuple(chosen.subjects),
            only_new=chosen.only_new,
            ack_wait=chosen.ack_wait,
            most=chosen.in_hand,
            prefix=api_prefix(chosen.js_domain),
        )
        self._inbox = Inbox(database, name, handler_timeout=chosen.handler_timeout)
        self._telemetry = Telemetry(stream, name)
        self._call = calling(
            handler,
            batches=chosen.batches,
            timeout=chosen.handler_timeout,
            telemetry=self._telemetry,
        )
        self._holder = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._stopping = asyncio.Event()
        self._has_run = False
        self._store = Outage("Postgres", self._stopping)
        self._reading = Reading(
            self._durable,
            [servers] if isinstance(servers, str) else list(servers),
            nats_options or {},
            is_trusted=lambda: time.monotonic() < self._trusted_until,
            stopping=self._stopping,
            counts=self.counts,
            telemetry=self._telemetry,
        )
        self._trusted_until = 0.0

    def stop(self) -> None:
        """Stop in order: ``run`` returns once the transactions under way have ended."""
        self._stopping.set()

    async def run(self) -> None:
        """Handle messages until ``stop``; a consumer runs once.

        Raises:
            SchemaError: the inbox is missing: ``python -m relay inbox migrate``.
            StreamError: the stream, or the JetStream consumer, is not as needed. Once it has
                worked, such a thing is waited for.
            BusLoginRefused: likewise, of NATS's login.
        """
        if self._has_run:
            raise AlreadyRunning("a Consumer runs once: make another one")
        self._has_run = True
        while not self._stopping.is_set():
            term = await self._campaign()
            if term is None:
                continue
            log.info("leading", extra={"consumer": self._name, "epoch": term.epoch})
            if term.added:
                log.warning(
                    "%s is read from the position on, %d: for what is older take another name",
                    ", ".join(term.added),
                    term.position,
                    extra={"consumer": self._name},
                )
            self.is_leading = True
            try:
                await self._lead(term)
            except TermLost as lost:
                log.warning("standing by", extra={"reason": str(lost)})
            finally:
                self.is_leading = False

    async def _campaign(self) -> Term | None:
        """Wait for the lease; None when it is time to stop, or to ask again."""
        asked = time.monotonic()
        try:
            term = await self._inbox.lead(
                self._holder,
                self._durable.stream,
                self._durable.subjects,
                dead_blocks=self._options.on_dead == "block",
                lifetime=self._options.lease_lifetime,
            )
        except StoreBusy:
            return None  # transactions of the term before are under way
        except StoreOutage as error:
            await self._store.wait(error)
            return None
        self._store.over(asked)
        if term is None:
            await pause(STAND_BY, self._stopping)
        self._trusted_until = asked + self._options.lease_lifetime - _MARGIN
        return term

    async def _lead(self, term: Term) -> None:
        options = self._options
        hand = Hand(term.position, term.position_at)
        lanes = Lanes(
            self._inbox,
            term,
            Rules(
                batch=options.batch,
                lanes=options.lanes,
                max_attempts=options.max_attempts,
                retry_delay=options.retry_delay,
                max_retry_delay=options.max_retry_delay,
            ),
            call=self._call,
            acknowledge=self._reading.acknowledge,
            hand=hand,
            outage=self._store,
            counts=self.counts,
            telemetry=self._telemetry,
        )
        ended = asyncio.Event()
        orderly = [
            asyncio.create_task(each)
            for each in (
                *lanes.workers(),
                self._renew(term, hand, ended),
                self._look_for_due(lanes, ended),
                self._prune(term, hand, ended),
            )
        ]
        reading = [
            asyncio.create_task(self._reading.read(hand, lanes)),
            asyncio.create_task(self._reading.keep(hand)),
        ]
        tasks, stopped = [*orderly, *reading], asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait([*tasks, stopped], return_when=asyncio.FIRST_COMPLETED)
            ended.set()
            lanes.stop()  # what asks the database ends by itself: a cancelled statement costs more
            await asyncio.wait(orderly, timeout=options.shutdown_timeout)
        finally:
            await _end([*tasks, stopped])
        failures = [task.exception() for task in tasks if task.done() and not task.cancelled()]
        errors = [each for each in failures if isinstance(each, Exception)]
        errors.sort(key=lambda error: isinstance(error, RelayError))  # a bug has to be seen
        if not any(isinstance(error, TermLost) for error in errors):
            with suppress(RelayError):
                await self._inbox.renew(term, 0.0, hand.position, hand.position_at)
        if errors:
            raise errors[0]

    async def _renew(self, term: Term, hand: Hand, ended: asyncio.Event) -> None:
        lifetime = self._options.lease_lifetime
        while not ended.is_set():
            await pause(lifetime / 5, ended)
            asked = time.monotonic()
            try:
                await self._inbox.renew(term, lifetime, hand.position, hand.position_at)
            except StoreOutage as error:
                await self._store.wait(error)
            else:
                self._store.over(asked)
                self._trusted_until = asked + lifetime - _MARGIN

    async def _look_for_due(self, lanes: Lanes, ended: asyncio.Event) -> None:
        while not ended.is_set():
            lanes.look_for_due.clear()
            try:
                rows = await self._inbox.ask(
                    "due", {"consumer": self._name, "limit_rows": _MOST_DUE}
                )
                for id_, key in rows:
                    lanes.retry(id_, key)
            except StoreOutage as error:
                await self._store.wait(error)
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_FOR_DUE):
                    await lanes.look_for_due.wait()

    async def _prune(self, term: Term, hand: Hand, ended: asyncio.Event) -> None:
        """Forget what can't be delivered again, and was taken longer than ``retention`` ago."""
        wait = PRUNE_EVERY
        while not ended.is_set():
            settled_for = hand.settled_for()
            await pause(wait, ended)
            if settled_for is None or ended.is_set():
                continue
            seconds = max(self._options.retention, settled_for + wait + PRUNE_EVERY)
            try:
                # What is forgotten is told from what is new by the floor alone: store that first.
                await self._inbox.renew(
                    term, self._options.lease_lifetime, hand.position, hand.position_at
                )
                asked = {"consumer": self._name, "seconds": seconds, "chunk_rows": PRUNED_ROWS}
                ((gone,),) = await self._inbox.ask("prune", asked)
            except StoreOutage as error:
                await self._store.wait(error)
            else:
                wait = 0.1 if gone == PRUNED_ROWS else PRUNE_EVERY


async def _end(tasks: Sequence["asyncio.Task[Any]"]) -> None:
    """Cancel them until they have ended: libraries, and handlers, lose a cancellation at times."""
    deadline = time.monotonic() + _ENDS_WITHIN
    left = set(tasks)
    while left and time.monotonic() < deadline:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=0.2)
