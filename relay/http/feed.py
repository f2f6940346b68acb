"""Who watches, and the newest message for each: nobody can be so slow that memory grows.

A watcher has room for one message. A newer one takes its place: whoever comes late sees the
present, not the past. A bounded number may watch. A newcomer beyond that takes the place of
another: of the address with the most watchers, the one that has watched longest. So nobody who only
stays keeps anybody out; a browser that was let go of comes back by itself.
"""

from collections import Counter
from types import TracebackType
from typing import Final, Self

import anyio

MOST_WATCHERS: Final = 16


class Watcher:
    """One who watches. Use it as a context manager: leaving it makes room for another one."""

    def __init__(self, feed: "Feed", address: str) -> None:
        """Use ``Feed.join``."""
        self.address = address
        self._feed = feed
        self._message: bytes | None = b""
        self._news = anyio.Event()

    def send(self, message: bytes) -> None:
        """Put ``message`` where the last one was."""
        self._message = message
        self._news.set()

    def let_go(self) -> None:
        """Make this one's next message its last: None."""
        self._message = None
        self._news.set()

    async def next(self) -> bytes | None:
        """Wait for a message that this one has not been told yet; None: watch no longer."""
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
        self._watchers: dict[Watcher, None] = {}
        self._somebody = anyio.Event()

    @property
    def watched(self) -> bool:
        """Whether anybody watches."""
        return bool(self._watchers)

    async def until_watched(self) -> None:
        """Wait until somebody watches."""
        await self._somebody.wait()

    def join(self, address: str) -> Watcher:
        """Let one more watch, if need be in the place of another."""
        if len(self._watchers) >= MOST_WATCHERS:
            crowds = Counter(each.address for each in self._watchers)
            leaving = max(self._watchers, key=lambda each: crowds[each.address])
            del self._watchers[leaving]
            leaving.let_go()
        watcher = Watcher(self, address)
        self._watchers[watcher] = None
        self._somebody.set()
        return watcher

    def leave(self, watcher: Watcher) -> None:
        """Make room."""
        self._watchers.pop(watcher, None)
        if not self._watchers:
            self._somebody = anyio.Event()

    def send(self, message: bytes) -> None:
        """Hand ``message`` to everybody. Returns at once."""
        for watcher in self._watchers:
            watcher.send(message)
