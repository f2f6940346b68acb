"""``relay audit``: judge a relay, ours or another, by its outbox and its stream. Changes nothing.

What is judged, how, and what a finding means: ``relay/audit/README.md``. Findings are written as
they are found, a line each, and the report after them; with ``--json`` each line is a JSON object.
``--follow`` looks again and again until Ctrl-C, and waits out an outage of either side.
"""

import gc
import json
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any, Final

import anyio
import typer

from relay.cli.options import ALWAYS, NATS, Json, progress_bar, with_settings
from relay.cli.text import instant, plain, seconds
from relay.errors import LoginRefused, Outage, SettingsError
from relay.settings import Settings

if TYPE_CHECKING:
    from relay.audit.oracle import Finding
    from relay.audit.run import Audit

_COLLECT_AFTER: Final = 100_000
"""New objects between two looks for garbage: an audit makes millions of tuples, and no cycles."""

_COMPARED: Final = ("bytes", "json", "no")
_TABLE: Final = "Another relay's outbox"
_MESSAGES: Final = "Its messages"


def _column(help_: str) -> Any:
    return typer.Option(help=help_, metavar="COLUMN", rich_help_panel=_TABLE)


def _message(help_: str, word: str = "PLACE") -> Any:
    return typer.Option(help=help_, metavar=word, rich_help_panel=_MESSAGES)


@with_settings(*ALWAYS, *NATS, "stream", "message_id_prefix")
def audit(
    settings: Settings,
    *,
    table: Annotated[
        str,
        typer.Option(
            help="The table; without it, our own outbox of --schema.",
            metavar="SCHEMA.TABLE",
            rich_help_panel=_TABLE,
        ),
    ] = "",
    sequence: Annotated[str, _column("A whole number that ascends as rows are written.")] = "id",
    event_id: Annotated[str, _column("What messages carry. Default: --sequence.")] = "",
    key: Annotated[str, _column("By which events are ordered.")] = "",
    subject_column: Annotated[str, _column("The subject.")] = "",
    payload: Annotated[str, _column("The payload; without it, none is compared.")] = "",
    written_at: Annotated[str, _column("When the row was written, by the database's clock.")] = "",
    message_id: Annotated[
        str, _message("Where the event's id stands: header:NAME or json:FIELD.")
    ] = "header:Nats-Msg-Id",
    id_prefix: Annotated[str, _message("What stands there before the id.", "TEXT")] = "",
    message_key: Annotated[
        str, _message("Where the key stands: header:NAME, json:FIELD or none.")
    ] = "none",
    message_payload: Annotated[
        str, _message("The field with the payload; without it, the whole message.", "FIELD")
    ] = "",
    compare: Annotated[
        str, _message("Compare payloads as bytes, as json (values), or no.", "HOW")
    ] = "bytes",
    subject: Annotated[
        list[str] | None, _message("Judge messages of these subjects only.", "PATTERN")
    ] = None,
    serial_keys: Annotated[
        bool,
        typer.Option(
            "--serial-keys",
            help="The writers of a key take turns (they lock something), so its events have one"
            " order. Without it, order is judged only where it is proven.",
        ),
    ] = False,
    grace: Annotated[
        float,
        typer.Option(
            parser=seconds, metavar="DURATION", help="Until when an event may be missing."
        ),
    ] = "10s",  # type: ignore[assignment]
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Look again and again, until Ctrl-C.")
    ] = False,
    every: Annotated[
        float, typer.Option(parser=seconds, metavar="DURATION", help="How often, with --follow.")
    ] = "10s",  # type: ignore[assignment]
    json_: Json = False,
) -> None:
    """Compare an outbox with its stream: what is lost, phantom, doubled, reordered, corrupt.

    Reads only. Exits with 1 if anything is wrong. Another relay's outbox is described by its table
    and columns; without --table our own is judged.
    """
    from relay.audit import stream as messages
    from relay.audit.outbox import Table

    if compare not in _COMPARED:
        raise typer.BadParameter(f"{compare!r} is none of {', '.join(_COMPARED)}")
    if settings.stream is None:
        raise SettingsError(["RELAY_STREAM is not set: name the stream by --stream"])
    subjects = tuple(subject or ())
    if table:
        described = Table(
            table, sequence, event_id or sequence, key, subject_column, payload, written_at
        )
        id_place = messages.place(message_id)
        if id_place is None:
            raise SettingsError(["--message-id none: without an id no message has an event"])
        read = messages.theirs(
            id_place,
            messages.place(message_key),
            prefix=id_prefix,
            subjects=subjects,
            payload=compare if payload else "no",
            payload_field=message_payload,
        )
    else:
        described = None
        read = messages.ours(message_id_prefix=settings.message_id_prefix, subjects=subjects)
    gc.set_threshold(_COLLECT_AFTER)
    command = _Command(settings, described, read, serial=serial_keys, grace=grace, as_json=json_)
    options = {"use_uvloop": sys.platform != "win32"}
    if anyio.run(command.run, every if follow else None, backend_options=options):
        raise typer.Exit(1)


