"""``relay dead``: what could not be stored, for people: look, retry, drop.

Each subcommand is a file. What a dead event is and what a decision does to it:
``relay.postgres.operator``.
"""

import typer

from relay.cli.dead.decide import drop, retry
from relay.cli.dead.list import list_
from relay.cli.dead.show import show
from relay.cli.options import ALWAYS, with_settings

dead = typer.Typer(
    name="dead",
    help="Look at events that could not be stored; retry or drop them.",
    epilog="Needs a login with the operator's role. Exit codes: 0 done, 1 nothing there or failed,"
    " 2 usage, 3 the schema is not as required.",
    no_args_is_help=True,
)

for name, command in (("list", list_), ("show", show), ("retry", retry), ("drop", drop)):
    dead.command(name)(with_settings(*ALWAYS)(command))

__all__ = ["dead"]
