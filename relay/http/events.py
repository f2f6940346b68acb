"""Server-sent events: the history first, then the present once a second, to a bounded number.

On failure: who takes nothing for ten seconds is let go of, and so is who has to make room for a
newcomer; a browser comes back by itself, the second kind after ten seconds. Nobody is waited for.
"""

from collections.abc import Callable
from typing import Final

import anyio
from starlette.types import Receive, Scope, Send

from relay.http.feed import Feed, Watcher

PATIENCE: Final = 10.0
_HEADERS: Final = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"x-accel-buffering", b"no"),  # nginx would keep the events until it has a bufferful
)
_COME_LATER: Final = b"retry: 10000\n\n"


class Events:
    """The application that answers to ``/events``."""

    def __init__(self, feed: Feed, hello: Callable[[], bytes]) -> None:
        """FactSink what ``feed`` hands out, and ``hello`` to each newcomer."""
        self._feed = feed
        self._hello = hello

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request for as long as it lasts."""
        if scope["method"] == "HEAD":
            await send({"type": "http.response.start", "status": 200, "headers": [*_HEADERS]})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        client = scope.get("client")
        with self._feed.join(client[0] if client else "") as watcher:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_until_gone, receive, tasks.cancel_scope)
                await self._record(watcher, send)
                tasks.cancel_scope.cancel()

    async def _record(self, watcher: Watcher, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [*_HEADERS]})
        message: bytes | None = b"retry: 2000\n\n" + self._hello()
        while message is not None:
            with anyio.move_on_after(PATIENCE) as patience:
                await send({"type": "http.response.body", "body": message, "more_body": True})
            if patience.cancelled_caught:
                return
            message = await watcher.next()
        # Not the end of the answer: so the connection is closed, and its place is free at once.
        await send({"type": "http.response.body", "body": _COME_LATER, "more_body": True})


async def _until_gone(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
