"""Texts for a terminal: nothing in them can steer it, and times are written as people do.

Errors, subjects, keys, headers and payloads were written by others. An escape sequence or a mark
that turns the direction of reading must not move the cursor, hide a row or forge one.
"""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

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


def instant(at: datetime | str | None) -> str:
    """Write an instant: UTC, to the second; text as it is; empty for None."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}" if isinstance(at, datetime) else at or ""


def lasting(seconds: float) -> str:
    """Write how long something lasts: ``12ms``, ``1.5s``, ``3min 53s``, ``2d 4h``."""
    if seconds < 1:
        return durations.format(round(seconds, 3))
    if round(seconds, 1) < 60:  # noqa: PLR2004 - a minute
        return f"{round(seconds, 1):g}s"
    left, counts = round(seconds), list[tuple[int, str]]()
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count or counts:
            counts.append((count, unit))
    return " ".join(f"{count}{unit}" for count, unit in counts[:2] if count)


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
