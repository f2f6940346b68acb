"""The doorbell's Postgres end: an advisory lock that keeps writers silent, and a LISTEN session.

Every statement that inserts events tries the bell lock, shared, for its transaction. It gets it
while the relay is awake, and stays silent; it can't get it while the relay holds or awaits it
exclusively, and then it notifies. So to be rung, the relay takes the lock:

    released ──arm()──► try exclusive ──got────────────────────────► armed
                             │ a silent transaction is still open       ▲
                             └► queue for it; once the queue is seen ───┘
                                by others, new writers notify; the grant
                                itself announces the silent one's commit

    armed ──disarm()──► released

Advisory transaction locks are released after the commit is visible: who is granted the lock can
see the rows of every writer that kept silent. The order for the caller is arm, read, wait.

On failure: nothing here is needed for correctness. Without a working LISTEN session ``arm`` says
False, writers stay silent, and the caller polls. The sessions are heart-beaten and made anew; the
fall-back to the poll is logged once until the bell works again.
"""

import logging
import math
import random
from collections.abc import Awaitable, Callable, Mapping

import anyio
import anyio.abc
import psycopg
from psycopg import sql

from relay.core.backoff import Backoff
from relay.errors import StoreOutage, sole
from relay.ports import Wake
from relay.postgres.locks import BELL_CLASS
from relay.postgres.session import LockTimedOut, Session, StatementCanceled, translated
from relay.postgres.sqlfiles import load

log = logging.getLogger("relay.doorbell")

HEARTBEAT = 1.0
"""Seconds between heartbeats of the sessions."""

HEARTBEAT_DEADLINE = 3.0
SELF_TEST_DEADLINE = 2.0
LEAVE_EVERY = 0.005
RETRY_FIRST, RETRY_MOST = 0.1, 30.0

_ALIVE = sql.SQL("select 1").format()
_UNLOCK = sql.SQL("select pg_advisory_unlock_all()").format()

Connect = Callable[[str, Mapping[str, str] | None], Awaitable[Session]]


