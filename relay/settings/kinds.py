"""The kinds of values that settings have: how people write them, and what is refused.

Each kind is a type that pydantic reads from text (flag, environment, TOML) or from a Python value.
A refusal is a ValueError that goes on after the setting's name and value: "is not …: write …".
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import IPv6Address
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, SecretStr

from relay.core import cloudevents, durations

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
_PART: Final = r"[^\s.*>\x00-\x1f\x7f]+"
_PATTERN: Final = re.compile(rf"(?:(?:{_PART}|\*)\.)*(?:{_PART}|\*|>)")
_URI: Final = ("postgresql://", "postgres://")
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})|%00")
_KEYWORDS: Final = re.compile(
    r"\s*(?:[a-z_]+\s*=\s*(?:'(?:[^'\\]|\\.)*'|(?:[^\s'\\]|\\.)*)(?:\s+|$))*", re.DOTALL
)
_HEADER_TOKEN: Final = re.compile(r"[!-~]{16,512}")
_ADDRESS: Final = re.compile(
    r"(?:\[(?P<six>[0-9A-Fa-f:.]{2,45})\]|(?P<host>[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?))"
    r":(?P<port>[0-9]{1,5})"
)
_NO_ADDRESS: Final = (
    "is no address: write 127.0.0.1:8080, [::1]:8080, 0.0.0.0:8080 for all interfaces, or off"
)
_MOST_PORT: Final = 65_535
_EMPTY: Final = "is empty: set it, or leave it out"


@dataclass(frozen=True, slots=True)
class Word:
    """What stands for a value of this kind in ``--help``."""

    text: str


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: a name or an IP address without brackets, and a TCP port.

    Port 0 lets the system choose one.
    """

    host: str
    port: int

    def __str__(self) -> str:
        """Write it as it stands in a URL."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def write_size(size: int) -> str:
    """Write a number of bytes in the largest binary unit that leaves a whole number."""
    for unit in ("GiB", "MiB", "KiB"):
        if size and size % _SIZE_UNITS[unit] == 0:
            return f"{size // _SIZE_UNITS[unit]}{unit}"
    return f"{size}B"


def write(value: object, word: str) -> str:
    """Write a default, whose kind has this word, as people write it."""
    match value:
        case bool():
            return "on" if value else "off"
        case float():
            return durations.format(value)
        case int() if word == "SIZE":
            return write_size(value)
        case tuple():
            return ",".join(value)
        case _:
            return "" if value is None else str(value)


def between(low: float, high: float, text: Callable[[Any], str] = str) -> AfterValidator:
    """Refuse a number outside of [``low``, ``high``]; ``text`` writes the bounds."""

    def check(value: float) -> float:
        if not low <= value <= high:
            raise ValueError(f"is out of bounds: from {text(low)} to {text(high)}")
        return value

    return AfterValidator(check)


def at_home(path: Path) -> Path:
    """Put a home directory in the place of ``~`` or ``~user``.

    Raises:
        ValueError: there is no such user, or no home.
    """
    try:
        return path.expanduser()
    except RuntimeError:
        raise ValueError("begins with ~, but there is no such home: write the whole path") from None


def _matching(pattern: str, fault: str) -> AfterValidator:
    compiled = re.compile(pattern)

    def check(value: str) -> str:
        if compiled.fullmatch(value) is None:
            raise ValueError(fault)
        return value

    return AfterValidator(check)


def _seconds(value: object) -> float:
    if isinstance(value, str):
        return durations.parse(value)
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("is not a duration: write a number and a unit, such as 100ms")  # noqa: TRY004 - pydantic reports ValueError only
    durations.format(value)
    return float(value)


def _whole(value: object) -> object:
    if isinstance(value, bool):  # to pydantic true is 1
        raise ValueError("is not a whole number: write digits only")  # noqa: TRY004 - pydantic reports ValueError only
    return value


def _size(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    found = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None or found["unit"] not in _SIZE_UNITS:
        raise ValueError("is not a size: write a number and a unit, such as 512KiB or 8MiB")
    return int(found["number"]) * _SIZE_UNITS[found["unit"]]


def _items(value: object) -> object:
    return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _servers(urls: tuple[str, ...]) -> tuple[str, ...]:
    if not urls:
        raise ValueError("names no server: write nats://host:4222")
    return tuple(_server(number, url) for number, url in enumerate(urls, 1))


def _server(number: int, text: str) -> str:
    # Nothing of the URL may stand in the fault: it can hold a password.
    url = text if "://" in text else f"nats://{text}"
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        host = None
    if not host or re.search(r"\s", url):
        raise ValueError(f"has no host in URL {number}: write nats://host:4222, commas between")
    try:
        usable = parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ValueError(
            f"has no port from 1 to {_MOST_PORT} in URL {number}: write nats://host:4222"
        )
    if "@" in url:
        raise ValueError(
            f"has credentials in URL {number}: set nats_user and nats_password, or nats_token"
        )
    if parts.scheme not in ("nats", "tls"):
        raise ValueError(f"has an unknown scheme in URL {number}: use nats:// or tls://")
    return url


def _patterns(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if _PATTERN.fullmatch(value) is None:
            raise ValueError(f"has no valid subject in {value!r}: write orders.> or orders.*.paid")
    return values


def _secret(value: SecretStr) -> SecretStr:
    # A secret read from a file often ends in a line feed, which no server forgives.
    text = value.get_secret_value().rstrip("\r\n")
    if not text:
        raise ValueError(_EMPTY)
    return SecretStr(text)


def _header_token(value: SecretStr) -> SecretStr:
    if _HEADER_TOKEN.fullmatch(value.get_secret_value()) is None:
        raise ValueError(
            "is no good token: use 16 to 512 letters, digits and signs without spaces,"
            " such as `openssl rand -hex 24` prints"
        )
    return value


def _conninfo(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if not (text.startswith(_URI) or _KEYWORDS.fullmatch(text)):
        raise ValueError(
            "is no connection string: write postgresql://user@host/database"
            " or host=... dbname=... user=..."
        )
    # libpq quotes the part that it can't read, and that may be a part of the password.
    authority, _, rest = text.partition("://")[2].partition("/")
    if text.startswith(_URI) and (
        _BAD_ESCAPE.search(text) or ("@" in rest and "@" not in authority)
    ):
        raise ValueError("is a URI with a bare % or /: write %25 or %2F for those in a password")
    return value


def _address(value: object) -> Address | None:
    if value is None or value is False or isinstance(value, Address):
        return value or None
    text = value.strip() if isinstance(value, str) else ""
    if text.lower() == "off":
        return None
    found = _ADDRESS.fullmatch(text)
    if found is None:
        raise ValueError(_NO_ADDRESS)
    if int(found["port"]) > _MOST_PORT:
        raise ValueError(f"has a port that is out of bounds: from 0 to {_MOST_PORT}")
    if found["six"]:
        try:
            IPv6Address(found["six"])
        except ValueError:
            raise ValueError(_NO_ADDRESS) from None
    return Address(found["six"] or found["host"], int(found["port"]))


Seconds = Annotated[float, BeforeValidator(_seconds), Word("DURATION")]
"""Float seconds, written ``100ms``."""

Count = Annotated[int, BeforeValidator(_whole)]
Size = Annotated[int, BeforeValidator(_size), Word("SIZE")]
"""Bytes, written ``8MiB``."""

Switch = Annotated[bool, Word("on|off")]

Secret = Annotated[SecretStr, AfterValidator(_secret), Word("SECRET")]

HttpToken = Annotated[Secret, AfterValidator(_header_token)]
"""A secret that can stand in an HTTP header and can't be guessed."""

