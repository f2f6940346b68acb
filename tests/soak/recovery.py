"""How soon a message is stored after a server is back, where no other fault is in the way."""

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from tests.soak.broker import AWAY, Broker

_LOOK = 0.02
_GIVE_UP = 10.0


class Recoveries:
    """Seconds by server. A recovery counts if its fault was alone from beginning to end."""

    def __init__(self, broker: Broker) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self._broker = broker
        self._lock = threading.Lock()
        self._under_way = 0
        self._begun = 0

    @contextmanager
    def fault(self) -> Iterator[None]:
        """Note that a fault is under way."""
        with self._lock:
            self._under_way += 1
            self._begun += 1
        try:
            yield
        finally:
            with self._lock:
                self._under_way -= 1

    def measure(self, server: str) -> None:
        """Wait for the next message; ``server`` has just been started again."""
        ready, begun, pause = time.monotonic(), self._begun, threading.Event()
        before = self._last_seq()
        while self._under_way == 1 and self._begun == begun:
            now = time.monotonic()
            if self._last_seq() > before:
                self.seconds[server].append(now - ready)
                return
            if now - ready > _GIVE_UP:
                return  # the load has ended, or the drain will tell
            pause.wait(_LOOK)

    def _last_seq(self) -> int:
        try:
            return self._broker.held()[1]
        except AWAY:
            return 1 << 62
