"""``relay tail``: the messages of a stream as they are stored, until Ctrl-C.

    time          sequence  subject  key  size  latency  payload

The reader is an ordered one: each message once and in order, through lost connections and restarts
of the server, behind the last one that was shown. Latency is from the event's insert, by Postgres's
clock, to the storing, by that of NATS.
"""

import base64
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

import anyio
import typer

from relay.cli.options import NATS, Json, with_settings
from relay.cli.text import moment, plain
from relay.errors import SettingsError
from relay.settings import Settings

if TYPE_CHECKING:
    from relay.jetstream.parser import Message
    from relay.jetstream.reading import Start, StreamReader

_KEPT: Final = 1000
"""Characters of a payload that are shown unless all of it is asked for."""

_WAITS: Final = float("inf")


@with_settings("log_format", "log_level", *NATS, "stream")
def tail(
    settings: Settings,
    *,
    last: Annotated[
        int, typer.Option("--last", "-n", min=0, metavar="COUNT", help="Begin so many before.")
    ] = 0,
    since: Annotated[
        datetime | None,
        typer.Option(
            parser=moment,
            metavar="WHEN",
            help="Begin so long ago (10min), or at a time (2026-01-31T12:00, UTC).",
        ),
    ] = None,
    subject: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Of these subjects only.")
    ] = None,
    key: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Of exactly this key only.")
    ] = None,
    count: Annotated[
        int | None, typer.Option(min=1, metavar="COUNT", help="End after so many.")
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help=f"All of a payload, not {_KEPT} characters.")
    ] = False,
    json_: Json = False,
) -> None:
    """Show the stream's messages as they are stored, from now on, until Ctrl-C."""
    if settings.stream is None:
        raise SettingsError(["RELAY_STREAM is not set: name the stream by --stream"])
    if last and since is not None:
        raise typer.BadParameter("--last and --since exclude each other")
    show = _json(settings.stream) if json_ else _text(full=full)
    anyio.run(_run, settings, _Asked(last, since, tuple(subject or ()), key, count), show)


class _Asked(NamedTuple):
    last: int
    since: datetime | None
    subjects: Sequence[str]
    key: str | None
    most: int | None


async def _run(settings: Settings, asked: _Asked, show: "Callable[[Message], None]") -> None:
    from relay.app import bus_options
    from relay.audit.stream import header
    from relay.jetstream.reading import StreamReader

    last, since, subjects, key, left = asked
    stream, key_of = settings.stream, header("Relay-Key")
    assert stream is not None
    async with StreamReader.open(bus_options(settings), patience=_WAITS) as reader:
        reader.on_outage = _Notice()
        start, skipped = await _start(reader, stream, last, since, subjects)
        async with aclosing(reader.messages(stream, start, subjects=subjects)) as batches:
            async for batch in batches:
                for message in batch[skipped:]:
                    if key is None or key_of(message.headers, b"") == key:
                        show(message)
                        left = None if left is None else left - 1
                        if left == 0:
                            return
                skipped = max(0, skipped - len(batch))
                sys.stdout.flush()
                reader.on_outage = _Notice()


async def _start(
    reader: "StreamReader", stream: str, last: int, since: datetime | None, subjects: Sequence[str]
) -> "tuple[Start, int]":
    """Return where to begin, and how many messages to leave out there."""
    from relay.jetstream.reading import Start

    if since is not None:
        return Start(at=since), 0
    state = await reader.state(stream)
    if not last or not subjects:
        return Start(max(state.last_seq - last, state.first_seq - 1) + 1), 0
    span = last
    while True:
        start = Start(max(state.last_seq - span, state.first_seq - 1) + 1)
        found = await reader.count(stream, start, subjects)
        if found >= last or start.seq <= state.first_seq:
            return start, max(0, found - last)
        span *= 8


class _Notice:
    """Says once, on standard error, that the stream is away."""

    def __init__(self) -> None:
        self._is_said = False

    def __call__(self, why: str) -> None:
        if not self._is_said:
            self._is_said = True
            typer.echo(f"relay: waiting for NATS: {plain(why)}", err=True)


def _json(stream: str) -> "Callable[[Message], None]":
    from relay.audit.stream import parse_message

    def show(message: "Message") -> None:
        parsed, latency = parse_message(message), _latency_ms(message)
        try:
            payload: dict[str, Any] = {"payload": message.payload.decode()}
        except UnicodeDecodeError:
            payload = {"payload_base64": base64.b64encode(message.payload).decode()}
        line = {
            "stream": stream,
            "seq": message.seq,
            "time": _at(message).isoformat(),
            "subject": parsed.subject,
            "key": parsed.key,
            "size": len(message.payload),
            "message_id": parsed.message_id,
            "latency_ms": latency,
            "headers": _headers(message.headers),
            **payload,
        }
        typer.echo(json.dumps(line))

    return show


def _text(*, full: bool) -> "Callable[[Message], None]":
    from rich.console import Console
    from rich.highlighter import JSONHighlighter
    from rich.text import Text

    from relay.audit.stream import header

    console = Console(highlight=False, emoji=False, soft_wrap=True)
    in_colour, key_of = JSONHighlighter(), header("Relay-Key")

    def show(message: "Message") -> None:
        latency = _latency_ms(message)
        size = len(message.payload)
        line = Text.assemble(
            (f"{_at(message):%H:%M:%S.%f}"[:-3] + "Z", "dim"),
            f" {message.seq} ",
            (plain(message.subject.decode(errors="replace")), "bold"),
            f"  {plain(key_of(message.headers, b'') or '-')}  {size} B",
            ("  - ms  " if latency is None else f"  {latency:.1f} ms  ", "dim"),
        )
        line.append_text(in_colour(Text(_shown(message.payload, full=full))))
        console.print(line)

    return show


def _shown(payload: bytes, *, full: bool) -> str:
    try:
        text = plain(payload.decode())
    except UnicodeDecodeError:
        text = payload.hex(" ")
    return text if full or len(text) <= _KEPT else f"{text[:_KEPT]}…"


def _latency_ms(message: "Message") -> float | None:
    """Return ms from the event's insert to its storing; None where the first is not known."""
    from relay.audit.stream import parse_message

    latency = parse_message(message).latency
    return None if latency is None else round(latency * 1000, 3)


def _at(message: "Message") -> datetime:
    from relay.audit.stream import at

    return at(message)


def _headers(block: bytes) -> dict[str, str]:
    lines = block.decode(errors="replace").split("\r\n")[1:]
    named = (line.partition(":") for line in lines if ":" in line)
    return {name: value.strip() for name, _, value in named}
