"""``relay status``: how the outbox stands, for a person or, with ``--json``, for a script.

Postgres is authoritative, and has to be there; the stream is described if one is named, and NATS
being away is part of the answer. Nothing is changed and no payload is read.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from relay.core import durations
from relay.core.breakers import State
from relay.errors import BusOutage, StreamError
from relay.settings import Settings


async def run_status(settings: Settings, *, as_json: bool, echo: Callable[[str], None]) -> None:
    """Print the status: lines for people, or one JSON object with instants as RFC 3339.

    Raises:
        StoreOutage: Postgres is away.
        SchemaError: the schema is missing, or may not be read by this login.
    """
    report = await look(settings)
    if as_json:
        echo(json.dumps(report))
    else:
        for label, text in lines(report):
            echo(f"{label:<10} {text}")


async def look(settings: Settings) -> dict[str, Any]:
    """Return the status as plain values for JSON. Raises as ``run_status`` does."""
    from relay.postgres.session import Session
    from relay.postgres.standing import status

    async with await Session.connect(settings.conninfo, "status") as session:
        row = await status(session, settings.schema_name)
    return report_of(settings, row, await look_at_stream(settings))


def report_of(
    settings: Settings, row: Mapping[str, Any], stream: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Put the status row and the stream's description together, as plain values."""
    instants = ("term_began_at", "settled_at", "oldest_created_at")
    kept = ("epoch", "delivered", "refused", "backlog", "backlog_is_capped", "lag_seconds")
    return {
        "schema": settings.schema_name,
        "leader": row["holder"] if row["led"] else None,
        **{name: row[name] for name in (*kept, "parked", "dead", "held")},
        **{name: row[name].isoformat() if row[name] else None for name in instants},
        "circuit_breaker": _lag_breaker(row, settings.circuit_breaker_lag),
        "bus_breaker": row["bus_breaker"] if row["led"] else None,
        "cursor": {name: row[name] for name in ("base", "target", "last_id")},
        "wakes": {name: row[f"wakes_{name}"] for name in ("bell", "grant", "poll")},
        "stream": stream,
    }


def _lag_breaker(row: Mapping[str, Any], limit: float) -> str:
    """Return what the leader reported; if nobody leads, nobody looks but us."""
    if row["led"] and row["lag_breaker"] is not None:
        return str(row["lag_breaker"])
    return State.OPEN if row["lag_seconds"] > limit else State.CLOSED


async def look_at_stream(settings: Settings) -> dict[str, Any] | None:
    """Describe the configured stream; None without one. NATS being away is part of the answer."""
    if settings.stream is None:
        return None
    from relay.app import bus_options
    from relay.jetstream.describe import describe

    try:
        return await describe(bus_options(settings), settings.stream)
    except (BusOutage, StreamError) as error:
        return {"name": settings.stream, "path": None, "error": " ".join(str(error).split())}


def lines(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Write a report for people, as labels and texts."""
    lag = durations.format(round(report["lag_seconds"], 3))
    more = " or more" if report["backlog_is_capped"] else ""
    cursor = report["cursor"]
    window = f", paging to {cursor['target']} from id {cursor['last_id']}"
    kinds = [f"{report[kind]} {kind}" for kind in ("dead", "held") if report[kind]]
    told = [
        ("schema", report["schema"]),
        ("leader", report["leader"] or "none: no relay runs, or none can take the lease"),
        ("epoch", f"{report['epoch']}{_since(report['term_began_at'])}"),
        ("backlog", f"{report['backlog']} events{more}"),
        ("lag", lag),
        ("breakers", f"lag {report['circuit_breaker']}, bus {report['bus_breaker'] or 'unknown'}"),
        ("parked", f"{report['parked']} events{' (' + ', '.join(kinds) + ')' if kinds else ''}"),
        ("delivered", f"{report['delivered']} events{_last(report['settled_at'])}"),
        ("cursor", f"{cursor['base']}{window if cursor['target'] else ''}"),
        ("wakes", ", ".join(f"{cause} {count}" for cause, count in report["wakes"].items())),
    ]
    stream = report["stream"]
    if stream is not None:
        says = stream.get("error") or f"{stream['messages']} messages, last {stream['last_seq']}"
        told.append(("stream", f"{stream['name']} by {stream['path'] or 'no path'}: {says}"))
    return told


def _since(instant: str | None) -> str:
    return f", began {instant}" if instant else ", no term yet"


def _last(instant: str | None) -> str:
    return f", last settled {instant}" if instant else ""
