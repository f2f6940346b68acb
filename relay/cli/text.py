"""Texts for a terminal: nothing in them can steer it, and times are as people write them.

Errors, subjects, keys, headers and payloads were written by others. An escape sequence or a mark
that turns the direction of reading must not move the cursor, hide a row or forge one.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Final

import typer

from relay.core import durations

_PER_LINE: Final = 16
_DEEPEST: Final = 30
"""Levels that are indented: else a megabyte of brackets would have terabytes of blanks."""

_OPENING: Final = ("[", "{")
_CLOSING: Final = ("]", "}")
_JSON_PART: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{},:]|[^\s\[\]{},:"]+', re.DOTALL)


def plain(text: str) -> str:
    """Return ``text`` on one line, with what is not printable written as escapes."""
    if text.isprintable():
        return text
    return "".join(
        mark if mark.isprintable() else mark.encode("unicode_escape").decode() for mark in text
    )


def plain_lines(text: str) -> str:
    """As ``plain``, but line feeds and tabs stay."""
    return "".join(part if part in "\n\t" else plain(part) for part in re.split(r"([\n\t])", text))


def counted(count: int, noun: str) -> str:
    """Write a number with its noun: ``1 event``, ``2 events``."""
    return f"{count} {noun}{'s' * (count != 1)}"


def instant(at: datetime | str | None) -> str:
    """Write an instant: UTC, to the second; other text as it is; empty for None."""
    if isinstance(at, str):
        with suppress(ValueError):
            at = datetime.fromisoformat(at)
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}" if isinstance(at, datetime) else at or ""


def seconds(text: str) -> float:
    """Read a duration."""
    try:
        return durations.parse(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} {error}") from None


def moment(text: str) -> datetime:
    """Read an instant: ISO 8601, UTC unless it says otherwise, or how long ago."""
    if re.fullmatch(r"\d+(\.\d+)? ?[a-zA-Zµμ]+", text):
        return datetime.now(UTC) - timedelta(seconds=seconds(text))
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is no instant: write 2026-03-01T10:00:00Z, or how long ago, such as 10min"
        ) from None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def hexdump(content: bytes) -> Iterator[str]:
    """Yield lines of offset, sixteen bytes in hex, and the same as ASCII."""
    for offset in range(0, len(content), _PER_LINE):
        part = content[offset : offset + _PER_LINE]
        marks = part.decode("ascii", errors="replace")
        shown = "".join(mark if mark.isascii() and mark.isprintable() else "." for mark in marks)
        yield f"{offset:08x}  {part.hex(' '):<{_PER_LINE * 3}} {shown}"


def rfc3339(at: datetime | str | None) -> str | None:
    """Write an instant for programs; text as it is."""
    return at.isoformat() if isinstance(at, datetime) else at


def laid_out(json: str) -> str:
    """Lay out JSON over lines; every number, string and name stays as it was written."""
    parts: list[str] = []
    before, depth = "", 0
    for part in _JSON_PART.findall(json):
        depth -= part in _CLOSING
        if before == "," or (before in _OPENING) != (part in _CLOSING):
            parts.append("\n" + "  " * min(depth, _DEEPEST))
        parts.append(f"{part} " if part == ":" else part)
        depth += part in _OPENING
        before = part
    return "".join(parts)
