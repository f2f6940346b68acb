"""One parked event in words: as a row of a table, and as JSON."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from relay.cli.text import instant, plain, rfc3339

if TYPE_CHECKING:
    from rich.table import Table

    from relay.postgres.operator import ParkedEvent

GONE = "its row in the outbox is gone"

_INSTANTS = ("created_at", "first_refused_at", "last_refused_at", "next_attempt_at", "dead_at")


def as_json(event: "ParkedEvent") -> dict[str, Any]:
    """Return plain values for JSON; instants as RFC 3339."""
    return {
        "id": event.id,
        "event_id": event.event_id,
        "state": event.state,
        "subject": event.subject,
        "key": event.key,
        "attempts": event.attempts,
        "retries": event.retries,
        **{name: rfc3339(getattr(event, name)) for name in _INSTANTS},
        "held_by": event.held_by or None,
        "waits_for": event.waits_for,
        "is_gone": event.is_gone,
        "error": event.error,
        "code": event.code or None,
    }


def table(events: Iterable["ParkedEvent"], *, parked: bool) -> "Table":
    """Lay events out for a terminal; with ``parked`` also what each of them waits for."""
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    made.add_column("id", justify="right", no_wrap=True)
    for title in ("state", "next try") if parked else ("died",):
        made.add_column(title, no_wrap=True)
    made.add_column("tries", justify="right", no_wrap=True)
    for title in ("subject", "key", "error"):
        made.add_column(title, overflow="fold")
    for each in events:
        when = (each.state, next_try(each)) if parked else (instant(each.dead_at),)
        cells = (str(each.id), *when, str(each.attempts), each.subject, each.key or "", error(each))
        made.add_row(*(Text(plain(cell)) for cell in cells))  # Text: brackets are no markup
    return made


def error(event: "ParkedEvent") -> str:
    """Return the last error, with its code if it has one; and whether the row is gone."""
    last = f"{event.error} ({event.code})" if event.code else event.error
    return f"{GONE}; {last}" if event.is_gone else last


def next_try(event: "ParkedEvent") -> str:
    """Say when it is tried next, or what has to happen before."""
    if event.dead_at is not None:
        return "when a person says so"
    if event.waits_for is not None:
        return f"behind {event.waits_for}"
    if event.held_by:
        return f"held by {event.held_by}"
    return instant(event.next_attempt_at) or "soon"
