"""``relay doctor``: why does nothing move, and is this set-up safe?

    settings ──┬──► postgres: connecting ──► server, schema ──► the outbox at work
               └──► nats: servers ──► JetStream ──► streams

Both sides are examined at the same time, each check in its order, and told in the order of the
table in the README. Nothing is decided here that the relay decides itself: the checks ask the very
code, and the SQL, by which a term is refused, a connection made and a stream warned about. Nothing
is changed, and no right is used that the relay does not have.
"""

import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import anyio
from anyio.streams.memory import MemoryObjectSendStream

from relay.doctor import outbox, postgres, streams
from relay.doctor.outbox import Outbox
from relay.doctor.report import Check, Finding, State, run_checks
from relay.doctor.streams import Publishing
from relay.settings import Settings

__all__ = ["SIDES", "Finding", "State", "examine"]

SIDES: Final[dict[str, Sequence[Check[Any]]]] = {
    "postgres": (*postgres.CHECKS, *outbox.CHECKS),
    "nats": streams.CHECKS,
}
"""Every check, by side, in its order."""


async def examine(
    settings: Settings, tell: Callable[[Finding], None], *, try_publish: bool = False
) -> None:
    """Examine both sides; ``tell`` takes each finding, in order, as soon as it may.

    With ``try_publish`` messages are sent that no stream can store. Raises what ``tell`` raises.
    """
    database = Outbox(settings)
    broker = Publishing(settings, database, try_publish=try_publish)
    try:
        await _examine(database, broker, tell)
    except BaseExceptionGroup as group:
        if len(group.exceptions) > 1:
            raise
        raise group.exceptions[0] from None  # by ``tell``, as when nobody reads any more


async def _examine(database: Outbox, broker: Publishing, tell: Callable[[Finding], None]) -> None:
    async with anyio.create_task_group() as tasks:
        receiving = []
        for (side, checks), subject in zip(SIDES.items(), (database, broker), strict=True):
            send, receive = anyio.create_memory_object_stream[Finding](math.inf)
            receiving.append(receive)
            tasks.start_soon(_examine_side, side, checks, subject, send)
        for receive in receiving:
            async with receive:
                async for finding in receive:
                    tell(finding)


async def _examine_side(
    side: str,
    checks: Sequence[Check[Any]],
    subject: Any,
    send: MemoryObjectSendStream[Finding],
) -> None:
    async with send:
        emit: Callable[[Finding], Awaitable[Any]] = send.send
        try:
            await run_checks(side, checks, subject, emit)
        finally:
            subject.close()