class _Command:
    """One audit, its output and its counts."""

    def __init__(
        self,
        settings: Settings,
        table: Any,
        messages: Any,
        *,
        serial: bool,
        grace: float,
        as_json: bool,
    ) -> None:
        self._settings = settings
        self._table = table
        self._messages = messages
        self._serial = serial
        self._grace = grace
        self._as_json = as_json
        self._found = Counter[str]()

    async def run(self, every: float | None) -> bool:
        """Look once, or ``every`` so many s until a signal; return whether anything is wrong."""
        async with self._opened() as audit:
            if every is None:
                await self._once(audit)
            else:
                with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(self._follow, audit, every)
                        await anext(signals)
                        tasks.cancel_scope.cancel()
            self._report(audit)
        return self._found.total() > 0

    async def _once(self, audit: "Audit") -> None:
        with progress_bar("messages") as progress:
            audit.progress = progress
            await audit.look()
            if self._table is not None and not self._table.written_at:
                await anyio.sleep(self._grace)  # age counts from the first look
            while await audit.look():
                pass

    async def _follow(self, audit: "Audit", every: float) -> None:
        with progress_bar("messages") as progress:
            audit.progress = progress
            await self._look(audit)
        audit.progress = lambda done, total: None  # noqa: ARG005
        took = 0.0
        while True:
            self._report(audit)
            await anyio.sleep(max(every, took))  # what takes long is done less often
            began = anyio.current_time()
            await self._look(audit)
            took = anyio.current_time() - began

    async def _look(self, audit: "Audit") -> None:
        """Look, once an outage is over.

        Raises:
            LoginRefused: at the first look.
        """
        from relay.postgres.session import Session

        is_first = not audit.began_at
        while True:
            try:
                if audit.outbox.session.connection.closed:
                    audit.outbox.session = await Session.connect(self._settings.conninfo, "audit")
                await audit.look()
            except Outage as outage:
                if is_first and isinstance(outage, LoginRefused):
                    raise
                typer.echo(f"relay: waiting: {plain(str(outage))}", err=True)
                await anyio.sleep(1.0)
            else:
                return

    @asynccontextmanager
    async def _opened(self) -> "AsyncIterator[Audit]":
        from relay.app import bus_options
        from relay.audit.oracle import Judge
        from relay.audit.outbox import OutboxReader
        from relay.audit.run import Audit
        from relay.audit.shelf import Shelf
        from relay.jetstream.reading import StreamReader
        from relay.postgres.session import Session

        settings, messages = self._settings, self._messages
        assert settings.stream is not None
        shelf = Shelf()
        judge = Judge(self._finding, serial=self._serial, has_keys=messages.has_keys, shelf=shelf)
        try:
            async with (
                await Session.connect(settings.conninfo, "audit") as session,
                StreamReader.open(bus_options(settings)) as reader,
            ):
                outbox = OutboxReader(session, settings.schema_name, self._table, messages.payload)
                audit = Audit(outbox, reader, settings.stream, messages, judge, self._grace)
                try:
                    yield audit
                finally:
                    await audit.outbox.session.__aexit__()
        finally:
            shelf.close()

    def _finding(self, finding: "Finding") -> None:
        from relay.audit.run import as_json

        self._found[finding.kind] += 1
        if self._as_json:
            typer.echo(json.dumps(as_json(finding)))
            return
        row = "no row" if finding.sequence is None else f"row {finding.sequence}"
        seq = "no message" if finding.seq is None else f"sequence {finding.seq}"
        key = "" if finding.key is None else f", key {finding.key}"
        note = f": {finding.note}" if finding.note else ""
        line = f"{finding.kind:<10} {row}, {seq}, event {finding.event_id}{key}{note}"
        typer.echo(plain(line))

    def _report(self, audit: "Audit") -> None:
        from relay.audit.run import counts_of

        report = {**audit.report(), "findings": counts_of(self._found)}
        if self._as_json:
            typer.echo(json.dumps({"report": report}))
        else:
            for label, text in _lines(report):
                typer.echo(f"{label:<11} {plain(text)}")


def _lines(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    rows, messages = report["rows"], report["messages"]
    yield "stream", f"{report['stream']}, sequences {messages['first']} to {messages['last']}"
    yield "outbox", f"{rows['count']:,} rows, {rows['first']} to {rows['last']}"
    since, until = (instant(report[name]) or "no message yet" for name in ("since", "until"))
    yield "judged", f"written since {since}, as of {until}"
    yield "stored", f"{report['matched']:,} events"
    for label, name in (("not yet", "not_yet"), ("not judged", "not_judged")):
        if report[name]:
            yield label, ", ".join(f"{what}: {count:,}" for what, count in report[name].items())
    found = {what: count for what, count in report["findings"].items() if count}
    yield "findings", ", ".join(f"{what} {count:,}" for what, count in found.items()) or "none"
