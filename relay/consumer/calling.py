"""Calling a handler: with a time limit, in a span, and with every wrong answer made an error."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from relay.consumer.message import Message
from relay.consumer.telemetry import Telemetry
from relay.core import durations
from relay.errors import RelayError

Call = Callable[[Any, Sequence[Message]], Awaitable[None]]
"""Handles some messages on a connection, in order."""


class HandlerError(RelayError):
    """What a handler must not do."""


def calling(
    handler: Callable[..., Any], *, batches: bool, timeout: float, telemetry: Telemetry
) -> Call:
    """Return what calls ``handler``: once a message, or with ``batches`` once for all of them.

    The call raises HandlerError if the handler takes longer than ``timeout`` s or returns
    something, and what the handler raises.
    """

    async def one(connection: Any, messages: Sequence[Message]) -> None:
        began = time.monotonic()
        try:
            with telemetry.processing(messages):
                what = messages if batches else messages[0]
                answer = await _in_time(lambda: handler(connection, what), timeout)
        finally:
            telemetry.called(time.monotonic() - began)
        if answer is not None:
            raise HandlerError(
                f"the handler returned {type(answer).__name__}: it has to return None, or to raise"
            )

    async def each(connection: Any, messages: Sequence[Message]) -> None:
        for message in messages:
            await one(connection, (message,))

    async def all_(connection: Any, messages: Sequence[Message]) -> None:
        if messages:
            await one(connection, messages)

    return all_ if batches else each


async def _in_time(call: Callable[[], Any], seconds: float) -> object:
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            answer = call()
            if not inspect.isawaitable(answer):
                raise HandlerError("the handler is no async function: it has to be one")
            return await answer
    except TimeoutError:
        if limit.expired():
            raise HandlerError(f"took longer than {durations.format(seconds)}") from None
        raise
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise HandlerError("the handler cancelled itself") from None
