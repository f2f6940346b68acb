"""The command line: which commands there are, and nothing that decides anything.

Their flags, exit codes and help: ``relay.cli.options``. A command's module imports what it needs
when it runs, so ``--help`` imports neither database nor broker.
"""

import os
import sys
from typing import Annotated

import typer

from relay import __version__, logs
from relay.cli import (
    adopt,
    audit,
    dashboards,
    dead_events,
    demo,
    doctor,
    inbox,
    measure,
    migrate,
    reconcile,
    replay,
    run,
    status,
    tail,
    where,
)
from relay.cli.options import Command, Group, asked_log_format, exit_codes

app = typer.Typer(
    name="relay",
    cls=Group,
    help="Committed Postgres outbox rows reach NATS JetStream, in order per key, once.",
    epilog="Each setting is a flag, an environment variable (--poll-interval is"
    " RELAY_POLL_INTERVAL) or a key of a TOML file (poll_interval); the first of these counts.\n\n"
    "Examples:\n\n"
    "  relay demo                        Watch it work on throw-away servers.\n"
    "  relay migrate && relay run        Make the schema, then deliver events.\n"
    "  relay status --watch              See how far it is, once a second.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # it prints local variables, and those hold secrets
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the command that ``sys.argv`` names and exit with its code."""
    if os.environ.keys() & {"GITHUB_ACTIONS", "PY_COLORS"} and "FORCE_COLOR" not in os.environ:
        from typer import rich_utils

        rich_utils.FORCE_TERMINAL = None  # Typer takes these for a terminal with colours
    log_format = asked_log_format(sys.argv[1:])
    with exit_codes(log_format):
        # Typer shows wrong usage itself, as text.
        sys.exit(app(standalone_mode=not logs.is_json(log_format, sys.stderr)))


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"relay {__version__}")
        raise typer.Exit


@app.callback()
def _relay(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    pass


for command in (
    migrate.migrate,
    run.run,
    status.status,
    where.where,
    doctor.doctor,
    audit.audit,
    tail.tail,
    reconcile.reconcile,
    replay.replay,
    adopt.adopt,
    measure.measure,
    demo.demo,
    dashboards.dashboards,
):
    app.command(cls=Command)(command)
app.add_typer(dead_events.dead)
app.add_typer(inbox.inbox)
