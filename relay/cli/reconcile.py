"""``relay reconcile``: do the streams still hold what they acknowledged? And if not, go back.

The relay that leads does this by itself on each new connection (RELAY_REPAIR). This command looks
at every checkpoint, also at those from before the newest one, and so finds what a relay with
RELAY_REPAIR=report has only told. It publishes nothing: it moves the cursor back, and the relay
that leads, or the next one, publishes from there what is lost. ``--dry-run`` changes nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import anyio
import typer

from relay.cli.options import ALWAYS, NATS, Json, report, with_settings
from relay.core.checkpoint import Setback
from relay.errors import RelayError
from relay.settings import Settings

if TYPE_CHECKING:
    from relay.jetstream.setup import Finding


@with_settings(*ALWAYS, *NATS, "retention")
def reconcile(
    settings: Settings,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what was found.")] = False,
    json_: Json = False,
) -> None:
    """Compare the streams with the checkpoints; have what they lost published again.

    Needs the relay's own login. Exit code 1: a stream could not be asked; it has lost messages and
    nothing is done about it (--dry-run); or some of them are no longer in the outbox.
    """
    findings, setbacks = anyio.run(_reconcile, settings, dry_run)
    found = [(each, setbacks.get(each.stream)) for each in findings]
    lines = [_line(*each, dry_run=dry_run) for each in found]
    report(
        {"dry_run": dry_run, "streams": [_as_json(*each) for each in found]},
        lines or ["no checkpoints yet: no relay has settled anything with this schema"],
        as_json=json_,
    )
    troubles = list(_troubles(findings, setbacks, dry_run=dry_run))
    if troubles:
        raise RelayError("\n".join(troubles))


async def _reconcile(
    settings: Settings, dry_run: bool
) -> "tuple[Sequence[Finding], Mapping[str, Setback]]":
    from psycopg import Rollback

    from relay.app import bus_options
    from relay.jetstream.setup import examine
    from relay.postgres import migrations
    from relay.postgres.checkpoints import rewind, ring_of
    from relay.postgres.session import Session

    schema = settings.schema_name
    async with await Session.connect(settings.conninfo, "reconcile") as session:
        await migrations.up_to_date(session, schema)
        cursor, ring = await ring_of(session, schema, None)
        findings = await examine(bus_options(settings), ring) if ring else []
        held = {each.stream: each.held for each in findings if each.held is not None}
        setbacks: Sequence[Setback] = ()
        if held:
            async with session.transaction():
                setbacks = await rewind(
                    session, schema, cursor, ring, held, term=None, retention=settings.retention
                )
                if dry_run:
                    raise Rollback
    return findings, {each.stream: each for each in setbacks}


def _as_json(finding: "Finding", setback: Setback | None) -> dict[str, Any]:
    lost = setback and {
        "after_id": setback.after_id,
        "up_to_id": setback.up_to_id,
        "gone_ids": [setback.gone_from, setback.gone_to] if setback.gone_from else None,
    }
    return {
        "stream": finding.stream,
        "state": finding.state,
        "last_seq": finding.last_seq,
        "checkpoint_seq": finding.newest.tip.seq,
        "held_seq": finding.held.tip.seq if finding.held else None,
        "lost": lost,
        "reason": finding.reason or None,
    }


def _line(finding: "Finding", setback: Setback | None, *, dry_run: bool) -> str:
    name, seq = finding.stream, finding.newest.tip.seq
    match finding.state:
        case "holds":
            return f"{name}: holds all up to {seq}, its last sequence is {finding.last_seq}"
        case "made anew":
            return f"{name}: was made anew, what the one before held is not published again"
        case "missing":
            return f"{name}: is gone; its events wait until it is made again"
        case "unknown":
            return f"{name}: can't be asked: {finding.reason}"
    held = finding.held.tip.seq if finding.held else 0
    text = f"{name}: has lost messages behind sequence {held}"
    if setback is not None:
        text += f", of events with the ids {setback.after_id + 1} to {setback.up_to_id}"
    return f"{text}: {'would be' if dry_run else 'they are'} published again"


def _troubles(
    findings: "Sequence[Finding]", setbacks: Mapping[str, Setback], *, dry_run: bool
) -> Iterator[str]:
    for each in findings:
        setback = setbacks.get(each.stream)
        if each.state == "unknown":
            yield f"stream {each.stream} can't be asked: {each.reason}"
        elif setback is not None and setback.gone_from:
            yield (
                f"stream {each.stream} has lost events that are no longer in the outbox: those of"
                f" the ids {setback.gone_from} to {setback.gone_to}"
            )
        elif each.state == "behind" and dry_run:
            yield f"stream {each.stream} has lost messages: run it without --dry-run"
