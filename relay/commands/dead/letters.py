"""One parked event in words: as a row of a table, and as JSON."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from relay.commands.dead.terminal import instant, plain, rfc3339

if TYPE_CHECKING:
    from rich.table import Table

    from relay.postgres.deadletters import Letter

_INSTANTS = ("created_at", "first_refused_at", "last_refused_at", "next_attempt_at", "dead_at")


def as_json(letter: "Letter") -> dict[str, Any]:
    """Return plain values for JSON; instants as RFC 3339."""
    return {
        "id": letter.id,
        "event_id": letter.event_id,
        "state": letter.state,
        "subject": letter.subject,
        "key": letter.key,
        "attempts": letter.attempts,
        "retries": letter.retries,
        **{name: rfc3339(getattr(letter, name)) for name in _INSTANTS},
        "held_by": letter.held_by or None,
        "waits_for": letter.waits_for,
        "error": letter.error,
        "code": letter.code or None,
    }


def table(letters: Iterable["Letter"], *, parked: bool) -> "Table":
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
    for each in letters:
        when = (each.state, next_try(each)) if parked else (instant(each.dead_at),)
        cells = (str(each.id), *when, str(each.attempts), each.subject, each.key or "", error(each))
        made.add_row(*(Text(plain(cell)) for cell in cells))  # Text: brackets are no markup
    return made


def error(letter: "Letter") -> str:
    """Return the last error, with its code if it has one."""
    return f"{letter.error} ({letter.code})" if letter.code else letter.error


def next_try(letter: "Letter") -> str:
    """Say when it is tried next, or what has to happen before."""
    if letter.dead_at is not None:
        return "when a person says so"
    if letter.waits_for is not None:
        return f"behind {letter.waits_for}"
    if letter.held_by:
        return f"held by {letter.held_by}"
    return instant(letter.next_attempt_at) or "soon"
