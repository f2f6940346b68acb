"""The bell's Postgres end: an advisory lock that makes writers ring, and LISTEN (R-FIRST).

A trigger on the outbox asks, after each statement that inserts, for the bell's lock, shared, and
gives it back at once. It gets it while the relay is awake, and the writer stays silent. It can't
while the relay holds the lock exclusively, and then the writer notifies. Nobody waits for anybody.

    released ──arm(): take the lock; then note N, the next transaction id──► armed ──disarm()──► ...

A writer that asked before the lock was taken has an id below N, and keeps silent. So the caller
reads on until a read says that every transaction below N had ended (``Page.xmin``), and may then
wait to be rung. Somebody who is just asking makes one try for the lock fail: it is tried again.

One session, the *listener*, holds the lock and listens. It is never in a transaction, is asked
something every second, and the server ends it when it is silent for the lease's lifetime: then
writers are silent again. Every second a commit of our own (see ``trial``) tells how long a
ring takes; it is heard by the listener as well, which shows that notifications arrive.

On failure: nothing here is needed for correctness. Without a working bell ``arm`` returns None and
the caller polls. That is so when the trigger is disabled, the NOTIFY queue is half full, a ring
takes too long, somebody else holds the lock, or LISTEN is refused; it is logged once.
"""

import logging
import random
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
import anyio.abc
import psycopg
from psycopg import sql

from relay.core.backoff import Backoff
from relay.errors import Misconfigured, RelayError, StoreOutage, sole
from relay.ports import Wake
from relay.postgres.outbox import PostgresOutbox
from relay.postgres.ring import Ring
from relay.postgres.session import Session, translated
from relay.postgres.sqlfiles import BELL_CLASS, load
from relay.postgres.trial import Trial

log = logging.getLogger("relay.bell")

HEARTBEAT: Final = 1.0
"""Seconds between heartbeats of the listener, and between trial commits."""

HEARTBEAT_DEADLINE: Final = 3.0
SELF_TEST_DEADLINE: Final = 2.0
RETRY_FIRST, RETRY_MOST = 0.1, 30.0
TRIAL_RETRY_FIRST = 0.2
"""Seconds before a trial commit that took too long is repeated, the first time."""

ASK_AGAIN: Final = (0.001, 0.002, 0.004)
"""Seconds between tries for the lock: a writer that is just asking has gone by then."""

FULL: Final = 0.5
"""How full the NOTIFY queue may be; above it the trigger does not ring, either."""

_UNLOCK: Final = sql.SQL("select pg_advisory_unlock_all()").format()


