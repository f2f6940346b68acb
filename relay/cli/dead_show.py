"""``relay dead show``, and how a parked event is shown elsewhere: as a row of a table, as JSON."""

import base64
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any, Final

import anyio
import typer

from relay.cli.options import ALWAYS, LARGEST_BIGINT, Json, with_settings
from relay.cli.text import counted, hexdump, instant, laid_out, plain, plain_lines, rfc3339
from relay.errors import RelayError
from relay.settings import Settings

if TYPE_CHECKING:
    from rich.table import Table

    from relay.postgres.operator import Decision, ParkedEvent, Whole

_ID: Final = re.compile(r"[0-9]{1,30}")
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

KEPT: Final = 4096
"""Bytes of a payload that are shown unless all of it is asked for."""

_GONE: Final = "its row in the outbox is gone"
_WIDE: Final = 200
"""Columns in a file or a pipe."""


def as_json(event: "ParkedEvent") -> dict[str, Any]:
    """Return plain values for JSON; instants as RFC 3339."""
    fields = {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in asdict(event).items()
    }
    cleared = {"held_by": event.held_by or None, "code": event.code or None}
    return {**fields, **cleared, "state": event.state}


def table(events: Iterable["ParkedEvent"], *, parked: bool) -> "Table":
    """Lay events out for a terminal; with ``parked`` also what each of them waits for."""
    from rich.table import Table
    from rich.text import Text

    rows = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    rows.add_column("id", justify="right", no_wrap=True)
    for title in ("state", "next try") if parked else ("died",):
        rows.add_column(title, no_wrap=True)
    rows.add_column("tries", justify="right", no_wrap=True)
    for title in ("subject", "key", "error"):
        rows.add_column(title, overflow="fold")
    for each in events:
        when = (each.state, next_try(each)) if parked else (instant(each.dead_at),)
        last = (str(each.attempts), each.subject, each.key or "", _error_of(each))
        rows.add_row(*(Text(plain(cell)) for cell in (str(each.id), *when, *last)))
    return rows


def print_table(rows: "Table", *, err: bool = False) -> None:
    """Print to standard output, or to standard error."""
    from rich.console import Console

    stream = sys.stderr if err else sys.stdout
    width = None if stream.isatty() else _WIDE
    Console(file=stream, width=width, highlight=False, emoji=False).print(rows)


def next_try(event: "ParkedEvent") -> str:
    """Say when it is tried next, or what has to happen before."""
    if event.dead_at is not None:
        return "when a person says so"
    if event.waits_for is not None:
        return f"behind {event.waits_for}"
    if event.held_by:
        return f"held by {event.held_by}"
    return instant(event.next_attempt_at) or "soon"


def fate(decisions: "Sequence[Decision]", *, gone: bool = False) -> str:
    """Say what people decided last about an event, which is ``gone`` from the parked or not."""
    if not decisions:
        return ""
    last = decisions[-1]
    dropped = last.action == "drop"
    what = "dropped" if dropped else "stored since it was retried" if gone else "retried"
    return f": {what} by {plain(last.decided_by)} at {instant(last.decided_at)}"


def parse_ref(text: str) -> str:
    """Read the id or the UUID of an event."""
    if _ID.fullmatch(text) and int(text) <= LARGEST_BIGINT:
        return text.lstrip("0") or "0"
    if _UUID.fullmatch(text):
        return text.lower()
    raise typer.BadParameter(f"{text!r} is neither an event's id (a number) nor its UUID")


@with_settings(*ALWAYS)
def show(
    settings: Settings,
    ref: Annotated[
        str, typer.Argument(help="An event's id, or its UUID.", parser=parse_ref, metavar="ID")
    ],
    *,
    full: Annotated[
        bool, typer.Option("--full", help=f"All of the payload, not its first {KEPT} bytes.")
    ] = False,
    json_: Json = False,
) -> None:
    """Show one dead or parked event: payload, headers, every error, what people decided.

    With --json the payload is there whole: as text if it is UTF-8, else in base64.
    """
    from relay.postgres.operator import DeadEvents

    async def look() -> "tuple[Sequence[Whole], Sequence[Decision]]":
        async with DeadEvents.open(settings.conninfo, settings.schema_name) as dead_events:
            return await dead_events.show(ref), await dead_events.decisions(ref)

    events, decisions = anyio.run(look)
    if not events:
        raise RelayError(f"no parked event {ref}{fate(decisions, gone=True)}")
    if len(events) > 1:
        names = " and ".join(each.event.event_id for each in events)
        raise RelayError(
            f"more than one parked event has the id {ref}: name one by its UUID, such as {names}"
        )
    if json_:
        typer.echo(json.dumps(_whole_as_json(events[0], decisions)))
    else:
        for line in _lines(events[0], decisions, full=full):
            typer.echo(line)


