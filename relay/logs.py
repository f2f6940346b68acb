"""Log lines: one line a fact, text for a terminal, JSON for everything else.

Code logs a fixed message and its figures: ``log.info("leading", extra={"epoch": 3})``. Here the
extras become ``key=value`` or fields of one JSON object, and whatever passes through is made safe:

    control characters     escaped: no value can forge a line or drive a terminal
    long values            cut at 256 characters
    bytes                  their length alone: a payload never reaches a log
    passwords in URLs and connection strings, and extras named like secrets     ***
    rows and statements that Postgres quotes in its errors     cut off: see ``tracebacks``

A warning or error that repeats is written once a second at most, its last line with the count of
those left out (``repeated=n``): see ``repeats``. What else a process says (warnings, asyncio's
texts, exceptions that nobody caught) takes the same way: see ``take_all``. A line that is written
within a span of OpenTelemetry carries its ``trace_id`` and ``span_id``; one about an event, its
producer's. Nothing here can fail the code that logs.
"""

import json
import logging
import math
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal, TextIO

from relay.otel.repeats import REPEAT_EVERY, Repeats
from relay.otel.tracebacks import text_of, traceback_of, without_rows

if TYPE_CHECKING:
    _Handler = logging.StreamHandler[TextIO]
else:
    _Handler = logging.StreamHandler

MOST_VALUE: Final = 256
"""Characters of a value that are written."""

MOST_MESSAGE: Final = 1024
MOST_TRACEBACK: Final = 16_384

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "taskName",
}
_OURS: Final = ("ts", "level", "logger", "event", "traceback")
_PLAIN: Final = re.compile(r'[^\s"=]+')
_SECRET_NAME: Final = re.compile(
    r"password|passwd|token|secret|seed|dsn|conninfo|^payload|^headers$|tracestate|baggage"
)
_SECRET_PARTS: Final = (
    (re.compile(r"://[^/\s]*@"), "://***@"),
    (re.compile(r"(password\s*=\s*)('(?:[^'\\]|\\.)*'|\S+)", re.IGNORECASE), r"\1***"),
)


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
    # They retell, with tracebacks, what the adapters say in one line.
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
    moved = [
        handler
        for handler in logging.getLogger().handlers
        if isinstance(handler, Lines) and handler.stream is instead_of and instead_of.isatty()
    ]
    for handler in moved:
        handler.setStream(stream)
    try:
        yield
    finally:
        for handler in moved:
            handler.setStream(instead_of)


def take_all() -> None:
    """Log what this process would print in forms of its own: warnings, and what nobody caught.

    For a process that is a relay's command; an application's hooks are its own.
    """
    logging.captureWarnings(capture=True)
    sys.excepthook = lambda _, error, __: _uncaught("an exception that nobody caught", error)
    sys.unraisablehook = lambda found: _uncaught("an exception where none can be", found.exc_value)
    threading.excepthook = lambda found: _uncaught("a thread ended by it", found.exc_value)


def _uncaught(what: str, error: BaseException | None) -> None:
    if error is not None:
        logging.getLogger("relay").error("%s", what, exc_info=error)


class Lines(_Handler):
    """Writes records to a stream, but not every repetition; see ``Repeats``."""

    def __init__(self, stream: TextIO) -> None:
        """Write to ``stream``."""
        super().__init__(stream)
        self._repeats = Repeats()
        self._timer: threading.Timer | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record, or hold it back. The handler's lock is held."""
        _stamp(record)
        if self._repeats.passes(record):
            super().emit(record)
        elif self._timer is None:
            self._catch_up_later()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Say that a line could not be formed; a stream that takes nothing is nobody's to mend."""
        error = sys.exc_info()[1]
        if isinstance(error, Exception) and not isinstance(error, OSError | ValueError):
            fields = {"of": record.name, "reason": text_of(error)}
            said = {"name": "relay", "levelname": "ERROR", "msg": "a log line could not be formed"}
            with suppress(Exception):
                self.stream.write(f"{self.format(logging.makeLogRecord(said | fields))}\n")

    def close(self) -> None:
        """Write what is held back: nothing more will come."""
        self.acquire()
        try:
            if self._timer is not None:
                self._timer.cancel()
            self._catch_up(all_=True)
        finally:
            self.release()
        super().close()

    def _catch_up_later(self) -> None:
        """Write what is held back when it is due, though nobody may log by then."""
        self._timer = threading.Timer(REPEAT_EVERY, self._turn)
        self._timer.daemon = True
        self._timer.start()

    def _turn(self) -> None:
        self.acquire()
        try:
            self._timer = None
            self._catch_up()
            if self._repeats.holding:
                self._catch_up_later()
        finally:
            self.release()

    def _catch_up(self, *, all_: bool = False) -> None:
        for record in self._repeats.take_due(all_=all_):
            super().emit(record)


