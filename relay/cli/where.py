"""``relay where``: one event's life, from its commit to its consumers. Changes nothing.

The states, and what is asked in which order: ``relay.audit.where``. If the stream has an event that
Postgres did not show, Postgres is asked once more.

It needs the relay's own rights. What a login may not see (others' sessions, the stream, its
consumers) is left out, and the answer says so.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import anyio
import typer

from relay.cli.options import ALWAYS, NATS, Json, progress_bar, report, with_settings
from relay.cli.text import counted, instant, moment, plain
from relay.errors import BusOutage, RelayError
from relay.settings import Settings

if TYPE_CHECKING:
    from relay.audit.where import Answer, State, Stored
    from relay.postgres.where import Row


@with_settings(*ALWAYS, *NATS, "stream", "message_id_prefix")
def where(
    settings: Settings,
    ref: Annotated[
        str,
        typer.Argument(
            help="An event's id, its UUID, its message id, its key, or its traceparent.",
            metavar="EVENT",
        ),
    ],
    *,
    limit: Annotated[
        int, typer.Option(min=1, max=1000, metavar="COUNT", help="Of several, the newest so many.")
    ] = 10,
    since: Annotated[
        datetime | None,
        typer.Option(
            parser=moment,
            metavar="WHEN",
            help="Where to begin in the stream for an event that the outbox has no more.",
        ),
    ] = None,
    copies: Annotated[
        bool, typer.Option("--copies", help="Look for further copies, to the stream's end.")
    ] = False,
    json_: Json = False,
) -> None:
    """Say where an event is: committed, read, stored, parked, dead, passed by consumers, pruned.

    Reads only, with no more rights than the relay's. Exits with 1 if nothing is known of it.
    """
    answer = anyio.run(_ask, settings, ref, limit, since, copies)
    report(as_json(ref, answer), map(plain, _lines(answer)), as_json=json_)
    if not (answer.rows or answer.stored or (answer.given and answer.writers)):
        raise RelayError(f"nothing is known of {plain(ref)}: {_unknown(answer)}")


async def _ask(
    settings: Settings, ref: str, limit: int, since: datetime | None, copies: bool
) -> "Answer":
    from relay.app import bus_options
    from relay.audit.where import choose_streams, look_at_outbox, look_at_streams
    from relay.jetstream.reading import StreamReader
    from relay.postgres.session import Session

    schema, prefix = settings.schema_name, settings.message_id_prefix
    async with await Session.connect(settings.conninfo, "where") as session:
        answer = await look_at_outbox(session, schema, ref, prefix=prefix, limit=limit)
        if settings.stream is not None:
            answer.streams = [settings.stream]
        else:
            await choose_streams(session, schema, answer)
        try:
            async with StreamReader.open(bus_options(settings)) as reader:
                with progress_bar("messages") as progress:
                    await look_at_streams(
                        reader,
                        answer,
                        ref,
                        prefix=prefix,
                        since=since,
                        copies=copies,
                        progress=progress,
                    )
        except BusOutage as outage:
            answer.unread |= {name: str(outage) for name in answer.streams or ["NATS"]}
        if answer.stored and not answer.rows:
            again = await look_at_outbox(session, schema, ref, prefix=prefix, limit=limit)
            answer.rows, answer.read_as, answer.dropped = again.rows, again.read_as, again.dropped
    return answer


def as_json(ref: str, answer: "Answer") -> dict[str, Any]:
    """Return plain values."""
    from relay.audit.where import copies_of, state_of
    from relay.postgres.where import plain_values

    copies = {row.event_id: copies_of(answer, row.event_id) for row in answer.rows}
    gone = [each for each in answer.stored if each.event_id not in copies]
    return {
        "asked": ref,
        "read_as": answer.read_as or None,
        "leader": answer.leader,
        "streams": answer.streams,
        "unread": answer.unread,
        "given": answer.given,
        "open": [str(each) for each in answer.writers],
        "events": [
            {
                **plain_values(row),
                "state": state_of(row, answer),
                "dropped": _dropped_as_json(answer, row.event_id),
                "stored": [_copy_as_json(each) for each in copies[row.event_id]],
            }
            for row in answer.rows
        ],
        "pruned": [_copy_as_json(each) for each in gone],
    }


def _dropped_as_json(answer: "Answer", event_id: str) -> Mapping[str, str] | None:
    dropped = (answer.dropped or {}).get(event_id)
    return None if dropped is None else {"by": dropped.by, "at": dropped.at.isoformat()}


def _copy_as_json(copy: "Stored") -> Mapping[str, Any]:
    return asdict(copy) | {"at": copy.at.isoformat()}


def _lines(answer: "Answer") -> Iterator[str]:
    for row in answer.rows:
        yield from _event(row, answer)
    for copy in answer.stored:
        if all(copy.event_id != row.event_id for row in answer.rows):
            yield f"event      {copy.event_id}, message id {copy.message_id or 'none'}"
            yield "outbox     pruned: its row is not there any more"
            yield from _stored_lines([copy])
    if not answer.rows and not answer.stored and answer.given:
        yield "outbox     not visible: its transaction is open, or was rolled back"
        for writer in answer.writers:
            yield f"open       {writer}"
    for what, why in answer.unread.items():
        yield f"not seen   {what}: {why}"


def _event(row: "Row", answer: "Answer") -> Iterator[str]:
    from relay.audit.where import copies_of, state_of

    yield f"event      {row.id}, {row.event_id}, message id {row.message_id}"
    yield f"subject    {row.subject}, key {'none' if row.key is None else row.key}"
    at = "" if row.committed_at is None else f", committed {instant(row.committed_at)}"
    yield f"written    {instant(row.created_at)}{at}, in transaction {row.xid}"
    yield f"state      {_explained(row, state_of(row, answer), answer)}"
    yield from _stored_lines(copies_of(answer, row.event_id))


def _explained(row: "Row", state: "State", answer: "Answer") -> str:
    lead = f"{answer.leader} leads" if answer.leader else "nobody leads: is a relay running?"
    error = f"{row.last_error}{f' ({row.last_code})' if row.last_code else ''}"
    tries = counted(row.attempts or 0, "try").replace("trys", "tries")
    streams, unseen = ", ".join(answer.streams), ", ".join(answer.unseen)
    unread = f"{unseen} was not read" if unseen else "no stream was looked at: name --stream"
    is_stored = unread if unseen or not streams else "not in the stream yet"
    behind = "an earlier event of its key" if row.waits_for is None else str(row.waits_for)
    dropped = (answer.dropped or {}).get(row.event_id)
    hidden = (
        "" if answer.dropped is not None else ", or a person dropped it: the operator sees that"
    )
    return {
        "pending": f"pending: {is_stored}; {answer.backlog} wait in all; {lead}",
        "in flight": f"in flight: stored, and not settled yet; {lead}",
        "stored": "stored, and settled",
        "missing": f"missing: settled, and not in {streams}{hidden}",
        "unknown": f"unknown: settled, and {unread}{hidden}",
        "dropped": "" if dropped is None else f"dropped by {dropped.by} at {instant(dropped.at)}",
        "dead": f"dead since {instant(row.dead_at)}, after {tries}: {error}",
        "held": f"held by {row.held_by}: {error}",
        "waiting": f"parked behind {behind}",
        "parked": f"parked after {tries}, next {instant(row.next_attempt_at)}: {error}",
    }[state]


def _stored_lines(copies: "Sequence[Stored]") -> Iterator[str]:
    for number, copy in enumerate(copies):
        again = "" if number == 0 else ", a further copy"
        yield f"stored     {copy.stream}#{copy.seq} at {instant(copy.at)}{again}"
        for name, state in copy.consumers.items():
            yield f"consumer   {name}: {state}"


def _unknown(answer: "Answer") -> str:
    if answer.given:
        return "its id was given, and its transaction was rolled back, or its row is pruned"
    if answer.given is False:
        return "no event has got this id yet"
    if answer.unseen:
        return f"the outbox has it not, and {', '.join(answer.unseen)} was not read"
    looked = f"{', '.join(answer.streams)} has it not" if answer.streams else "name --stream"
    return f"the outbox has it not, and {looked}"
