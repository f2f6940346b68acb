"""Trial commits: how long a ring holds up whoever rings (R-FIRST).

A commit with a NOTIFY in it holds a cluster-wide lock through its flush, and through its wait for a
synchronous standby; every other one queues behind it. So the relay commits one of its own now and
then, as producers do by default, and takes the time, by the server's clock: what the network and
this process add holds nobody up. What takes too long is cancelled, for others wait behind it.

A commit of nothing but a NOTIFY waits for that lock, but neither flushes nor waits for a standby.
So a *whole* trial writes a logical message as well, which replication slots ignore; one that is not
tells only whether that lock is held.
"""

from collections import deque
from collections.abc import Callable
from statistics import median
from typing import Any, Final

import anyio
import psycopg
from psycopg import sql

from relay.errors import StoreOutage
from relay.postgres.pool import Pool
from relay.postgres.session import clocks_of

TOO_LONG: Final = 0.05
"""Seconds; a producer's commit is not to wait longer for the bell."""

GIVE_UP: Final = 2.0
MEDIAN_OF: Final = 5
"""Whole trials that decide together: on a busy machine a single one may take ten times as long."""

SHORTEST: Final = 1e-5
"""Seconds: less than this is the clock's noise."""

_NOTIFY: Final = sql.SQL("select pg_catalog.pg_notify({}, {})")
_WHOLE: Final = sql.SQL(
    "begin; set local synchronous_commit to default; {};"
    " select extract(epoch from pg_catalog.clock_timestamp())::float8,"
    " pg_catalog.pg_logical_emit_message(true, 'relay', 'trial commit'); commit;"
    " select extract(epoch from pg_catalog.clock_timestamp())::float8"
)


class Trial:
    """Times NOTIFY commits of our own on ``channel``. One task calls ``once``."""

    def __init__(
        self,
        pool: Pool,
        channel: str,
        payload: str,
        *,
        now: Callable[[], float],
        too_long: Callable[[], None] = lambda: None,
    ) -> None:
        """Send ``payload``, by which a listener knows ours from a ring.

        ``too_long`` is called as soon as a trial is not back within ``TOO_LONG``.
        """
        self._pool = pool
        self._now = now
        self._too_long = too_long
        self._began: float | None = None
        self._works = False
        self._took = deque[float](maxlen=MEDIAN_OF)
        self._notify = _NOTIFY.format(sql.Literal(channel), sql.Literal(payload))
        self._whole = _WHOLE.format(self._notify)

    @property
    def seconds(self) -> float | None:
        """How long a ring takes; None if that is not known, or if the last trial took too long."""
        if self._began is not None and self._now() - self._began > TOO_LONG:
            return None
        return median(self._took) if self._works and self._took else None

    def forget(self) -> None:
        """Know nothing, as before the first one."""
        self._works = False
        self._took.clear()

    async def once(self, *, whole: bool = True) -> None:
        """Make one; afterwards ``seconds`` speaks of it. Only a ``whole`` one flushes, and counts.

        Raises:
            StoreOutage: there is no session to make it on, or the server refuses it.
        """
        async with self._pool.session() as session:
            self._began = self._now()
            try:
                took = await self._commit(
                    session.connection, self._whole if whole else self._notify
                )
            except psycopg.Error as error:
                self._works = False
                session.drop()
                raise StoreOutage(f"no NOTIFY of our own: {error}") from error
            finally:
                self._began = None
            self._works = took is not None
            if took is not None and whole:
                self._took.append(max(took, SHORTEST))

    async def _commit(
        self, connection: psycopg.AsyncConnection[Any], trial: sql.Composed
    ) -> float | None:
        """Commit; the seconds that the commit took, or None if that was too long."""
        done, times = anyio.Event(), list[float]()
        failure: psycopg.Error | None = None

        async def commit() -> None:
            nonlocal failure
            try:
                cursor = await connection.execute(trial, prepare=False)
                times.extend(await clocks_of(cursor))
            except psycopg.Error as error:
                failure = error
            done.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(commit)
            with anyio.move_on_after(TOO_LONG):
                await done.wait()
            if not done.is_set():
                self._works = False
                self._too_long()
                try:
                    await connection.cancel_safe(timeout=GIVE_UP)
                    with anyio.move_on_after(GIVE_UP):
                        await done.wait()
                except psycopg.Error:
                    pass
                tasks.cancel_scope.cancel()
                return None
        if failure is not None:
            raise failure
        took = times[1] - times[0] if times else 0.0
        return None if took > TOO_LONG else took