def _whole_as_json(event: "Whole", decisions: "Sequence[Decision]") -> dict[str, Any]:
    payload = event.payload
    text = None if payload is None else _as_text(payload)
    is_binary = payload is not None and text is None
    return {
        **as_json(event.event),
        "message_id": event.message_id,
        "retried_by": event.retried_by,
        "retried_at": rfc3339(event.retried_at),
        "headers": event.headers or {},
        "errors": event.errors,
        "explained": _in_words(event.event) or None,
        "decisions": [
            {
                "at": rfc3339(each.decided_at),
                "by": each.decided_by,
                "action": each.action,
                "attempts": each.attempts,
                "error": each.last_error,
            }
            for each in decisions
        ],
        "payload_kind": {True: "json", False: "bytes", None: None}[event.is_json],
        "payload_size": None if payload is None else len(payload),
        "payload": text,
        "payload_base64": base64.b64encode(payload or b"").decode() if is_binary else None,
    }


def _lines(event: "Whole", decisions: "Sequence[Decision]", *, full: bool) -> Iterator[str]:
    for label, text in _facts(event, decisions):
        yield f"{label:<10} {plain(text)}"
    yield from _payload(event, full=full)


def _facts(event: "Whole", decisions: "Sequence[Decision]") -> Iterator[tuple[str, str]]:
    parked = event.event
    yield "event", f"{parked.id}, {parked.event_id}"
    if parked.dead_at is None:
        yield "state", f"{parked.state}, next try: {next_try(parked)}"
    else:
        yield "state", f"dead since {instant(parked.dead_at)}, after {parked.attempts} tries"
    yield "subject", parked.subject
    yield "key", "none" if parked.key is None else parked.key
    yield "message id", event.message_id or "not known"
    yield "written", instant(parked.created_at)
    yield "refused", f"{instant(parked.first_refused_at)} to {instant(parked.last_refused_at)}"
    if event.retried_at is not None:
        yield "retried", f"{counted(parked.retries, 'time')}, last {instant(event.retried_at)}"
    if not event.errors:
        yield "error", _error_of(parked)
    for name, value in (event.headers or {}).items():
        yield "header", f"{name}: {value}"
    for text, repeated in groupby(event.errors, key=_coded):
        yield "error", f"{_when(list(repeated))}: {text}"
    yield from _in_words(parked).items()
    for each in decisions:
        yield "decision", f"{instant(each.decided_at)}  {each.action} by {each.decided_by}"


def _when(errors: Sequence[Mapping[str, Any]]) -> str:
    """Say when the same error came, and at which tries."""
    first, last = errors[0], errors[-1]
    at, to = instant(first.get("at")), instant(last.get("at"))
    if first is last:
        return f"{at}  try {first.get('attempt')}"
    if first.get("attempt") == last.get("attempt"):
        return f"{at} to {to}  {len(errors)} tries"
    return f"{at} to {to}  {len(errors)} tries, {first.get('attempt')} to {last.get('attempt')}"


def _in_words(event: "ParkedEvent") -> dict[str, str]:
    """Say what the last error's code means for delivery, by label; empty without a code."""
    from relay.jetstream.codes import code_of

    return code_of(event.code, event.error).in_words() if event.code else {}


def _error_of(event: "ParkedEvent") -> str:
    last = _coded({"error": event.error, "code": event.code})
    return f"{_GONE}; {last}" if event.is_gone else last


def _coded(error: Mapping[str, Any]) -> str:
    """Return the error with its code, unless the text has the code already."""
    text, code = str(error.get("error")), error.get("code")
    return f"{text} ({code})" if code and str(code) not in text else text


def _payload(event: "Whole", *, full: bool) -> Iterator[str]:
    """Yield JSON laid out, other text as it is, and anything else as a hex dump."""
    payload = event.payload
    if payload is None:
        yield f"payload    {_GONE}: nothing can be published, only dropped"
        return
    text = _as_text(payload)
    if text is None:
        yield f"payload    {len(payload)} bytes"
        whole = payload
    else:
        yield f"payload    {len(payload)} bytes of {'JSON, laid out' if event.is_json else 'text'}"
        whole = (laid_out(text) if event.is_json else text).encode()
    part = whole if full else whole[:KEPT]
    if text is None:
        yield from hexdump(part)
    else:
        yield plain_lines(part.decode(errors="ignore"))
    if len(part) < len(whole):
        yield f"… and {len(whole) - len(part)} bytes more: --full shows them"


def _as_text(payload: bytes) -> str | None:
    try:
        return payload.decode()
    except UnicodeDecodeError:
        return None
