"""``relay status``: how the outbox stands, for a person or, with ``--json``, for a script.

Postgres is authoritative, and has to be there. NATS is asked, too: the stream is described if one
is named, and NATS being away is part of the answer. Nothing is changed and no payload is read.
``--watch`` shows the same once a second: ``relay.cli.watch``.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import anyio
import typer

from relay.cli.options import ALWAYS, NATS, report, with_settings
from relay.cli.text import counted, instant, plain
from relay.core.backoff import State
from relay.core.durations import lasting
from relay.errors import BusOutage, RelayError, SchemaError, StreamError
from relay.settings import Settings

if TYPE_CHECKING:
    from relay.jetstream.options import BusOptions
    from relay.postgres.session import Session
    from relay.postgres.status import Reason


@with_settings(*ALWAYS, *NATS, "stream")
def status(
    settings: Settings,
    *,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Exit 1 with the reasons if nobody leads, events are late, or NATS is away.",
        ),
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Show it again every second, until Ctrl-C.")
    ] = False,
) -> None:
    """Show leader, backlog, lag, cursor, parked and dead events, NATS and the stream."""
    if watch and (json_ or check):
        raise typer.BadParameter("--watch and --json or --check exclude each other")
    if watch:
        from relay.cli.watch import run_watch

        anyio.run(run_watch, settings)
        return
    found = anyio.run(_look, settings)
    report(found, (f"{label:<10} {text}" for label, text in lines(found)), as_json=json_)
    if check and (reasons := list(_troubles(found))):
        raise RelayError("\n".join(reasons))


async def _look(settings: Settings) -> dict[str, Any]:
    from relay.postgres.session import Session

    async with await Session.connect(settings.conninfo, "status") as session:
        row = await look_at_outbox(session, settings.schema_name)
    return report_of(settings, row, await look_at_nats(settings))


async def look_at_outbox(session: "Session", schema: str) -> dict[str, Any]:
    """Return the status row by column, ``stranger`` and ``reasons``.

    ``stranger`` is a holder of the lease that is no relay. ``reasons`` says why events are parked;
    None where this login may not see that.

    Raises:
        StoreOutage: Postgres is away.
        SchemaError: the schema is missing, or may not be read by this login.
    """
    from relay.postgres.status import reasons, status, stranger

    row = await status(session, schema)
    other = await stranger(session, schema) if row["led"] else ""
    found: list[dict[str, Any]] | None = []
    try:
        found = (
            [_in_words(each) for each in await reasons(session, schema)] if row["parked"] else []
        )
    except SchemaError:
        found = None
    return row | {"stranger": other, "led": row["led"] and not other, "reasons": found}


def _in_words(reason: "Reason") -> dict[str, Any]:
    """Return the fields, and what the code means for delivery."""
    from relay.jetstream.codes import code_of

    words = code_of(reason.code, reason.error).in_words() if reason.code else {}
    return {**asdict(reason), "held_by": reason.held_by or None, **words}


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
    """Connect, and ask JetStream for a sign of life; raise BusOutage if there is none."""
    from relay.jetstream.api import DeniedError, NoAnswerError, RejectedError
    from relay.jetstream.setup import asking

    async with asking(options) as api:
        try:
            await api.account(options.ack_timeout)
        except DeniedError:
            pass  # a login that may not ask may publish all the same
        except (NoAnswerError, RejectedError) as why:
            raise BusOutage(f"JetStream: {why}") from why


def report_of(
    settings: Settings, row: Mapping[str, Any], nats: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Put the status row and NATS' answer together, as plain values; instants as RFC 3339.

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
        **{name: row[name] for name in ("dead", "held", "held_lag_seconds", "reasons")},
        **{name: row[name].isoformat() if row[name] else None for name in instants},
        "circuit_breaker": _lag_breaker(row, settings.circuit_breaker_lag),
        "bus_breaker": row["bus_breaker"] if row["led"] else None,
        "cursor": {name: row[name] for name in ("base", "target", "last_id")},
        "wakes": {name: row[f"wakes_{name}"] for name in ("bell", "poll")},
        "repair": _repair(row),
        "nats": None if nats is None else nats["error"] or "answers",
        "stream": None if nats is None else nats["stream"],
    }


def _repair(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the last repair of a stream that had lost messages; None if there was none."""
    if row["repair_stream"] is None:
        return None
    began, ended = (row[f"repair_{each}_at"] for each in ("began", "ended"))
    return {
        "stream": row["repair_stream"],
        "began_at": began.isoformat(),
        "ended_at": ended.isoformat() if ended else None,
        "repaired": row["repair_events"],
        "remembered": row["repair_remembered"],
        "gone_ids": [row["gone_from"], row["gone_to"]] if row["gone_from"] else None,
    }