class PostgresBell:
    """``relay.ports.WakeSource`` over LISTEN and an advisory lock.

    ``run`` keeps the listener; without it the source only times out.
    """

    def __init__(
        self,
        outbox: PostgresOutbox,
        *,
        jitter: Callable[[], float] = random.random,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Listen to the bell of ``outbox``, over its sessions."""
        self._outbox = outbox
        self._channel = f"{outbox.schema}.outbox"
        self._token = f"trial {secrets.token_hex(8)}"
        names = self._channel, self._token
        self._trial = Trial(outbox.pool, *names, now=now, too_long=self._cant_ring)
        self._now, self._jitter = now, jitter
        self._ring = Ring()
        # The listener: whether it works, whose turn it is, and N while it holds the lock.
        self._listener: Session | None = None
        self._tasks: anyio.abc.TaskGroup | None = None
        self._turn = anyio.Lock(fast_acquire=True)
        self._waiting = 0  # for the turn
        self._hearing: anyio.CancelScope | None = None
        self._held: int | None = None
        self._leaving = self._refused = self._enabled = False
        self._heard = anyio.Event()
        self._trial_again, self._rings_since_trial = HEARTBEAT, False
        self._trials = Backoff(base=TRIAL_RETRY_FIRST, cap=RETRY_MOST)
        self._retry = Backoff(base=RETRY_FIRST, cap=RETRY_MOST)
        self._complaint = self._intruder = self._named = ""
        self._looked_at = float("-inf")

    async def arm(self) -> int | None:
        """Take the bell's lock; return N, or None if only the timeout is left."""
        if self.ring_seconds is not None:
            if self._held is not None:
                self._leaving = self._refused = False
                return self._held
            self._ring.forget()
            try:
                async with self._speaking() as listener:
                    await self._take(listener)
            except StoreOutage:
                if self._tasks is not None:
                    self._tasks.cancel_scope.cancel()  # run() makes the session anew
                return None
        if self.ring_seconds is None:  # now, or by a trial that became too slow meanwhile
            self._refused = True
            self.disarm()
            return None
        return self._held

    async def wait(self, timeout: float) -> Wake:  # noqa: ASYNC109 - the poll interval
        """Sleep until rung, or for ``timeout`` s."""
        return await self._ring.sleep(timeout)

    @property
    def ring_seconds(self) -> float | None:
        """How long a ring holds up whoever rings; None if that is not known, or far too long."""
        return self._trial.seconds if self._listener is not None and self._enabled else None

    def disarm(self) -> None:
        """Give the lock back behind the caller's back; an ``arm`` that comes first keeps it."""
        if self._held is not None and self._tasks is not None and not self._leaving:
            self._leaving = True
            self._tasks.start_soon(self._release)

    async def run(self) -> None:
        """Keep the listener alive until cancelled."""
        while True:
            try:
                await self._serve_once()
            except (StoreOutage, Misconfigured) as error:
                self._complain(error)
            except BaseExceptionGroup as group:
                if not isinstance(alone := sole(group), RelayError):
                    raise
                self._complain(alone)
            self._ring.ring(Wake.START)  # who waits must not wait for a dead bell
            await anyio.sleep(self._retry.failed(self._jitter()))

    async def _serve_once(self) -> None:
        """Serve until the session fails."""
        async with await self._outbox.connect_listener() as listener:
            await self._listen(listener)
            self._turn, self._heard = anyio.Lock(fast_acquire=True), anyio.Event()
            self._held, self._leaving = None, False
            try:
                async with anyio.create_task_group() as tasks:
                    self._tasks = tasks
                    tasks.start_soon(self._hear, listener)
                    await self._first_test()
                    if self._complaint:
                        log.info("the bell works again", extra={"channel": self._channel})
                    self._complaint = ""
                    self._retry.succeeded()
                    self._listener = listener
                    self._ring.ring(Wake.START)  # listen, then read: what came before rang nobody
                    tasks.start_soon(self._try_commits)
            finally:
                self._listener = self._tasks = self._held = None
                self._trial.forget()

    async def _listen(self, listener: Session) -> None:
        connection, channel = listener.connection, sql.Identifier(self._channel)
        connection.add_notify_handler(lambda notify: self._notified(notify.payload))
        try:
            with anyio.fail_after(HEARTBEAT_DEADLINE):
                await connection.execute(sql.SQL("listen {}").format(channel))
        except TimeoutError:
            raise StoreOutage("LISTEN was not answered") from None
        except psycopg.Error as error:  # of any kind: a standby's, a pooler's, an old server's bug
            raise StoreOutage(f"LISTEN is refused: {translated(error)}") from error

    def _notified(self, payload: str) -> None:
        if payload == self._token:
            self._heard.set()
        else:
            self._rings_since_trial = True
            self._ring.ring(Wake.BELL)

    async def _first_test(self) -> None:
        """Make trial commits until one is quick enough to be waited for, and heard."""
        while True:
            if await self._self_test():
                return
            await anyio.sleep(self._trial_again)

    async def _self_test(self) -> bool:
        """Make a commit of our own, which the listener has to hear; False if that was too slow.

        A flush of ours holds up writers that ring: armed and not rung lately, there is none.
        """
        self._heard = anyio.Event()
        failed_before = self._trial.seconds is None
        whole = failed_before or self._rings_since_trial or self._held is None
        self._rings_since_trial = False
        await self._trial.once(whole=whole)
        if self._trial.seconds is None:
            self._trial_again = self._trials.failed(1.0)
            return False
        self._trials.succeeded()
        self._trial_again = HEARTBEAT
        if failed_before or self._refused:
            self._refused = False
            self._ring.ring(Wake.START)  # who waits may arm again
        with anyio.move_on_after(SELF_TEST_DEADLINE):
            await self._heard.wait()
            return True
        raise StoreOutage(
            "notifications do not arrive: is there a transaction pooler in between? Point"
            " RELAY_POSTGRES_DSN at Postgres itself"
        )

    async def _hear(self, listener: Session) -> None:
        """Pass on what rings, and ask the server something every heartbeat."""
        asked_at = float("-inf")
        while True:
            async with self._turn:
                # Whoever waits for the turn already could not cancel the wait that begins here.
                left = 0.0 if self._waiting else asked_at + HEARTBEAT - self._now()
                with anyio.move_on_after(max(0.0, left)) as self._hearing:
                    await listener.hear(self._notified)
                self._hearing = None
                if self._now() >= asked_at + HEARTBEAT:
                    asked_at = self._now()
                    query = self._query("bell_state")
                    self._look(await listener.row(query, deadline=HEARTBEAT_DEADLINE))

    def _look(self, row: tuple[Any, ...] | None) -> None:
        """Take in whether writers would ring now."""
        enabled = row is not None and row[0] and row[1] < FULL
        if self._enabled and not enabled:
            self._cant_ring()
        if enabled and not self._enabled:
            self._ring.ring(Wake.START)  # who waits may arm
        self._enabled = enabled

    def _cant_ring(self) -> None:
        if self._held is not None:  # who waits must arm again; who should wait may be long away
            self._ring.ring(Wake.START)
            self.disarm()

    async def _try_commits(self) -> None:
        """Make a trial commit every heartbeat, armed or not: what rings cost may have changed."""
        while True:
            await anyio.sleep(self._trial_again)
            if self._enabled or self._trial.seconds is None:
                await self._self_test()

    @asynccontextmanager
    async def _speaking(self) -> AsyncIterator[Session]:
        """Have the listener stop listening, and use its session."""
        turn, listener = self._turn, self._listener
        if listener is None:
            raise StoreOutage("the bell's session is gone")
        if self._hearing is not None:
            self._hearing.cancel()
        self._waiting += 1
        try:
            await turn.acquire()
        finally:
            self._waiting -= 1
        try:
            yield listener
        finally:
            turn.release()

    async def _take(self, listener: Session) -> None:
        """Take the lock, then note N in a statement that begins afterwards."""
        if self._held is None:
            for pause in (0.0, *ASK_AGAIN):
                if pause:
                    await anyio.sleep(pause)
                row = await listener.row(self._query("bell_lock"), {"bell_class": BELL_CLASS})
                if row is not None and row[0]:
                    break
            else:
                await self._name_intruder(listener)
                return
            try:
                self._held = await self._above_all(listener)
                self._refused = False
            finally:
                if self._held is None and self._tasks is not None:
                    self._tasks.cancel_scope.cancel()  # the session has a lock that nobody frees
        self._leaving = False

    async def _above_all(self, listener: Session) -> int:
        """Return the next transaction id; the snapshot tells its high half, ``age`` its low one."""
        while True:
            row = await listener.row(self._query("next_xid"))
            assert row is not None
            xmax, age = int(row[0]), row[1]
            ahead = (age + 3 - xmax) % (1 << 32)
            if ahead < 1 << 31:  # else it was read before the snapshot was taken
                return xmax + int(ahead)

    async def _release(self) -> None:
        try:
            async with self._speaking() as listener:
                if self._leaving:
                    self._held, self._leaving = None, False  # before: who arms now locks anew
                    await listener.row(_UNLOCK)
        except StoreOutage:
            if self._tasks is not None:
                self._tasks.cancel_scope.cancel()

    async def _name_intruder(self, listener: Session) -> None:
        """Say once who else holds the bell's lock; writers only ask, and are gone."""
        if (now := self._now()) < self._looked_at + HEARTBEAT:
            return
        self._looked_at = now
        rows = await listener.rows(self._query("lease_holder"), {"lock_class": BELL_CLASS})
        others = (row for row in rows if row[2] != "relay listener")
        who = next(("pid {}, login {}, application {!r}".format(*row) for row in others), "")
        if who and who == self._intruder and who != self._named:
            self._named, message = who, "somebody else holds the bell's lock; polling meanwhile"
            log.warning(message, extra={"holder": who})
        self._intruder = who

    def _complain(self, error: BaseException) -> None:
        if not self._complaint:  # once: only the poll is left
            reason = {"error": str(error)}
            log.warning("the bell is out of order; polling until it works again", extra=reason)
        self._complaint = str(error)

    def _query(self, name: str) -> sql.Composed:
        return load(f"queries/{name}", self._outbox.schema)
