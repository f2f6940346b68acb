"""How a log record becomes a line that is safe to write: text for a terminal, JSON elsewhere.

    control characters     escaped: no value can forge a line or drive a terminal
    long values            cut at 256 characters
    bytes                  their length alone: a payload never reaches a log
    passwords in URLs and connection strings, and extras named like secrets     ***
    rows and statements that Postgres quotes in its errors     cut off

Postgres puts the failing row, payload and headers included, into an error's DETAIL, and the
statement into its CONTEXT and QUERY. The log gets the primary message and the SQLSTATE. Whatever
can be raised can be logged: an exception without a text is its class's name.
"""

import json
import logging
import math
import re
import traceback
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

_MOST_VALUE: Final = 256
_MOST_MESSAGE: Final = 1024
_MOST_TRACEBACK: Final = 16_384
"""Characters that are written."""

_MOST_LINKS: Final = 20
"""Causes, contexts and members of groups that a traceback shows."""

_STANDARD: Final = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}
_OURS: Final = ("ts", "level", "logger", "event", "traceback")
_PLAIN: Final = re.compile(r'[^\s"=]+')
_SECRET_NAME: Final = re.compile(
    r"password|passwd|token|secret|seed|dsn|conninfo|^payload|^headers$|tracestate|baggage"
)
_SECRET_PARTS: Final = (
    (re.compile(r"://[^/\s]*@"), "://***@"),
    (re.compile(r"(password\s*=\s*)('(?:[^'\\]|\\.)*'|\S+)", re.IGNORECASE), r"\1***"),
)
# A repr shows a line feed as two characters.
_ROWS: Final = re.compile(
    r"(?:\\n|\s)*(?:(?:DETAIL|QUERY|CONTEXT|STATEMENT):\s|Failing row contains).*", re.DOTALL
)
_CAUSE: Final = "\nThe above exception was the direct cause of the following exception:\n\n"
_CONTEXT: Final = "\nDuring handling of the above exception, another exception occurred:\n\n"


class TextLines(logging.Formatter):
    """``2026-01-31T10:00:00.000Z INFO relay leading epoch=3``; a traceback goes below its line."""

    def format(self, record: logging.LogRecord) -> str:
        """Write the record as one line, and its traceback, if any, as further ones."""
        parts = [_instant(record), record.levelname, record.name, _escaped(_message(record))]
        parts += [f"{_escaped(name)}={_quoted(value)}" for name, value in _extras(record).items()]
        lines = [" ".join(parts), *(_escaped(line) for line in _traceback(record).splitlines())]
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
        if text := _traceback(record):
            fields["traceback"] = text
        return json.dumps(fields)


def _instant(record: logging.LogRecord) -> str:
    at = datetime.fromtimestamp(record.created, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _message(record: logging.LogRecord) -> str:
    text = record.getMessage()
    if record.name == "asyncio":
        # Its further lines are the repr of a task or a transport, with an exception's whole text.
        text = text.partition("\n")[0]
    return _safe(text, _MOST_MESSAGE)


def _extras(record: logging.LogRecord) -> Mapping[str, str | float | bool | None]:
    extras = {
        name: "***" if _SECRET_NAME.search(name.lower()) else _value(value)
        for name, value in vars(record).items()
        if name not in _STANDARD
    }
    if record.exc_info and record.exc_info[1] and _is_foreign(record):
        extras["error"] = _value(record.exc_info[1])
    return extras


def _value(value: object) -> str | float | bool | None:
    match value:
        case None | bool() | int():
            return value
        case float():
            return round(value, 6) if math.isfinite(value) else str(value)
        case bytes() | bytearray() | memoryview():
            return f"{len(value)} bytes"
        case datetime():
            return value.isoformat()
        case BaseException():
            return _safe(text_of(value), _MOST_VALUE)
        case _:
            return _safe(str(value), _MOST_VALUE)


def _quoted(value: str | float | bool | None) -> str:
    if not isinstance(value, str):
        return json.dumps(value)
    text = _escaped(value)
    return text if _PLAIN.fullmatch(text) else '"' + text.replace('"', '\\"') + '"'


def _safe(text: str, most: int) -> str:
    text = _redacted(without_rows(text))
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _redacted(text: str) -> str:
    for pattern, instead in _SECRET_PARTS:
        text = pattern.sub(instead, text)
    return text


def _escaped(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def without_rows(text: str) -> str:
    """Return ``text`` up to where Postgres quotes a row or a statement."""
    return _ROWS.sub("", text)


def text_of(error: BaseException) -> str:
    """Say what ``error`` is, on one line or more: its class and its message."""
    kind = type(error)
    is_bare = kind.__module__ in {"builtins", "__main__"}
    name = kind.__qualname__ if is_bare else f"{kind.__module__}.{kind.__qualname__}"
    # A driver's error has the parts of the server's message, in whatever language that is.
    message = getattr(getattr(error, "diag", None), "message_primary", None)
    if isinstance(message, str):
        message += f" (SQLSTATE {getattr(error, 'sqlstate', None) or 'unknown'})"
    else:
        try:
            message = without_rows(str(error))
        except Exception:  # noqa: BLE001 - the log must not fail for want of a text
            message = "<no text>"
    return f"{name}: {message}" if message else name


def _is_foreign(record: logging.LogRecord) -> bool:
    return record.name.partition(".")[0] in {"nats", "psycopg", "opentelemetry"}


def _traceback(record: logging.LogRecord) -> str:
    # Another library's traceback about a lost connection is no bug of ours to be read.
    if not record.exc_info or record.exc_info[1] is None or _is_foreign(record):
        return ""
    return _redacted("".join(_parts(record.exc_info[1], set()))[-_MOST_TRACEBACK:])


def _parts(error: BaseException, shown: set[int]) -> Iterator[str]:
    """Yield the traceback of ``error`` with its causes, the last one at the end."""
    shown.add(id(error))
    cause, link = error.__cause__, _CAUSE
    if cause is None and not error.__suppress_context__:
        cause, link = error.__context__, _CONTEXT
    if cause is not None and id(cause) not in shown and len(shown) < _MOST_LINKS:
        yield from _parts(cause, shown)
        yield link
    if error.__traceback__ is not None:
        yield "Traceback (most recent call last):\n"
        yield from traceback.format_tb(error.__traceback__)
    yield f"{text_of(error)}\n"
    for note in getattr(error, "__notes__", ()):
        yield f"{without_rows(str(note))}\n"
    if isinstance(error, BaseExceptionGroup):
        for number, member in enumerate(error.exceptions, 1):
            if len(shown) >= _MOST_LINKS:
                yield f"  … and {len(error.exceptions) - number + 1} more\n"
                return
            yield f"  {number} of {len(error.exceptions)}:\n"
            for part in _parts(member, shown):
                yield "".join(f"    {line}\n" for line in part.splitlines())
