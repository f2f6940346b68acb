"""The kinds of values that settings have: how people write them, and what is refused.

Each kind is a type that pydantic reads from text (flag, environment, TOML) or from a Python value.
A refusal is a ValueError that goes on after the setting's name and value: "is not …: write …".
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, SecretStr

from relay.core import durations

_Number = TypeVar("_Number", int, float)

_SIZE: Final = re.compile(r"(?P<number>[0-9]{1,15}) ?(?P<unit>[a-zA-Z]*)")
_SIZE_UNITS: Final = {
    "GiB": 2**30,
    "MiB": 2**20,
    "KiB": 2**10,
    "GB": 10**9,
    "MB": 10**6,
    "kB": 10**3,
    "B": 1,
    "": 1,
}
_SCHEMA: Final = re.compile(r"[a-z_][a-z0-9_]{0,39}")
_STREAM: Final = re.compile(r"[^\s.*>/\\\x00-\x1f\x7f]{1,255}")
_TOKENS: Final = re.compile(r"[^\s.*>\x00-\x1f\x7f]+(?:\.[^\s.*>\x00-\x1f\x7f]+)*")
_PATTERN: Final = re.compile(r"(?:(?:[^\s.*>\x00-\x1f\x7f]+|\*)\.)*(?:[^\s.*>\x00-\x1f\x7f]+|\*|>)")
_URI: Final = ("postgresql://", "postgres://")
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})|%00")
_KEYWORDS: Final = re.compile(
    r"\s*(?:[a-z_]+\s*=\s*(?:'(?:[^'\\]|\\.)*'|(?:[^\s'\\]|\\.)*)(?:\s+|$))*", re.DOTALL
)
_DOMAIN: Final = re.compile(_TOKENS.pattern + r"\.?")
_ID_PREFIX: Final = re.compile(r"[!-9;-~]{1,63}:")
_HEADER_TOKEN: Final = re.compile(r"[!-~]{16,512}")
_SCHEMES: Final = ("nats", "tls")


@dataclass(frozen=True, slots=True)
class Written:
    """How people write a kind: its values as text, and the word for one of them in ``--help``."""

    text: Callable[[Any], str]
    word: str


def write_size(size: int) -> str:
    """Write a number of bytes in the largest binary unit that leaves a whole number."""
    for unit in ("GiB", "MiB", "KiB"):
        if size and size % _SIZE_UNITS[unit] == 0:
            return f"{size // _SIZE_UNITS[unit]}{unit}"
    return f"{size}B"


def between(
    low: _Number, high: _Number, text: Callable[[_Number], str] = str
) -> Callable[[_Number], _Number]:
    """Return a check that a number is within [``low``, ``high``]."""

    def check(value: _Number) -> _Number:
        if not low <= value <= high:
            raise ValueError(f"is out of bounds: from {text(low)} to {text(high)}")
        return value

    return check


def _seconds(value: object) -> float:
    if isinstance(value, str):
        return durations.parse(value)
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("is not a duration: write a number and a unit, such as 100ms")  # noqa: TRY004 - pydantic reports ValueError only
    durations.format(value)
    return float(value)


def _size(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    found = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None or found["unit"] not in _SIZE_UNITS:
        raise ValueError("is not a size: write a number and a unit, such as 512KiB or 8MiB")
    return int(found["number"]) * _SIZE_UNITS[found["unit"]]


def _items(value: object) -> object:
    return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value


def _server(number: int, text: str) -> str:
    # Nothing of the URL may stand in the fault: it can hold a password.
    url = text if "://" in text else f"nats://{text}"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or re.search(r"\s", url):
        raise ValueError(f"has no host in URL {number}: write nats://host:4222, commas between")
    if "@" in url:
        raise ValueError(
            f"has credentials in URL {number}: set nats_user and nats_password, or nats_token"
        )
    if parts.scheme not in _SCHEMES:
        raise ValueError(f"has an unknown scheme in URL {number}: use nats:// or tls://")
    return url


def _servers(urls: tuple[str, ...]) -> tuple[str, ...]:
    if not urls:
        raise ValueError("names no server: write nats://host:4222")
    return tuple(_server(number, url) for number, url in enumerate(urls, 1))


def _matching(pattern: re.Pattern[str], says: str) -> Callable[[str], str]:
    def check(value: str) -> str:
        if pattern.fullmatch(value) is None:
            raise ValueError(says)
        return value

    return check


def _schema(value: str) -> str:
    if _SCHEMA.fullmatch(value) is None or value.startswith("pg_"):
        raise ValueError(
            "is no schema name: use at most 40 of a-z, 0-9 and _, no digit first, no pg_ first"
        )
    return value


def _patterns(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if _PATTERN.fullmatch(value) is None:
            raise ValueError(f"has no valid subject in {value!r}: write orders.> or orders.*.paid")
    return values


def _secret(value: SecretStr) -> SecretStr:
    # A secret read from a file often ends in a line feed, which no server forgives.
    text = value.get_secret_value().rstrip("\r\n")
    if not text:
        raise ValueError("is empty: set it, or leave it out")
    return SecretStr(text)


def _header_token(value: SecretStr) -> SecretStr:
    if _HEADER_TOKEN.fullmatch(value.get_secret_value()) is None:
        raise ValueError(
            "is no good token: use 16 to 512 letters, digits and signs without spaces,"
            " such as `openssl rand -hex 24` prints"
        )
    return value


def at_home(path: Path) -> Path:
    """Put a home directory in the place of ``~`` or ``~user``.

    Raises:
        ValueError: there is no such user, or no home.
    """
    try:
        return path.expanduser()
    except RuntimeError:
        raise ValueError("begins with ~, but there is no such home: write the whole path") from None


def _conninfo(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if not (text.startswith(_URI) or _KEYWORDS.fullmatch(text)):
        raise ValueError(
            "is no connection string: write postgresql://user@host/database"
            " or host=... dbname=... user=..."
        )
    # libpq quotes what it stumbles over, and that may be a part of the password.
    authority, _, rest = text.partition("://")[2].partition("/")
    if text.startswith(_URI) and (
        _BAD_ESCAPE.search(text) or ("@" in rest and "@" not in authority)
    ):
        raise ValueError("is a URI with a bare % or /: write %25 or %2F for those in a password")
    return value


def _text(value: str) -> str:
    if not value.strip():
        raise ValueError("is empty: set it, or leave it out")
    return value


def _message_id_prefix(value: str) -> str:
    if value and (_ID_PREFIX.fullmatch(value) is None or value.startswith("relay-")):
        raise ValueError(
            "is no prefix of message ids: write printable ASCII without spaces that ends in its"
            " only colon, at most 64 bytes, such as shop:, and does not begin with relay-"
        )
    return value


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _join(values: Iterable[str]) -> str:
    return ",".join(values)


Seconds = Annotated[float, BeforeValidator(_seconds), Written(durations.format, "DURATION")]
"""Float seconds, written ``100ms``."""

Size = Annotated[int, BeforeValidator(_size), Written(write_size, "SIZE")]
"""Bytes, written ``8MiB``."""

Switch = Annotated[bool, Written(lambda on: "on" if on else "off", "on|off")]

Secret = Annotated[SecretStr, AfterValidator(_secret), Written(lambda _: "", "SECRET")]

HttpToken = Annotated[Secret, AfterValidator(_header_token)]
"""A secret that can stand in an HTTP header and can't be guessed."""

