"""Log lines: one line a fact, text for a terminal, JSON for everything else.

Code logs a fixed message and its figures: ``log.info("leading", extra={"epoch": 3})``. Here the
extras become ``key=value`` or fields of one JSON object, and whatever passes through is made safe:

    control characters     escaped: no value can forge a line or drive a terminal
    long values            cut at 256 characters
    bytes                  their length alone: a payload never reaches a log
    passwords in URLs and connection strings, and extras named like secrets     ***

A warning or error that repeats is written once a second at most, its last line with the count of
those left out (``repeated=n``): see ``repeats``. A line that is written within a span of
OpenTelemetry carries its ``trace_id`` and ``span_id``; one about an event, its producer's. Nothing
here can fail the code that logs.
"""

import json
import logging
import math
import re
import sys
import threading
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal, TextIO

from relay.telemetry.repeats import REPEAT_EVERY, Repeats

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
    r"password|passwd|token|secret|seed|dsn|conninfo|^payload|^headers$"
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
    as_text = log_format == "text" or (log_format == "auto" and out.isatty())
    handler = Lines(out)
    handler.setFormatter(TextLines() if as_text else JsonLines())
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
    return _cut(_redacted(record.getMessage()), MOST_MESSAGE)


def _extras(record: logging.LogRecord) -> Mapping[str, str | float | bool | None]:
    found = {
        name: "***" if _SECRET_NAME.search(name.lower()) else _value(value)
        for name, value in vars(record).items()
        if name not in _STANDARD
    }
    if record.exc_info and record.exc_info[1] and _foreign(record):
        error = record.exc_info[1]
        found["error"] = _value(f"{type(error).__name__}: {error}")
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
        case _:
            return _cut(_redacted(str(value)), MOST_VALUE)


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
    told = "".join(traceback.format_exception(record.exc_info[1]))
    return _redacted(told[-MOST_TRACEBACK:])


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
