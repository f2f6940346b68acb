"""What the commands by which a person decides share: filters, who decides, the question."""

import getpass
import inspect
import os
import socket
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Final

import typer

from relay.cli.options import keyword
from relay.errors import SettingsError

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
    name: str, kind: Any, word: str, help_: str, parser: Any = None
) -> inspect.Parameter:
    """Return a flag that says which events are meant."""
    option = typer.Option(
        f"--{name.replace('_', '-')}",
        help=help_,
        parser=parser,
        metavar=word,
        show_default=False,
        rich_help_panel=PANEL,
    )
    return keyword(name, kind, option)


SUBJECT: Final = filter_flag(
    "subject",
    str,
    "PATTERN",
    "Of this subject; * stands for one token, a last > for the rest.",
    pattern,
)
KEY: Final = filter_flag("key", str, "TEXT", "Of exactly this key.")


def ask(what: str, question: str, shown: Sequence[str] = ()) -> None:
    """Return if the person at the terminal agrees to ``what``, else exit.

    Raises:
        SettingsError: nobody is at the terminal.
    """
    if not sys.stdin.isatty():
        raise SettingsError([f"nobody is there to be asked: say --yes to {what}"])
    for line in shown:
        typer.echo(line, err=True)
    typer.echo(f"{question}? Type y for yes: ", err=True, nl=False)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        typer.echo("nothing was changed", err=True)
        raise typer.Exit(1)
