"""Who watches, and the newest message for each: nobody can be so slow that memory grows.

A watcher has room for one message. A newer one takes its place: whoever comes late sees the
present, not the past. A bounded number may watch; the others are told to come back.
"""

from types import TracebackType
from typing import Final, Self

import anyio

MOST_WATCHERS: Final = 16


class Watcher:
    """One who watches. Use it as a context manager: leaving it makes room for another one."""

    def __init__(self, feed: "Feed") -> None:
        """Use ``Feed.join``."""
        self._feed = feed
        self._message = b""
        self._news = anyio.Event()

    def tell(self, message: bytes) -> None:
        """Put ``message`` where the last one was."""
        self._message = message
        self._news.set()

    async def next(self) -> bytes:
        """Wait for a message that this one has not been told yet."""
        await self._news.wait()
        self._news = anyio.Event()
        return self._message

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave."""
        self._feed.leave(self)


class Feed:
    """Hands the same bytes to everybody who watches."""

    def __init__(self) -> None:
        """Begin with nobody."""
        self._watchers: set[Watcher] = set()
        self._somebody = anyio.Event()

    @property
    def watched(self) -> bool:
        """Whether anybody watches."""
        return bool(self._watchers)

    async def until_watched(self) -> None:
        """Wait until somebody watches."""
        await self._somebody.wait()

    def join(self) -> Watcher | None:
        """Let one more watch; None if there is no room."""
        if len(self._watchers) >= MOST_WATCHERS:
            return None
        watcher = Watcher(self)
        self._watchers.add(watcher)
        self._somebody.set()
        return watcher

    def leave(self, watcher: Watcher) -> None:
        """Make room."""
        self._watchers.discard(watcher)
        if not self._watchers:
            self._somebody = anyio.Event()

    def tell(self, message: bytes) -> None:
        """Hand ``message`` to everybody. Returns at once."""
        for watcher in self._watchers:
            watcher.tell(message)