Conninfo = Annotated[
    SecretStr,
    AfterValidator(_secret),
    AfterValidator(_conninfo),
    Written(lambda _: "", "DSN"),
]
"""A connection string or URI of libpq, without a look at its keywords."""

Text = Annotated[str, AfterValidator(_text), Written(str, "TEXT")]

File = Annotated[Path, AfterValidator(at_home), Written(str, "FILE")]

Servers = Annotated[
    tuple[str, ...], BeforeValidator(_items), AfterValidator(_servers), Written(_join, "URL,...")
]
"""NATS URLs with their scheme and without credentials."""

Subjects = Annotated[
    tuple[str, ...],
    BeforeValidator(_items),
    AfterValidator(_patterns),
    Written(_join, "SUBJECT,..."),
]
"""Subjects in which wildcards are allowed."""

SchemaName = Annotated[str, AfterValidator(_schema), Written(str, "NAME")]

StreamName = Annotated[
    str,
    AfterValidator(
        _matching(_STREAM, "is no stream name: leave out spaces and . * > / \\, and keep to 255")
    ),
    Written(str, "NAME"),
]

Domain = Annotated[
    str,
    AfterValidator(
        _matching(_DOMAIN, "is no JetStream domain: write its name, or its API, as $JS.hub.API")
    ),
    Written(str, "DOMAIN|PREFIX"),
]
"""A JetStream domain, or the subject prefix of its API."""

MessageIdPrefix = Annotated[
    str,
    AfterValidator(_message_id_prefix),
    Written(str, "PREFIX"),
]
"""What stands before message ids; empty, or ends in its only colon."""

InboxPrefix = Annotated[
    str,
    AfterValidator(
        _matching(_TOKENS, "is no subject prefix: write tokens without wildcards, such as _INBOX")
    ),
    Written(str, "PREFIX"),
]

LogFormat = Annotated[
    Literal["auto", "text", "json"], BeforeValidator(_lower), Written(str, "auto|text|json")
]

OnDead = Annotated[Literal["skip", "block"], BeforeValidator(_lower), Written(str, "skip|block")]

LogLevel = Annotated[
    Literal["debug", "info", "warning", "error"],
    BeforeValidator(_lower),
    Written(str, "debug|info|warning|error"),
]
