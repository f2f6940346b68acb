"""``relay dead show``: everything that is known of one event."""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import anyio
import typer

from relay.cli.dead import filters, summary
from relay.cli.text import (
    KEPT,
    hexdump,
    instant,
    laid_out,
    plain,
    plain_lines,
    rfc3339,
)
from relay.settings import Settings

if TYPE_CHECKING:
    from relay.postgres.operator import Decision, Whole


def show(
    settings: Settings,
    ref: filters.Ref,
    *,
    full: Annotated[
        bool, typer.Option("--full", help=f"All of the payload, not its first {KEPT} bytes.")
    ] = False,
    json_: filters.Json = False,
) -> None:
    """Show one dead or parked event: payload, headers, every error, what people decided.

    With --json the payload is there whole: as text if it is UTF-8, else in base64.
    """
    from relay.postgres.operator import DeadEvents

    async def look() -> "tuple[Sequence[Whole], Sequence[Decision]]":
        async with DeadEvents.open(settings.conninfo, settings.schema_name) as found:
            return await found.show(ref), await found.decisions(ref)

    events, decisions = anyio.run(look)
    if len(events) != 1:
        typer.echo(f"relay: {_why_not(ref, events, decisions)}", err=True)
        raise typer.Exit(1)
    if json_:
        typer.echo(json.dumps(_as_json(events[0], decisions)))
    else:
        for line in _lines(events[0], decisions, full=full):
            typer.echo(line)


def fate(decisions: "Sequence[Decision]", *, gone: bool = False) -> str:
    """Say what people decided last about an event, which is ``gone`` from the parked or not."""
    if not decisions:
        return ""
    last = decisions[-1]
    dropped = last.action == "drop"
    what = "dropped" if dropped else "stored since it was retried" if gone else "retried"
    return f": {what} by {plain(last.decided_by)} at {instant(last.decided_at)}"


def _why_not(ref: str, events: "Sequence[Whole]", decisions: "Sequence[Decision]") -> str:
    if not events:
        return f"no parked event {ref}{fate(decisions, gone=True)}"
    names = " and ".join(each.event.event_id for each in events)
    return f"more than one parked event has the id {ref}: name one by its UUID, such as {names}"


def _as_json(event: "Whole", decisions: "Sequence[Decision]") -> dict[str, Any]:
    payload = event.payload
    text = None if payload is None else _as_text(payload)
    is_binary = payload is not None and text is None
    return {
        **summary.as_json(event.event),
        "message_id": event.message_id,
        "retried_by": event.retried_by,
        "retried_at": rfc3339(event.retried_at),
        "headers": event.headers or {},
        "errors": event.errors,
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
    for label, text in (
        *_facts(event),
        *(("header", f"{name}: {value}") for name, value in (event.headers or {}).items()),
        *(("error", _error(error)) for error in event.errors),
        *(("decision", _decision(each)) for each in decisions),
    ):
        yield f"{label:<10} {plain(text)}"
    yield from _payload(event, full=full)


def _facts(event: "Whole") -> Iterator[tuple[str, str]]:
    parked = event.event
    yield "event", f"{parked.id}, {parked.event_id}"
    if parked.dead_at is None:
        yield "state", f"{parked.state}, next try: {summary.next_try(parked)}"
    else:
        yield "state", f"dead since {instant(parked.dead_at)}, after {parked.attempts} tries"
    yield "subject", parked.subject
    yield "key", "none" if parked.key is None else parked.key
    yield "message id", event.message_id or "not known"
    yield "written", instant(parked.created_at)
    yield "refused", f"{instant(parked.first_refused_at)} to {instant(parked.last_refused_at)}"
    if event.retried_at is not None:
        yield "retried", f"{parked.retries} times, last {instant(event.retried_at)}"
    if not event.errors:
        yield "error", summary.error(parked)


def _error(error: Mapping[str, Any]) -> str:
    code = f" ({error['code']})" if error.get("code") else ""
    return f"{error.get('at')}  try {error.get('attempt')}: {error.get('error')}{code}"


def _decision(each: "Decision") -> str:
    return f"{instant(each.decided_at)}  {each.action} by {each.decided_by}"


def _payload(event: "Whole", *, full: bool) -> Iterator[str]:
    """Yield JSON laid out, other text as it is, and anything else as a hex dump."""
    payload = event.payload
    if payload is None:
        yield f"payload    {summary.GONE}: nothing can be published, only dropped"
        return
    text = _as_text(payload)
    if text is None:
        yield f"payload    {len(payload)} bytes"
        shown = payload if full else payload[:KEPT]
        yield from hexdump(shown)
        left = len(payload) - len(shown)
    else:
        kind = "JSON, laid out" if event.is_json else "text"
        yield f"payload    {len(payload)} bytes of {kind}"
        whole = (laid_out(text) if event.is_json else text).encode()
        part = whole if full else whole[:KEPT]
        yield plain_lines(part.decode(errors="ignore"))
        left = len(whole) - len(part)
    if left:
        yield f"… and {left} bytes more: --full shows them"


def _as_text(payload: bytes) -> str | None:
    try:
        return payload.decode()
    except UnicodeDecodeError:
        return None
