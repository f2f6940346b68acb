"""Where to listen: ``127.0.0.1:8080``, ``[::1]:8080``, ``relay.example:8080``, or ``off``."""

import re
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Annotated, Final

from pydantic import BeforeValidator

from relay.settings.kinds import Written

_MOST_PORT: Final = 65_535
_ADDRESS: Final = re.compile(
    r"(?:\[(?P<six>[0-9A-Fa-f:.]{2,45})\]|(?P<host>[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?))"
    r":(?P<port>[0-9]{1,5})"
)
_REMEDY: Final = "write 127.0.0.1:8080, [::1]:8080, 0.0.0.0:8080 for all interfaces, or off"


@dataclass(frozen=True, slots=True)
class Address:
    """A host and a TCP port; ``host`` is a name or an IP address, without brackets.

    Port 0 lets the system choose one.
    """

    host: str
    port: int

    def __str__(self) -> str:
        """Write it as it stands in a URL."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _address(value: object) -> Address | None:
    if value is None or value is False or isinstance(value, Address):
        return value or None
    if not isinstance(value, str):
        raise ValueError(f"is no address: {_REMEDY}")  # noqa: TRY004 - pydantic reports ValueError only
    text = value.strip()
    if text.lower() == "off":
        return None
    found = _ADDRESS.fullmatch(text)
    if found is None:
        raise ValueError(f"is no address: {_REMEDY}")
    if int(found["port"]) > _MOST_PORT:
        raise ValueError(f"has a port that is out of bounds: from 0 to {_MOST_PORT}")
    if found["six"]:
        try:
            IPv6Address(found["six"])
        except ValueError:
            raise ValueError(f"is no address: {_REMEDY}") from None
    return Address(found["six"] or found["host"], int(found["port"]))


def _text(value: Address | None) -> str:
    return "off" if value is None else str(value)


Listen = Annotated[Address | None, BeforeValidator(_address), Written(_text, "HOST:PORT|off")]
"""An address to listen on; None if it is off."""
