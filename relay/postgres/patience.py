"""Waiting for locks that producers use, without letting producers wait.

Each attempt waits for a table for a moment only (its transaction's ``lock_timeout``), because
whoever writes queues behind it; it is made again, at random, for up to ``PATIENCE`` s.
"""

import random
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final

import anyio
import psycopg
from psycopg import errors

from relay.errors import SchemaError, StoreBusy, StoreOutage
from relay.postgres.session import Session, translated

PATIENCE = 60.0
"""Seconds for which a run that can't get its locks tries again."""

DEADLINE: Final = 600.0
"""Seconds after which a server that does not answer is given up."""

_LOCKED: Final = """\
{} stayed locked for {:g} s ({}): end the long transactions that use it \
(pg_stat_activity, oldest xact_start first), then run this again"""


async def patiently(
    session: Session, attempt: Callable[[], Awaitable[None]], what: str, who: str
) -> None:
    """Run ``attempt`` until it gets its locks, for up to ``PATIENCE`` s.

    ``what`` is changed, by ``who`` may do so; both are for the errors' words.

    Raises:
        SchemaError: this login may not, or our own files refuse to.
        StoreOutage: the database is away, or ``what`` stayed locked.
    """
    give_up_at = time.monotonic() + PATIENCE
    try:
        with explained(who), anyio.fail_after(DEADLINE):
            while True:
                try:
                    await attempt()
                    break
                except (errors.LockNotAvailable, errors.DeadlockDetected, StoreBusy) as error:
                    if time.monotonic() > give_up_at:
                        raise StoreOutage(_LOCKED.format(what, PATIENCE, error)) from error
                    await anyio.sleep(random.uniform(0.1, 1.0))
    except TimeoutError:
        session.drop()
        raise StoreOutage(f"Postgres did not answer within {DEADLINE:g} s") from None


@contextmanager
def explained(who: str) -> Iterator[None]:
    """Let what Postgres says be our error; ``who`` may do what this login may not."""
    try:
        yield
    except psycopg.Error as error:
        message = " ".join(str(error).split())
        if isinstance(error, errors.InsufficientPrivilege):
            raise SchemaError(f"{message}: {who}") from error
        if isinstance(error, errors.RaiseException):  # our own files say what is wrong
            raise SchemaError(message) from error
        if isinstance(error, errors.DependentObjectsStillExist):
            what = f"{error.diag.message_detail}: drop it, migrate, and make it again"
            raise SchemaError(what) from error
        raise translated(error) from error
