"""Server-sent events: the same bytes for every watcher, the newest first, to a bounded number.

A watcher has room for one message. A newer message takes its place, so that a slow reader costs no
memory and sees the present. A newcomer beyond the bound takes the place of another watcher: of the
address with the most watchers, the one that has watched longest. A watcher that takes nothing for
ten seconds is let go of. A browser comes back by itself; after a lost place, in ten seconds.
"""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

import anyio
from starlette.responses import Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from relay.http.limits import address_of

MOST_WATCHERS: Final = 16
PATIENCE: Final = 10.0
_COME_BACK_SOON: Final = b"retry: 2000\n\n"
_COME_BACK_LATER: Final = b"retry: 10000\n\n"
_MEDIA_TYPE: Final = "text/event-stream"
_HEADERS: Final = {
    "x-accel-buffering": "no",  # nginx would keep the events until it has a bufferful
    "connection": "close",  # a lost place frees the connection as well
}


class Watcher:
    """The newest message for one reader; None as a message tells the reader to go."""

    def __init__(self, address: str) -> None:
        """Start without a message."""
        self.address = address
        self._message: bytes | None = None
        self._has_news = anyio.Event()

    def send(self, message: bytes | None) -> None:
        """Put ``message`` in the place of the last one."""
        self._message = message
        self._has_news.set()

    async def next(self) -> bytes | None:
        """Wait for a message that ``next`` has not returned yet."""
        await self._has_news.wait()
        self._has_news = anyio.Event()
        return self._message


class Feed:
    """Hands the same bytes to every watcher."""

    def __init__(self) -> None:
        """Start without a watcher."""
        self._watchers: dict[Watcher, None] = {}
        self._is_watched = anyio.Event()

    @property
    def watched(self) -> bool:
        """Whether there is a watcher."""
        return bool(self._watchers)

    async def until_watched(self) -> None:
        """Wait until there is a watcher."""
        await self._is_watched.wait()

    @contextmanager
    def join(self, address: str) -> Iterator[Watcher]:
        """Add a watcher for the length of the block, if need be in the place of another."""
        if len(self._watchers) >= MOST_WATCHERS:
            crowds = Counter(each.address for each in self._watchers)
            # Of equals, max takes the first, which has watched longest.
            leaving = max(self._watchers, key=lambda each: crowds[each.address])
            del self._watchers[leaving]
            leaving.send(None)
        watcher = Watcher(address)
        self._watchers[watcher] = None
        self._is_watched.set()
        try:
            yield watcher
        finally:
            self._watchers.pop(watcher, None)
            if not self._watchers:
                self._is_watched = anyio.Event()

    def send(self, message: bytes) -> None:
        """Hand ``message`` to every watcher. Returns at once."""
        for watcher in self._watchers:
            watcher.send(message)


class Events:
    """The application that answers ``/events``: a greeting, then what ``feed`` sends."""

    def __init__(self, feed: Feed, greeting: Callable[[], bytes]) -> None:
        """Take the feed, and what makes the first message."""
        self._feed = feed
        self._greeting = greeting

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request for as long as it lasts."""
        if scope["method"] == "HEAD":
            await Response(headers=_HEADERS, media_type=_MEDIA_TYPE)(scope, receive, send)
            return

        async def send_in_time(message: Message) -> None:
            with anyio.fail_after(PATIENCE):
                await send(message)

        # A response that is not completed has its connection closed by uvicorn.
        with self._feed.join(address_of(scope)) as watcher, suppress(TimeoutError):
            response = StreamingResponse(
                self._messages(watcher), headers=_HEADERS, media_type=_MEDIA_TYPE
            )
            await response(scope, receive, send_in_time)

    async def _messages(self, watcher: Watcher) -> AsyncIterator[bytes]:
        yield _COME_BACK_SOON + self._greeting()
        while (message := await watcher.next()) is not None:
            yield message
        yield _COME_BACK_LATER
