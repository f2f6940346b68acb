"""``relay status``: how the outbox stands, for a person or, with ``--json``, for a script.

Postgres is authoritative, and has to be there. NATS is asked, too: the stream is described if one
is named, and NATS being away is part of the answer. Nothing is changed and no payload is read.

``--check`` is for scripts: exit 1 with the reasons if nobody leads, events are late, or NATS is
away.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from relay.core import durations
from relay.core.breakers import State
from relay.errors import BusOutage, RelayError, StreamError
from relay.settings import Settings

if TYPE_CHECKING:
    from relay.jetstream.options import BusOptions
    from relay.postgres.session import Session


class UnhealthyError(RelayError):
    """What ``--check`` found, one reason a line."""


async def run_status(
    settings: Settings, *, as_json: bool, check: bool, echo: Callable[[str], None]
) -> None:
    """Print the status: lines for people, or one JSON object with instants as RFC 3339.

    Raises:
        UnhealthyError: ``check`` was asked for, and something is wrong.
        StoreOutage: Postgres is away.
        SchemaError: the schema is missing, or may not be read by this login.
    """
    report = await look(settings)
    if as_json:
        echo(json.dumps(report))
    else:
        for label, text in lines(report):
            echo(f"{label:<10} {text}")
    if check and (wrong := list(troubles(report))):
        raise UnhealthyError("\n".join(wrong))


async def look(settings: Settings) -> dict[str, Any]:
    """Return the status as plain values for JSON. Raises as ``run_status`` does."""
    from relay.postgres.session import Session

    async with await Session.connect(settings.conninfo, "status") as session:
        row = await look_at_outbox(session, settings.schema_name)
    return report_of(settings, row, await look_at_nats(settings))


async def look_at_outbox(session: "Session", schema: str) -> dict[str, Any]:
    """Return the status row by column, and as ``stranger`` who holds the lease and is no relay."""
    from relay.postgres.status import status, stranger

    row = await status(session, schema)
    who = await stranger(session, schema) if row["led"] else ""
    return row | {"stranger": who, "led": row["led"] and not who}


def report_of(
    settings: Settings, row: Mapping[str, Any], nats: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Put the status row and what NATS said together, as plain values.

    ``parked`` is without the dead. ``nats`` is None before it was asked.
    """
    instants = ("term_began_at", "settled_at", "reported_at", "oldest_created_at")
    kept = ("epoch", "delivered", "refused", "backlog", "backlog_is_capped", "lag_seconds")
    return {
        "schema": settings.schema_name,
        "leader": row["holder"] if row["led"] else None,
        "lease_taken_by": row["stranger"] or None,
        **{name: row[name] for name in kept},
        "parked": max(0, row["parked"] - row["dead"]),
        **{name: row[name] for name in ("dead", "held", "held_lag_seconds")},
        **{name: row[name].isoformat() if row[name] else None for name in instants},
        "circuit_breaker": _lag_breaker(row, settings.circuit_breaker_lag),
        "bus_breaker": row["bus_breaker"] if row["led"] else None,
        "cursor": {name: row[name] for name in ("base", "target", "last_id")},
        "wakes": {name: row[f"wakes_{name}"] for name in ("bell", "poll")},
        "nats": None if nats is None else nats["error"] or "answers",
        "stream": None if nats is None else nats["stream"],
    }


def troubles(report: Mapping[str, Any]) -> Iterator[str]:
    """Say what is wrong, for whoever has to be woken."""
    if report["leader"] is None:
        yield f"nobody leads: {_nobody(report)}"
    if report["circuit_breaker"] == State.OPEN:
        yield f"events are late: the oldest waits for {_seconds(report['lag_seconds'])}"
    if report["nats"] not in (None, "answers"):
        yield f"NATS is away from here: {report['nats']}"
    elif report["bus_breaker"] == State.OPEN:
        yield "NATS is away from the leader"


def _lag_breaker(row: Mapping[str, Any], limit: float) -> str:
    """Return what the leader reported; if nobody leads, nobody looks but us."""
    if row["led"] and row["lag_breaker"] is not None:
        return str(row["lag_breaker"])
    return State.OPEN if row["lag_seconds"] > limit else State.CLOSED


async def look_at_nats(settings: Settings) -> dict[str, Any]:
    """Ask NATS, and describe the configured stream.

    ``error`` says why NATS is away, and is None if it answers. ``stream`` is None without one.
    """
    from relay.app import bus_options
    from relay.jetstream.setup import describe

    options = bus_options(settings)
    try:
        if settings.stream is None:
            await _reach(options)
            return {"error": None, "stream": None}
        return {"error": None, "stream": await describe(options, settings.stream)}
    except (BusOutage, StreamError) as error:
        reason = " ".join(str(error).split())
        stream = settings.stream and {"name": settings.stream, "path": None, "error": reason}
        return {"error": None if isinstance(error, StreamError) else reason, "stream": stream}


async def _reach(options: "BusOptions") -> None:
    """Connect, and ask JetStream for a sign of life.

    Raises:
        BusOutage: no server takes us, or JetStream does not answer.
    """
    from relay.jetstream.api import Api, DeniedError, NoAnswerError, RejectedError
    from relay.jetstream.servers import Servers

    connection = await Servers(options).connect()
    try:
        await Api(connection, options.api).account(options.ack_timeout)
    except DeniedError:
        pass  # who may not ask that may publish all the same
    except (NoAnswerError, RejectedError) as why:
        raise BusOutage(f"JetStream: {why}") from why
    finally:
        connection.drop("done")
        await connection.dropped()


def lines(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return labels and texts."""
    more = " or more" if report["backlog_is_capped"] else ""
    cursor = report["cursor"]
    window = f", paging to {cursor['target']} from id {cursor['last_id']}"
    told = [
        ("schema", report["schema"]),
        ("leader", report["leader"] or f"none: {_nobody(report)}"),
        ("epoch", f"{report['epoch']}{_since(report['term_began_at'])}"),
        ("backlog", f"{report['backlog']} events{more}"),
        ("lag", _seconds(report["lag_seconds"])),
        ("breakers", f"lag {report['circuit_breaker']}, bus {report['bus_breaker'] or 'unknown'}"),
        ("parked", f"{report['parked']} events{_held(report)}"),
        ("dead", f"{report['dead']} events"),
        ("delivered", f"{report['delivered']} events{_last(report['settled_at'])}"),
        ("cursor", f"{cursor['base']}{window if cursor['target'] else ''}"),
        ("wakes", ", ".join(f"{cause} {count}" for cause, count in report["wakes"].items())),
        ("nats", report["nats"] or "not asked yet"),
    ]
    stream = report["stream"]
    if stream is not None:
        says = stream.get("error") or f"{stream['messages']} messages, last {stream['last_seq']}"
        told.append(("stream", f"{stream['name']} by {stream['path'] or 'no path'}: {says}"))
    return told


def _nobody(report: Mapping[str, Any]) -> str:
    if report["lease_taken_by"]:
        return f"the lease is held by who is no relay: {report['lease_taken_by']}; end it"
    return "no relay runs, or none can take the lease"


def _held(report: Mapping[str, Any]) -> str:
    if not report["held"]:
        return ""
    return f" ({report['held']} held, the oldest for {_seconds(report['held_lag_seconds'])})"


def _seconds(seconds: float) -> str:
    return durations.format(round(seconds, 3))


def _since(instant: str | None) -> str:
    return f", began {instant}" if instant else ", no term yet"


def _last(instant: str | None) -> str:
    return f" in this term, last settled {instant}" if instant else ""