class PostgresBell:
    """``relay.ports.WakeSource`` over LISTEN and an advisory lock.

    ``run`` keeps the sessions; without it the source only times out.
    """

    def __init__(
        self,
        connect: Connect,
        schema: str,
        *,
        poll_interval: float,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """Listen to ``schema``'s doorbell; a wait in the lock's queue lasts ``poll_interval`` s."""
        self._connect = connect
        self._channel = f"{schema}.outbox"
        self._queue_timeout = max(poll_interval, 0.001)
        self._try_lock = load("queries/bell_try", schema)
        self._queue_lock = load("queries/bell_queue", schema)
        self._probe_lock = load("queries/bell_probe", schema)
        self._rung = anyio.Event()
        self._rings = 0
        self._cause = Wake.POLL
        self._armed = False
        self._tasks: anyio.abc.TaskGroup | None = None
        self._lock: Session | None = None
        self._lock_use = anyio.Lock()
        self._probe: Session | None = None
        self._queueing = self._leaving = False
        self._complained = False
        self._retry = Backoff(base=RETRY_FIRST, cap=RETRY_MOST)
        self._jitter = jitter

    # The port.

    async def arm(self) -> bool:
        """Take the bell lock, or a place in its queue that writers can see."""
        self._rung = anyio.Event()
        self._cause = Wake.POLL
        self._armed = True
        tasks = self._tasks
        if tasks is None:
            return False
        try:
            async with self._lock_use:  # a release under way comes first
                lock = self._lock
                if lock is None:
                    return False
                got = await self._on_lock(lock, self._try_lock, {"bell_class": BELL_CLASS})
            if not got:
                seen = anyio.Event()
                tasks.start_soon(self._queue, lock, seen)
                await seen.wait()
        except StoreOutage:
            tasks.cancel_scope.cancel()  # run() makes the sessions anew
            return False
        return True

    async def wait(self, timeout: float) -> Wake:  # noqa: ASYNC109 - the poll interval
        """Sleep until rung, granted, or for ``timeout`` s."""
        with anyio.move_on_after(timeout):
            await self._rung.wait()
        cause, self._cause = self._cause, Wake.POLL
        self._rung = anyio.Event()
        return cause

    def disarm(self) -> None:
        """Release the lock behind the caller's back; the next ``arm`` waits for that."""
        self._armed = False
        if self._lock is not None and self._tasks is not None:
            self._leaving = self._queueing
            end = self._leave_queue if self._queueing else self._release
            self._tasks.start_soon(end, self._lock)

    async def run(self) -> None:
        """Keep the bell's sessions alive until cancelled."""
        while True:
            try:
                await self._serve_once()
            except StoreOutage as outage:
                self._complain(outage)
            except BaseExceptionGroup as group:
                error = sole(group)
                if not isinstance(error, StoreOutage):
                    raise
                self._complain(error)
            self._ring(Wake.START)  # who waits must not wait for a dead bell
            await anyio.sleep(self._retry.failed(self._jitter()))

    # The sessions.

    async def _serve_once(self) -> None:
        """Serve until a session fails."""
        lock_timeout = {"lock_timeout": str(math.ceil(self._queue_timeout * 1000))}
        async with (
            await self._connect("doorbell listener", None) as listener,
            await self._connect("doorbell lock", lock_timeout) as lock,
        ):
            await self._listen(listener)
            await self._self_test(listener, lock)
            if self._complained:
                log.info("doorbell works again", extra={"channel": self._channel})
                self._complained = False
            self._retry.succeeded()
            try:
                async with anyio.create_task_group() as tasks:
                    self._lock, self._tasks = lock, tasks
                    self._ring(Wake.START)  # listen, then read: what came before rang nobody
                    tasks.start_soon(self._hear, listener)
                    tasks.start_soon(self._keep_alive, lock)
            finally:
                self._lock = self._tasks = None
                self._lock_use = anyio.Lock()
                if self._probe is not None:
                    self._probe.drop()
                    self._probe = None

    async def _listen(self, listener: Session) -> None:
        listener.connection.add_notify_handler(lambda _: self._ring(Wake.BELL))
        try:
            with anyio.fail_after(HEARTBEAT_DEADLINE):
                await listener.connection.execute(
                    sql.SQL("listen {}").format(sql.Identifier(self._channel))
                )
        except TimeoutError:
            raise StoreOutage("LISTEN was not answered") from None
        except psycopg.Error as error:  # of any kind: a standby's, a pooler's, an old server's bug
            raise StoreOutage(f"LISTEN is refused: {translated(error)}") from error

    async def _self_test(self, listener: Session, lock: Session) -> None:
        """Ring once by hand: a pooler takes LISTEN and delivers nothing."""
        before = self._rings
        await lock.rows(
            sql.SQL("select pg_notify({}, '')").format(sql.Literal(self._channel)),
            deadline=HEARTBEAT_DEADLINE,
        )
        with anyio.move_on_after(SELF_TEST_DEADLINE):
            while self._rings == before:
                await self._hear_once(listener)
        if self._rings == before:
            raise StoreOutage(
                "notifications do not arrive: is there a transaction pooler in between? Point"
                " RELAY_POSTGRES_DSN at Postgres itself"
            )

    async def _hear(self, listener: Session) -> None:
        while True:
            await self._hear_once(listener)

    async def _hear_once(self, listener: Session) -> None:
        """Wait for the socket at most a heartbeat long, and pass on what rang."""
        libpq = listener.connection.pgconn
        try:
            with anyio.move_on_after(HEARTBEAT) as quiet:
                await anyio.wait_readable(libpq.socket)
            if quiet.cancelled_caught:
                await listener.rows(_ALIVE, deadline=HEARTBEAT_DEADLINE)
            libpq.consume_input()
            while libpq.notifies():
                self._ring(Wake.BELL)
        except psycopg.Error as error:
            raise StoreOutage(f"the doorbell's session is gone: {error}") from error

    async def _keep_alive(self, lock: Session) -> None:
        while True:
            await anyio.sleep(HEARTBEAT)
            if not self._lock_use.locked():  # else it is in use, and its user will notice
                async with self._lock_use:
                    await self._on_lock(lock, _ALIVE)

    # The lock.

    async def _queue(self, lock: Session, seen: anyio.Event) -> None:
        """Queue behind silent transactions until granted or disarmed.

        ``seen`` is set once writers can see the queue, and however this ends.
        """
        try:
            async with self._lock_use:
                self._queueing, self._leaving = True, False
                try:
                    while not self._leaving and not await self._wait_in_queue(lock, seen):
                        pass
                finally:
                    self._queueing = False
                self._ring(Wake.GRANT)
                seen.set()
                if self._leaving:  # not "if not armed": the next arm may be waiting already
                    await self._on_lock(lock, _UNLOCK)
        finally:
            seen.set()

    async def _wait_in_queue(self, lock: Session, seen: anyio.Event) -> bool:
        """Wait once for the exclusive lock; False after the lock's time-out or ``_leave_queue``."""
        granted = True
        try:
            async with anyio.create_task_group() as entry:
                entry.start_soon(self._see_queue, seen)
                try:
                    await lock.rows(
                        self._queue_lock,
                        {"bell_class": BELL_CLASS},
                        deadline=self._queue_timeout + HEARTBEAT_DEADLINE,
                    )
                except (LockTimedOut, StatementCanceled):
                    granted = False
                    entry.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise sole(group) from None
        return granted

    async def _see_queue(self, seen: anyio.Event) -> None:
        """Set ``seen`` as soon as a writer's try would fail: the queue stands, or was granted."""
        if self._probe is None or self._probe.connection.closed:
            self._probe = await self._connect("doorbell probe", None)
        while True:
            row = await self._probe.row(self._probe_lock, {"bell_class": BELL_CLASS})
            if row is not None and not row[0]:
                if seen.is_set():
                    self._ring(Wake.POLL)  # writers were silent between a time-out and this entry
                seen.set()
                return

    async def _leave_queue(self, lock: Session) -> None:
        """Cancel the wait from outside: cancelling its task would cost the session."""
        try:
            while self._queueing:  # again, if the wait was only about to begin
                await lock.connection.cancel_safe(timeout=HEARTBEAT_DEADLINE)
                await anyio.sleep(LEAVE_EVERY)
        except psycopg.Error as error:
            raise StoreOutage(f"the doorbell's queue can't be left: {error}") from error

    async def _release(self, lock: Session) -> None:
        async with self._lock_use:
            if not self._armed and self._lock is lock:
                await self._on_lock(lock, _UNLOCK)

    async def _on_lock(
        self, lock: Session, query: sql.Composed, params: Mapping[str, int] | None = None
    ) -> bool:
        """Run a statement that never waits; again, if a late ``_leave_queue`` hit it instead."""
        while True:
            try:
                row = await lock.row(query, params, deadline=HEARTBEAT_DEADLINE)
            except StatementCanceled:
                continue
            return row is not None and bool(row[0])

    def _ring(self, cause: Wake) -> None:
        if self._cause is Wake.POLL:
            self._cause = cause
        self._rings += 1
        self._rung.set()

    def _complain(self, error: BaseException) -> None:
        """Say once that only the poll is left."""
        if not self._complained:
            self._complained = True
            log.warning(
                "doorbell is out of order; polling until it works again",
                extra={"error": str(error)},
            )
