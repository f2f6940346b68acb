"""Exceptions as text for the log, without the rows that they quote.

Postgres puts the failing row, payload and headers included, into an error's DETAIL, and the
statement into its CONTEXT and QUERY. The log gets the primary message and the SQLSTATE. What our
own errors and other libraries quote of such a text is cut off by ``without_rows``.

Whatever can be raised can be told: an exception that can't say what it is gets its class's name.
"""

import re
import traceback
from collections.abc import Iterator
from typing import Final

_MOST_LINKS: Final = 20
"""Causes, contexts and members of groups that are told; the others are left out."""

# A repr shows a line feed as two characters.
_ROWS: Final = re.compile(
    r"(?:\\n|\s)*(?:(?:DETAIL|QUERY|CONTEXT|STATEMENT):\s|Failing row contains).*", re.DOTALL
)
_CAUSE: Final = "\nThe above exception was the direct cause of the following exception:\n\n"
_CONTEXT: Final = "\nDuring handling of the above exception, another exception occurred:\n\n"


def without_rows(text: str) -> str:
    """Return ``text`` up to where Postgres quotes a row or a statement."""
    return _ROWS.sub("", text)


def text_of(error: BaseException) -> str:
    """Say what ``error`` is, on one line or more: its class and its message."""
    kind = type(error)
    name = kind.__qualname__
    if kind.__module__ not in ("builtins", "__main__"):
        name = f"{kind.__module__}.{name}"
    message = _message_of(error)
    return f"{name}: {message}" if message else name


def traceback_of(error: BaseException) -> str:
    """Return the traceback of ``error`` with its causes, the last one at the end."""
    return "".join(_parts(error, set()))


def _message_of(error: BaseException) -> str:
    # A driver's error has the parts of the server's message, in whatever language that is.
    diagnosis = getattr(error, "diag", None)
    primary = getattr(diagnosis, "message_primary", None)
    if isinstance(primary, str):
        return f"{primary} (SQLSTATE {getattr(error, 'sqlstate', None) or 'unknown'})"
    try:
        return without_rows(str(error))
    except Exception:  # noqa: BLE001 - the log must not fail for want of a text
        return "<no text>"


def _parts(error: BaseException, seen: set[int]) -> Iterator[str]:
    seen.add(id(error))
    cause, link = error.__cause__, _CAUSE
    if cause is None and not error.__suppress_context__:
        cause, link = error.__context__, _CONTEXT
    if cause is not None and id(cause) not in seen and len(seen) < _MOST_LINKS:
        yield from _parts(cause, seen)
        yield link
    if error.__traceback__ is not None:
        yield "Traceback (most recent call last):\n"
        yield from traceback.format_tb(error.__traceback__)
    yield f"{text_of(error)}\n"
    for note in getattr(error, "__notes__", ()):
        yield f"{without_rows(str(note))}\n"
    if isinstance(error, BaseExceptionGroup):
        for number, member in enumerate(error.exceptions, 1):
            if len(seen) >= _MOST_LINKS:
                yield f"  … and {len(error.exceptions) - number + 1} more\n"
                return
            yield f"  {number} of {len(error.exceptions)}:\n"
            for part in _parts(member, seen):
                yield "".join(f"    {line}\n" for line in part.splitlines())
