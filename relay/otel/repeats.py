"""Faults that repeat: one line in a while, the last one always, with the count of the others.

    first ──► written                    a window begins
    within its window ──► held back      the newest is kept, the older ones are counted
    the window ends ──► the newest is written, repeated=n      and another window begins
                    └─► nothing was held back: the next one is a first one again

Two lines are the same if logger, message and what the fault is about are: an outage of Postgres
holds back none of NATS. What other libraries say with changing words about an export of telemetry
is the same by their logger alone.
"""

import logging
import time
from collections.abc import Callable
from typing import Final, NamedTuple

REPEAT_EVERY: Final = 1.0
"""Seconds between two lines of the same warning or error."""

EXPORT_EVERY: Final = 60.0
"""The same of a collector that can't be reached: it concerns no event."""

_MOST_KEYS: Final = 1_000
_ABOUT: Final = ("side", "by", "breaker", "stream", "server")
_BY_LOGGER: Final = frozenset({"opentelemetry", "urllib3"})


class _Window(NamedTuple):
    until: float
    newest: logging.LogRecord | None = None
    held_back: int = 0


class Repeats:
    """Decides which records are written. Not for two threads at once."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        """Start with nothing seen; ``now`` gives seconds of a clock that only goes on."""
        self._now = now
        self._windows: dict[tuple[object, ...], _Window] = {}

    def passes(self, record: logging.LogRecord) -> bool:
        """Say whether to write the record now; else it is held back."""
        if record.levelno < logging.WARNING:
            return True
        key, every = _kind(record)
        now = self._now()
        window = self._windows.pop(key, None)
        if window is not None and now < window.until:
            self._windows[key] = _Window(window.until, record, window.held_back + 1)
            return False
        if window is not None and window.held_back:
            _count(record, window.held_back)
        self._windows[key] = _Window(now + every)
        if len(self._windows) > _MOST_KEYS:
            del self._windows[next(iter(self._windows))]
        return True

    @property
    def holding(self) -> bool:
        """Whether anything is held back."""
        return any(window.newest is not None for window in self._windows.values())

    def take_due(self, *, all_: bool = False) -> list[logging.LogRecord]:
        """Return what is to be written now, because its window, or everything, has ended."""
        now, due = self._now(), list[logging.LogRecord]()
        for key, window in list(self._windows.items()):
            if window.newest is None or (now < window.until and not all_):
                continue
            _count(window.newest, window.held_back - 1)
            due.append(window.newest)
            self._windows[key] = _Window(now + _kind(window.newest)[1])
        return due


def _kind(record: logging.LogRecord) -> tuple[tuple[object, ...], float]:
    """Return what makes two records the same, and how often one of them may be written."""
    if record.name.partition(".")[0] in _BY_LOGGER:
        return (record.name,), EXPORT_EVERY
    about = tuple(getattr(record, name, None) for name in _ABOUT)
    return (record.name, f"{record.msg}{record.args}", *about), REPEAT_EVERY


def _count(record: logging.LogRecord, others: int) -> None:
    if others:
        record.repeated = others
