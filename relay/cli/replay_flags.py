"""The flags by which ``relay replay`` is told which events are meant."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import typer

from relay.cli.deciding import KEY, SUBJECT, filter_flag
from relay.cli.text import moment

if TYPE_CHECKING:
    from relay.postgres.selection import Selection

_IDS: Final = re.compile(r"(\d{1,18})?(-)?(\d{1,18})?")
_UUID: Final = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_OWN_ID: Final = re.compile(rf"(?:relay-)?({_UUID})(?:-r\d+)?(?:-\d+)?")


def _ids(text: str) -> tuple[int | None, int | None]:
    found = _IDS.fullmatch(text)
    first, dash, last = found.groups() if found else (None, None, None)
    low = None if first is None else int(first)
    high = low if not dash else None if last is None else int(last)
    if (low is None and high is None) or (low is not None and high is not None and low > high):
        raise typer.BadParameter(f"{text!r} is no range of ids: write 10-20, 10- or -20, or 10")
    return low, high


def rate(text: str) -> float:
    """Read events a second."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise typer.BadParameter(f"{text!r} is no rate: say how many events a second, above 0")
    return number


FILTERS: Final = (
    filter_flag(
        "ids", str, "FIRST-LAST", "With these ids of the outbox; one side is enough.", _ids
    ),
    filter_flag(
        "since", str, "TIME", "Written then or later: an instant, or how long ago.", moment
    ),
    filter_flag("until", str, "TIME", "Written before that: the same.", moment),
    SUBJECT,
    KEY,
    filter_flag(
        "message_id", list[str], "ID", "With this Nats-Msg-Id; may be given more than once."
    ),
)


def selection_of(filters: Mapping[str, Any], prefix: str) -> "Selection":
    """Read the filters; a message id of the relay's own making names an event by its UUID."""
    from relay.postgres.selection import Selection

    given = dict(filters)
    low, high = given.pop("ids", (None, None))
    names = [each.removeprefix(prefix) for each in given.pop("message_id", None) or ()]
    own = {name: found[1] for name in names if (found := _OWN_ID.fullmatch(name.lower()))}
    keys = [name for name in names if name not in own]
    return Selection(
        from_id=low, to_id=high, event_ids=list(own.values()), idempotency_keys=keys, **given
    )
