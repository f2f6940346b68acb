"""Durations as people write them: ``100ms``, ``5s``, ``15min``; as float seconds inside.

A number without a unit is refused (but for ``0``), for nobody can see whether ``RETENTION=15``
means seconds or minutes. Arithmetic is decimal: ``100ms`` is the float nearest to 0.1, exactly.
"""

import re
from decimal import Decimal
from typing import Final

LONGEST: Final = 10_000 * 86_400.0
"""Nothing longer is taken, in seconds: about 27 years, far beyond any wait that is meant."""

_UNITS: Final = {
    "d": Decimal(86_400),
    "h": Decimal(3_600),
    "min": Decimal(60),
    "s": Decimal(1),
    "ms": Decimal("0.001"),
    "us": Decimal("0.000001"),
}
_EXAMPLES: Final = "write a number and a unit (us, ms, s, min, h, d), such as 100ms, 5s or 15min"
_TEXT: Final = re.compile(r"(?P<number>[0-9]{1,20}(?:\.[0-9]{1,400})?)[ ]?(?P<unit>[a-zA-Zµμ]*)")


def parse(text: str) -> float:
    """Read a duration in seconds.

    Raises:
        ValueError: one line that says what was wrong and how to write it.
    """
    found = _TEXT.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"is not a duration: {_EXAMPLES}")
    number, unit = found["number"], found["unit"].replace("µ", "u").replace("μ", "u")
    if not unit:
        if number == "0":
            return 0.0
        raise ValueError(f"has no unit: write {number}ms, {number}s or {number}min")
    if unit == "m":
        raise ValueError(f"has the unit m, which could be two: write {number}min or {number}ms")
    if unit not in _UNITS:
        raise ValueError(f"has the unknown unit {unit}: {_EXAMPLES}")
    seconds = float(Decimal(number) * _UNITS[unit])
    if seconds > LONGEST:
        raise ValueError(f"is too long: at most {format(LONGEST)}")
    return seconds


def format(seconds: float) -> str:  # noqa: A001 - durations.format reads as str.format does
    """Write a duration in the largest unit that leaves a whole number, else in decimal seconds.

    ``parse`` of the result is ``seconds`` again, to the last bit.

    Raises:
        ValueError: ``seconds`` is negative, not a number, or longer than ``LONGEST``.
    """
    if not 0 <= seconds <= LONGEST:
        raise ValueError(f"{seconds!r} s is no duration between 0 and {LONGEST:g} s")
    exact = Decimal(repr(float(seconds)))
    if not exact:
        return "0s"
    for unit, size in _UNITS.items():
        if exact % size == 0:
            return f"{exact / size:.0f}{unit}"
    return f"{exact:f}s"


def lasting(seconds: float) -> str:
    """Write how long something lasts: ``12ms``, ``1.5s``, ``3min 53s``, ``2d 4h``."""
    if seconds < 1:
        return format(round(seconds, 3))
    if round(seconds, 1) < 60:  # noqa: PLR2004 - a minute
        return f"{round(seconds, 1):g}s"
    left, counts = round(seconds), list[tuple[int, str]]()
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count or counts:
            counts.append((count, unit))
    return " ".join(f"{count}{unit}" for count, unit in counts[:2] if count)