Conninfo = Annotated[SecretStr, AfterValidator(_secret), AfterValidator(_conninfo), Word("DSN")]
"""A connection string or URI of libpq; its keywords are not looked at."""

Text = Annotated[str, _matching(r"(?s:.*\S.*)", _EMPTY), Word("TEXT")]

File = Annotated[Path, AfterValidator(at_home), Word("FILE")]

Servers = Annotated[
    tuple[str, ...], BeforeValidator(_items), AfterValidator(_servers), Word("URL,...")
]
"""NATS URLs with their scheme and without credentials."""

Subjects = Annotated[
    tuple[str, ...], BeforeValidator(_items), AfterValidator(_patterns), Word("SUBJECT,...")
]
"""Subjects in which wildcards are allowed."""

SchemaName = Annotated[
    str,
    _matching(
        r"(?!pg_)[a-z_][a-z0-9_]{0,39}",
        "is no schema name: use at most 40 of a-z, 0-9 and _, no digit first, no pg_ first",
    ),
    Word("NAME"),
]

StreamName = Annotated[
    str,
    _matching(
        r"[^\s.*>/\\\x00-\x1f\x7f]{1,255}",
        "is no stream name: leave out spaces and . * > / \\, and keep to 255",
    ),
    Word("NAME"),
]

Domain = Annotated[
    str,
    _matching(
        rf"{_PART}(?:\.{_PART})*\.?",
        "is no JetStream domain: write its name, or its API, as $JS.hub.API",
    ),
    Word("DOMAIN|PREFIX"),
]
"""A JetStream domain, or the subject prefix of its API."""

MessageIdPrefix = Annotated[
    str,
    _matching(
        r"(?!relay-)[!-9;-~]{1,63}:|",
        "is no prefix of message ids: write printable ASCII without spaces that ends in its"
        " only colon, at most 64 bytes, such as shop:, and does not begin with relay-",
    ),
    Word("PREFIX"),
]

Source = Annotated[str, AfterValidator(cloudevents.source), Word("URI")]

Template = Annotated[str, AfterValidator(cloudevents.template), Word("TEMPLATE")]

InboxPrefix = Annotated[
    str,
    _matching(
        rf"{_PART}(?:\.{_PART})*",
        "is no subject prefix: write tokens without wildcards, such as _INBOX",
    ),
    Word("PREFIX"),
]

Listen = Annotated[Address | None, BeforeValidator(_address), Word("HOST:PORT|off")]
"""An address to listen on; None if it is off."""

LogFormat = Annotated[Literal["auto", "text", "json"], BeforeValidator(_lower)]

OnDead = Annotated[Literal["skip", "block"], BeforeValidator(_lower)]
Repair = Annotated[Literal["auto", "report", "off"], BeforeValidator(_lower)]

LogLevel = Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)]
