"""What the commands by which a person decides share: filters, who decides, the question."""

import getpass
import inspect
import os
import re
import socket
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from relay.cli.options import keyword
from relay.cli.text import moment
from relay.errors import SettingsError

if TYPE_CHECKING:
    from relay.postgres.selection import Selection

PANEL: Final = "Which events"
_LONGEST_BY: Final = 200


def pattern(text: str) -> str:
    """Check a NATS pattern."""
    tokens = text.split(".")
    if not all(tokens) or ">" in tokens[:-1]:
        raise typer.BadParameter(
            f"{text!r} is no subject: tokens joined by dots, * for one token, a last > for the rest"
        )
    return text


def _decider(text: str) -> str:
    if not text.strip() or len(text) > _LONGEST_BY:
        raise typer.BadParameter(f"say who decides, in 1 to {_LONGEST_BY} characters")
    return text.strip()


By = Annotated[
    str | None,
    typer.Option(
        "--by",
        help="Who decides, for the audit. Default: user@host.",
        show_default=False,
        parser=_decider,
        metavar="NAME",
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")]


def this_user() -> str:
    """Return the user who runs this process, as user@host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"[:_LONGEST_BY]


def filter_flag(
    name: str, kind: Any, word: str, help_: str, parser: Any = None, *, most: int | None = None
) -> inspect.Parameter:
    """Return a flag that says which events are meant; with ``most``, a number from 0 to that."""
    option = typer.Option(
        f"--{name.replace('_', '-')}",
        help=help_,
        parser=parser,
        metavar=word,
        show_default=False,
        rich_help_panel=PANEL,
        min=None if most is None else 0,
        max=most,
    )
    return keyword(name, kind, option)


_IDS: Final = re.compile(r"(\d{1,18})?(-)?(\d{1,18})?")
_UUID: Final = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_OWN_ID: Final = re.compile(rf"(?:relay-)?({_UUID})(?:-r\d+)?(?:-\d+)?")

SUBJECT: Final = filter_flag(
    "subject",
    str,
    "PATTERN",
    "Of this subject; * stands for one token, a last > for the rest.",
    pattern,
)
KEY: Final = filter_flag("key", str, "TEXT", "Of exactly this key.")


def ask(what: str, question: str) -> None:
    """Return if the person at the terminal agrees to ``what``, else exit.

    Raises:
        SettingsError: nobody is at the terminal.
    """
    if not sys.stdin.isatty():
        raise SettingsError([f"nobody is there to be asked: say --yes to {what}"])
    typer.echo(f"{question}? Type y for yes: ", err=True, nl=False)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        typer.echo("nothing was changed", err=True)
        raise typer.Exit(1)


# Those of ``relay replay``.


def _ids(text: str) -> tuple[int | None, int | None]:
    found = _IDS.fullmatch(text)
    first, dash, last = found.groups() if found else (None, None, None)
    low = None if first is None else int(first)
    high = low if not dash else None if last is None else int(last)
    if (low is None and high is None) or (low is not None and high is not None and low > high):
        raise typer.BadParameter(f"{text!r} is no range of ids: write 10-20, 10- or -20, or 10")
    return low, high


def rate(text: str) -> float:
    """Read events a second."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise typer.BadParameter(f"{text!r} is no rate: say how many events a second, above 0")
    return number


REPLAYED: Final = (
    filter_flag(
        "ids", str, "FIRST-LAST", "With these ids of the outbox; one side is enough.", _ids
    ),
    filter_flag(
        "since", str, "TIME", "Written then or later: an instant, or how long ago.", moment
    ),
    filter_flag("until", str, "TIME", "Written before that: the same.", moment),
    SUBJECT,
    KEY,
    filter_flag(
        "message_id", list[str], "ID", "With this Nats-Msg-Id; may be given more than once."
    ),
)


def selection_of(filters: Mapping[str, Any], prefix: str) -> "Selection":
    """Read the filters; a message id of the relay's own making names an event by its UUID."""
    from relay.postgres.selection import Selection

    given = dict(filters)
    low, high = given.pop("ids", (None, None))
    names = [each.removeprefix(prefix) for each in given.pop("message_id", None) or ()]
    own = {name: found[1] for name in names if (found := _OWN_ID.fullmatch(name.lower()))}
    keys = [name for name in names if name not in own]
    return Selection(
        from_id=low, to_id=high, event_ids=list(own.values()), idempotency_keys=keys, **given
    )