def _lag_breaker(row: Mapping[str, Any], limit: float) -> str:
    """Return open where the lag that was read just now says so; else what the leader reported."""
    if row["lag_seconds"] > limit:
        return State.OPEN  # a leader whose own looks fail reports what it saw last
    reported = row["lag_breaker"] if row["led"] else None
    return State.CLOSED if reported is None else str(reported)


def _troubles(report: Mapping[str, Any]) -> Iterator[str]:
    """Say what is wrong, for whoever has to be woken."""
    if report["leader"] is None:
        yield f"nobody leads: {_nobody(report)}"
    if report["circuit_breaker"] == State.OPEN:
        yield f"events are late: the oldest waits for {lasting(report['lag_seconds'])}"
    if report["nats"] not in (None, "answers"):
        yield f"NATS is away from here: {report['nats']}"
    elif report["bus_breaker"] == State.OPEN:
        yield "NATS is away from the leader"


def lines(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield labels and texts."""
    began, settled = instant(report["term_began_at"]), instant(report["settled_at"])
    cursor, stream, held = report["cursor"], report["stream"], ""
    if report["held"]:
        held = f" ({report['held']} held, the oldest for {lasting(report['held_lag_seconds'])})"
    window = f", paging to {cursor['target']} from id {cursor['last_id']}"
    yield "schema", report["schema"]
    yield "leader", report["leader"] or f"none: {_nobody(report)}"
    yield "epoch", f"{report['epoch']}{f', began {began}' if began else ', no term yet'}"
    yield "backlog", counted(report["backlog"], "event") + " or more" * report["backlog_is_capped"]
    yield "lag", lasting(report["lag_seconds"])
    yield "breakers", f"lag {report['circuit_breaker']}, bus {report['bus_breaker'] or 'unknown'}"
    yield "parked", counted(report["parked"], "event") + held
    yield "dead", counted(report["dead"], "event")
    last = f" in this term, last settled {settled}" if settled else ""
    yield from _reasons(report["reasons"] or ())
    yield "delivered", counted(report["delivered"], "event") + last
    if report["repair"] is not None:
        yield "repair", _repaired(report["repair"])
    yield "cursor", f"{cursor['base']}{window if cursor['target'] else ''}"
    yield "wakes", ", ".join(f"{cause} {count}" for cause, count in report["wakes"].items())
    yield "nats", report["nats"] or "not asked yet"
    if stream is not None:
        yield "stream", _stream(stream, nats_is_away=report["nats"] != "answers")


def _reasons(reasons: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    for each in reasons:
        held = f"held by {each['held_by']}" if each["held_by"] else "refused"
        state = "dead" if each["dead"] else held
        yield "reason", plain(f"{counted(each['events'], 'event')} {state}: {each['error']}")
        for label in ("meaning", "relay", "remedy"):
            if label in each:
                yield "", f"{label}: {each[label]}"


def _stream(stream: Mapping[str, Any], *, nats_is_away: bool) -> str:
    if nats_is_away:
        return f"{stream['name']}: not seen while NATS is away"
    if stream.get("error"):
        return f"{stream['name']}: {stream['error']}"
    count = counted(stream["messages"], "message")
    return f"{stream['name']} by {stream['path']}: {count}, last {stream['last_seq']}"


def _repaired(repair: Mapping[str, Any]) -> str:
    state = "under way since" if repair["ended_at"] is None else "of"
    text = f"{state} {instant(repair['began_at'])}: {repair['stream']} had lost messages"
    text += f", {counted(repair['repaired'], 'event')} published again"
    if repair["remembered"]:
        text += f", {counted(repair['remembered'], 'event')} not stored again"
    if repair["gone_ids"]:
        text += ", ids {} to {} are gone from the outbox".format(*repair["gone_ids"])
    return text


def _nobody(report: Mapping[str, Any]) -> str:
    if report["lease_taken_by"]:
        return f"a session that is no relay's holds the lease: {report['lease_taken_by']}; end it"
    return "no relay runs, or none can take the lease"