class TextLines(logging.Formatter):
    """``2026-01-31T10:00:00.000Z INFO relay leading epoch=3``; a traceback goes below its line."""

    def format(self, record: logging.LogRecord) -> str:
        """Write the record as one line, and its traceback, if any, as further ones."""
        parts = [_instant(record), record.levelname, record.name, _clean(_message(record))]
        parts += [f"{_clean(name)}={_quoted(value)}" for name, value in _extras(record).items()]
        lines = [" ".join(parts), *(_clean(line) for line in _traceback(record).splitlines())]
        return "\n    ".join(lines)


class JsonLines(logging.Formatter):
    """One JSON object a line: ``ts``, ``level``, ``logger``, ``event``, then the extras."""

    def format(self, record: logging.LogRecord) -> str:
        """Write the record as one line of ASCII."""
        fields: dict[str, Any] = {
            "ts": _instant(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": _message(record),
        }
        for name, value in _extras(record).items():
            fields[f"{name}_" if name in _OURS else name] = value
        if told := _traceback(record):
            fields["traceback"] = told
        return json.dumps(fields)


def _stamp(record: logging.LogRecord) -> None:
    """Note the span in which the line is written, if there is one and it names no other trace."""
    if "opentelemetry.trace" not in sys.modules or hasattr(record, "trace_id"):
        return
    context = sys.modules["opentelemetry.trace"].get_current_span().get_span_context()
    if context.is_valid:
        record.trace_id = f"{context.trace_id:032x}"
        record.span_id = f"{context.span_id:016x}"


def _instant(record: logging.LogRecord) -> str:
    at = datetime.fromtimestamp(record.created, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _message(record: logging.LogRecord) -> str:
    text = record.getMessage()
    if record.name == "asyncio":
        # Its further lines are the repr of a task or a transport, with an exception's whole text.
        text = text.partition("\n")[0]
    return _cut(_redacted(without_rows(text)), MOST_MESSAGE)


def _extras(record: logging.LogRecord) -> Mapping[str, str | float | bool | None]:
    found = {
        name: "***" if _SECRET_NAME.search(name.lower()) else _value(value)
        for name, value in vars(record).items()
        if name not in _STANDARD
    }
    if record.exc_info and record.exc_info[1] and _foreign(record):
        error = record.exc_info[1]
        found["error"] = _value(text_of(error))
    return found


def _value(value: object) -> str | float | bool | None:
    match value:
        case None | bool() | int():
            return value
        case float():
            return value if math.isfinite(value) else str(value)
        case bytes() | bytearray() | memoryview():
            return f"{len(value)} bytes"
        case datetime():
            return value.isoformat()
        case BaseException():
            return _cut(_redacted(text_of(value)), MOST_VALUE)
        case _:
            return _cut(_redacted(without_rows(str(value))), MOST_VALUE)


def _quoted(value: str | float | bool | None) -> str:
    if not isinstance(value, str):
        return json.dumps(value)
    text = _clean(value)
    return text if _PLAIN.fullmatch(text) else '"' + text.replace('"', '\\"') + '"'


def _foreign(record: logging.LogRecord) -> bool:
    return record.name.partition(".")[0] in {"nats", "psycopg", "opentelemetry"}


def _traceback(record: logging.LogRecord) -> str:
    # Another library's traceback about a lost connection is no bug of ours to be read.
    if not record.exc_info or record.exc_info[1] is None or _foreign(record):
        return ""
    return _redacted(traceback_of(record.exc_info[1])[-MOST_TRACEBACK:])


def _redacted(text: str) -> str:
    for pattern, instead in _SECRET_PARTS:
        text = pattern.sub(instead, text)
    return text


def _clean(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
