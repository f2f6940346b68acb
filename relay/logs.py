"""The log lines of this process: where they go, and how often a fault is repeated.

Code logs a fixed message and its figures: ``log.info("leading", extra={"epoch": 3})``. What becomes
of them is the duty of ``logformat``. A warning or error that repeats is written once a second:

    first ──► written                    a window begins
    within its window ──► held back      the newest is kept, the older ones are counted
    the window ends ──► the newest is written, repeated=n      and another window begins
                    └─► nothing was held back: the next one is a first one again

A line that is written within a span of OpenTelemetry carries its ``trace_id`` and ``span_id``; one
about an event, its producer's. Nothing here can fail the code that logs.
"""

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Final, Literal, NamedTuple, TextIO

from relay.logformat import JsonLines, TextLines, text_of

REPEAT_EVERY: Final = 1.0
"""Seconds between two lines of the same warning or error."""

EXPORT_EVERY: Final = 60.0
"""The same of a telemetry collector that can't be reached: it concerns no event."""

_ABOUT: Final = ("side", "by", "breaker", "stream", "server")
"""Extras that make two lines with one message different: Postgres's outage is not that of NATS."""

_MOST_WINDOWS: Final = 1_000


def configure(
    log_format: Literal["auto", "text", "json"], level: str, *, stream: TextIO | None = None
) -> None:
    """Send every log line of this process to ``stream``; calling it again starts anew.

    Args:
        log_format: ``auto`` is text on a terminal, else JSON.
        level: the least level of the relay's own lines: debug, info, warning, error.
        stream: standard error unless given.
    """
    out = sys.stderr if stream is None else stream
    handler = Lines(out)
    handler.setFormatter(JsonLines() if is_json(log_format, out) else TextLines())
    root = logging.getLogger()
    for former in list(root.handlers):
        if isinstance(former.formatter, TextLines | JsonLines):
            root.removeHandler(former)
            former.close()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("relay").setLevel(level.upper())
    # They repeat, with tracebacks, what the adapters log in one line.
    for library in ("nats", "psycopg", "psycopg.pool"):
        logging.getLogger(library).setLevel(logging.ERROR)


def is_json(log_format: str, stream: TextIO) -> bool:
    """Say whether lines on ``stream`` are JSON in this format."""
    return log_format == "json" or (log_format != "text" and not stream.isatty())


@contextmanager
def written_to(stream: TextIO, instead_of: TextIO) -> Iterator[None]:
    """Write lines to ``stream`` for the length of the block, if they went to ``instead_of``.

    Nothing changes unless that is a terminal: what goes to a file goes on going there.
    """
    handlers = [each for each in logging.getLogger().handlers if isinstance(each, Lines)]
    moved = [each for each in handlers if each.stream is instead_of and instead_of.isatty()]
    for handler in moved:
        handler.setStream(stream)
    try:
        yield
    finally:
        for handler in moved:
            handler.setStream(instead_of)


def take_all() -> None:
    """Log what this process would print otherwise: warnings, and exceptions that nobody caught.

    For a process that is a relay's command; an application's hooks are its own.
    """

    def log_uncaught(event: str, error: BaseException | None) -> None:
        if error is not None:
            logging.getLogger("relay").error("%s", event, exc_info=error)

    logging.captureWarnings(capture=True)
    sys.excepthook = lambda _, error, __: log_uncaught("an exception that nobody caught", error)
    sys.unraisablehook = lambda hooked: log_uncaught(
        "an exception where none can be", hooked.exc_value
    )
    threading.excepthook = lambda hooked: log_uncaught("a thread ended by it", hooked.exc_value)


class Lines(logging.StreamHandler[TextIO]):
    """Writes records to a stream, but not every repetition; see ``Repeats``."""

    def __init__(self, stream: TextIO) -> None:
        """Write to ``stream``."""
        super().__init__(stream)
        self._repeats = Repeats()
        self._timer: threading.Timer | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record, or hold it back. The handler's lock is held."""
        _add_span(record)
        if self._repeats.passes(record):
            super().emit(record)
        else:
            self._catch_up_later()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Say that a line could not be formed; a stream that takes nothing is nobody's to mend."""
        error = sys.exc_info()[1]
        if isinstance(error, Exception) and not isinstance(error, OSError | ValueError):
            fault = {"name": "relay", "levelname": "ERROR", "msg": "a log line could not be formed"}
            fault |= {"of": record.name, "reason": text_of(error)}
            with suppress(Exception):
                self.stream.write(f"{self.format(logging.makeLogRecord(fault))}\n")

    def close(self) -> None:
        """Write what is held back: nothing more will come."""
        with self.lock or nullcontext():
            if self._timer is not None:
                self._timer.cancel()
            self._catch_up(all_=True)
        super().close()

    def _catch_up_later(self) -> None:
        """Write what is held back when it is due, though nobody may log by then."""
        if self._timer is None:
            self._timer = threading.Timer(REPEAT_EVERY, self._turn)
            self._timer.daemon = True
            self._timer.start()

    def _turn(self) -> None:
        with self.lock or nullcontext():
            self._timer = None
            self._catch_up()
            if self._repeats.holding:
                self._catch_up_later()

    def _catch_up(self, *, all_: bool = False) -> None:
        for record in self._repeats.take_due(all_=all_):
            super().emit(record)


class _Window(NamedTuple):
    until: float
    newest: logging.LogRecord | None = None
    held_back: int = 0


class Repeats:
    """Decides which records are written. Not for two threads at once.

    Two records are the same if logger, message and what the fault is about are. Other libraries
    use changing words about an export of telemetry: those are the same by their logger alone.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        """Begin without a window; ``now`` gives seconds of a clock that only goes on."""
        self._now = now
        self._windows: dict[tuple[object, ...], _Window] = {}

    def passes(self, record: logging.LogRecord) -> bool:
        """Say whether to write the record now; else it is held back."""
        if record.levelno < logging.WARNING:
            return True
        key, every = _kind(record)
        now = self._now()
        window = self._windows.pop(key, _Window(now))
        if now < window.until:
            self._windows[key] = _Window(window.until, record, window.held_back + 1)
            return False
        _add_count(record, window.held_back)
        self._windows[key] = _Window(now + every)
        if len(self._windows) > _MOST_WINDOWS:
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
            if window.newest is not None and (all_ or now >= window.until):
                _add_count(window.newest, window.held_back - 1)
                due.append(window.newest)
                self._windows[key] = _Window(now + _kind(window.newest)[1])
        return due


def _kind(record: logging.LogRecord) -> tuple[tuple[object, ...], float]:
    """Return what makes two records the same, and how often one of them may be written."""
    if record.name.partition(".")[0] in {"opentelemetry", "urllib3"}:
        return (record.name,), EXPORT_EVERY
    about = tuple(getattr(record, name, None) for name in _ABOUT)
    return (record.name, f"{record.msg}{record.args}", *about), REPEAT_EVERY


def _add_count(record: logging.LogRecord, left_out: int) -> None:
    if left_out:
        record.repeated = left_out


def _add_span(record: logging.LogRecord) -> None:
    """Note the span in which the line is written, unless the record names another trace."""
    if "opentelemetry.trace" not in sys.modules or hasattr(record, "trace_id"):
        return
    context = sys.modules["opentelemetry.trace"].get_current_span().get_span_context()
    if context.is_valid:
        record.trace_id = f"{context.trace_id:032x}"
        record.span_id = f"{context.span_id:016x}"
