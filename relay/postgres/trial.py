"""Trial commits: how long a ring holds up whoever rings (R-FIRST).

A commit with a NOTIFY in it holds a cluster-wide lock through its flush, and through its wait for a
synchronous standby; every other one queues behind it. So while the relay asks to be rung it commits
one of its own now and then, as producers do by default, and takes the time. What takes too long is
cancelled, for others wait behind it.
"""

from collections.abc import Callable
from typing import Any, Final

import anyio
import psycopg
from psycopg import sql

from relay.errors import StoreOutage
from relay.postgres.pool import Pool

TOO_LONG: Final = 0.05
"""Seconds; a producer's commit is not to wait longer for the bell."""

GIVE_UP: Final = 2.0


class Trial:
    """Times NOTIFY commits of our own on ``channel``. One task calls ``once``."""

    def __init__(self, pool: Pool, channel: str, payload: str, *, now: Callable[[], float]) -> None:
        """Send ``payload``, by which a listener knows ours from a ring."""
        self._pool = pool
        self._now = now
        self._began: float | None = None
        self._seconds: float | None = None
        self._notify = sql.SQL(
            "begin; set local synchronous_commit to default; select pg_notify({}, {})"
        ).format(sql.Literal(channel), sql.Literal(payload))

    @property
    def seconds(self) -> float | None:
        """How long the last one took; None if that is not known, or too long already."""
        if self._began is not None and self._now() - self._began > TOO_LONG:
            return None
        return self._seconds

    def forget(self) -> None:
        """Know nothing, as before the first one."""
        self._seconds = None

    async def once(self) -> None:
        """Make one; afterwards ``seconds`` speaks of it.

        Raises:
            StoreOutage: there is no session to make it on.
        """
        async with self._pool.session() as session:
            try:
                with anyio.fail_after(GIVE_UP):
                    await session.connection.execute(self._notify, prepare=False)
            except (TimeoutError, psycopg.Error) as error:
                self._seconds = None
                session.drop()
                raise StoreOutage(f"no NOTIFY of our own: {error}") from error
            self._began = self._now()
            try:
                self._seconds = await self._commit(session.connection)
            finally:
                self._began = None

    async def _commit(self, connection: psycopg.AsyncConnection[Any]) -> float | None:
        """Commit; the seconds that took, or None if it took too long, or failed."""
        began, done, failed = self._now(), anyio.Event(), False

        async def commit() -> None:
            nonlocal failed
            try:
                await connection.execute("commit", prepare=False)
            except psycopg.Error:
                failed = True
            done.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(commit)
            with anyio.move_on_after(TOO_LONG):
                await done.wait()
            took = self._now() - began
            if not done.is_set():
                failed = True
                self._seconds = None
                try:
                    await connection.cancel_safe(timeout=GIVE_UP)
                    with anyio.move_on_after(GIVE_UP):
                        await done.wait()
                except psycopg.Error:
                    pass
                tasks.cancel_scope.cancel()
        return None if failed or took > TOO_LONG else took
