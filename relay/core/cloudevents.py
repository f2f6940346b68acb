"""CloudEvents in binary mode: headers that make a message one, beside the payload as it is.

    ce-specversion  1.0                    ce-id       the event's id, in a replay as well
    ce-source       as it is set           ce-time     when the event was written
    ce-type         by its template        ce-subject  by its template; left out without a key
    ce-datacontenttype                     the producer's Content-Type, if there is one

The producer's own ``ce-…`` headers win, each by itself: it knows more of the event than a template
does. A message whose Content-Type is application/cloudevents is a CloudEvent in structured mode
already, and stays as it is.

Source: github.com/cloudevents/spec, ``cloudevents/bindings/nats-protocol-binding.md``
"""

import re
from collections.abc import Callable, Sequence
from datetime import UTC
from typing import Final
from urllib.parse import quote

from relay.core.event import Event

_SOURCE: Final = re.compile(r"(?:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+")
_TEMPLATE: Final = re.compile(r"(?:[^{}\x00-\x1f\x7f-\x9f]|\{subject\}|\{key\})+")
_NAMES: Final = re.compile(r"(\{subject\}|\{key\})")
_BARE: Final = "".join(map(chr, range(0x21, 0x7F))).translate({ord('"'): None, ord("%"): None})
"""All that is not percent-encoded in a header's value."""


def source(text: str) -> str:
    """Return ``text`` if it can be a ce-source. Raises ValueError."""
    if _SOURCE.fullmatch(text) is None:
        raise ValueError(
            "is no URI reference: write one such as /shop/orders or https://shop.example/orders,"
            " with other characters as %XX"
        )
    return text


def template(text: str) -> str:
    """Return ``text`` if it is a template. Raises ValueError."""
    if _TEMPLATE.fullmatch(text) is None:
        raise ValueError("is no template: write text with {subject} or {key}, and no other braces")
    return text


def binary_mode(source: str, type_: str, subject: str) -> Callable[[Event], Event]:
    """Return what adds the headers; ``type_`` and ``subject`` are templates."""
    fixed = {"ce-specversion": "1.0", "ce-source": _encoded(source)}
    type_parts, subject_parts = _NAMES.split(type_), _NAMES.split(subject)

    def add(event: Event) -> Event:
        own = event.headers or {}
        given = {name.lower(): value for name, value in own.items()}
        content_type = str(given.get("content-type", ""))
        if content_type.lower().startswith("application/cloudevents"):
            return event
        at = event.created_at.astimezone(UTC).replace(tzinfo=None)
        headers = {
            **fixed,
            "ce-id": event.event_id,
            "ce-type": _filled(type_parts, event),
            "ce-time": f"{at.isoformat()}Z",
            "ce-subject": _filled(subject_parts, event),
            "ce-datacontenttype": _encoded(content_type),
        }
        made = {name: value for name, value in headers.items() if value and name not in given}
        return event._replace(headers={**own, **made})

    return add


def _filled(parts: Sequence[str], event: Event) -> str:
    """Fill a template in; "" if it names a key and there is none."""
    if event.key is None and "{key}" in parts:
        return ""
    values = {"{subject}": event.subject, "{key}": event.key or ""}
    return _encoded("".join([values.get(part, part) for part in parts]))


def _encoded(text: str) -> str:
    return quote(text, safe=_BARE, errors="replace")
