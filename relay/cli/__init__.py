"""The command line: which commands there are, and nothing that decides anything.

Their flags, exit codes and help: ``relay.cli.options``. Only the module of the command that is
named is imported, and it imports what it needs when it runs, so ``--help`` imports neither database
nor broker.
"""

import os
import sys
from collections.abc import Collection, Sequence
from importlib import import_module
from typing import Annotated, Any, Final

import typer

from relay import __version__, logs
from relay.cli.options import Command, Group, asked_log_format, exit_codes
from relay.errors import SettingsError

COMMANDS: Final = (
    *("migrate", "run", "status", "where", "doctor", "audit", "tail", "reconcile", "replay"),
    *("adopt", "measure", "demo", "dashboards"),
)
GROUPS: Final = {"dead": "dead_events", "inbox": "inbox"}
"""The module of each."""


def make(names: Collection[str] = (*COMMANDS, *GROUPS)) -> typer.Typer:
    """Return the command line with the commands ``names``."""
    made = typer.Typer(
        name="relay",
        cls=Group,
        help="Committed Postgres outbox rows reach NATS JetStream, in order per key, once.",
        epilog="Each setting is a flag, an environment variable (--poll-interval is"
        " RELAY_POLL_INTERVAL) or a key of a TOML file (poll_interval); the first of these counts."
        "\n\nExamples:\n\n"
        "  relay demo                        Watch it work on throw-away servers.\n"
        "  relay migrate && relay run        Make the schema, then deliver events.\n"
        "  relay status --watch              See how far it is, once a second.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,  # it prints local variables, and those hold secrets
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    made.callback()(_relay)
    for name in COMMANDS:
        if name in names:
            made.command(cls=Command)(getattr(import_module(f"relay.cli.{name}"), name))
    for name, module in GROUPS.items():
        if name in names:
            made.add_typer(getattr(import_module(f"relay.cli.{module}"), name))
    return made


def __getattr__(name: str) -> Any:
    """Make the whole command line when it is looked at."""
    if name == "app":
        return make()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def main() -> None:
    """Run the command that ``sys.argv`` names and exit with its code."""
    if os.environ.keys() & {"GITHUB_ACTIONS", "PY_COLORS"} and "FORCE_COLOR" not in os.environ:
        from typer import rich_utils

        rich_utils.FORCE_TERMINAL = None  # Typer takes these for a terminal with colours
    log_format = asked_log_format(sys.argv[1:])
    with exit_codes(log_format):
        _refuse_what_is_no_text(sys.argv[1:])
        named = sys.argv[1:2]
        app = make(named) if {*named} & {*COMMANDS, *GROUPS} else make()
        # Typer shows wrong usage itself, as text.
        sys.exit(app(standalone_mode=not logs.is_json(log_format, sys.stderr)))


def _refuse_what_is_no_text(arguments: Sequence[str]) -> None:
    """Raise SettingsError for an argument that is not UTF-8, without it: it may be a secret."""
    for number, argument in enumerate(arguments, 1):
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise SettingsError([f"argument {number} is not UTF-8"]) from None


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"relay {__version__}")
        raise typer.Exit


def _relay(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    pass
