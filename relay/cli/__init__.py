"""The command line: which commands there are, and nothing that decides anything.

Their flags and exit codes: ``relay.cli.options``. A command's module imports what it needs when
it runs, so ``--help`` knows neither database nor broker.
"""

from typing import Annotated

import anyio
import typer

from relay import __version__
from relay.cli.dashboards import dashboards
from relay.cli.dead import dead
from relay.cli.demo import demo
from relay.cli.migrate import run_migrate
from relay.cli.options import ALWAYS, INTERRUPTED, NATS, exit_codes, with_settings
from relay.cli.run import run_relay
from relay.cli.status import run_status
from relay.cli.watch import run_watch
from relay.settings import Settings

app = typer.Typer(
    name="relay",
    help="Committed Postgres outbox rows reach NATS JetStream, in order per key, once.",
    epilog="Each setting is a flag, an environment variable (--poll-interval is"
    " RELAY_POLL_INTERVAL) or a key of a TOML file (poll_interval); the first of these counts.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # it prints local variables, and those hold secrets
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the command that ``sys.argv`` names and exit with its code."""
    with exit_codes():
        app()


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


@app.command()
@with_settings(*ALWAYS, check_files=False)
def migrate(
    settings: Settings,
    *,
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit 3 if something is missing.")
    ] = False,
    print_sql: Annotated[
        bool, typer.Option("--print", help="Print the SQL, which psql can run, and do nothing.")
    ] = False,
    notify: Annotated[
        bool | None,
        typer.Option(
            "--notify/--no-notify",
            help="Whether writers wake a relay that sleeps by NOTIFY; off if two-phase commit is in"
            " use. Kept in the database; left as it is unless given.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Bring the outbox's schema up to date. Any number of processes may do so at once."""
    if check and print_sql:
        raise typer.BadParameter("--check and --print exclude each other")

    async def _migrate() -> None:
        await run_migrate(
            settings.conninfo,
            settings.schema_name,
            notify=notify,
            check=check,
            print_sql=print_sql,
            echo=typer.echo,
        )

    anyio.run(_migrate)


@app.command()
@with_settings(is_service=True)
def run(settings: Settings) -> None:
    """Deliver events until SIGTERM or Ctrl-C; a second relay on the same outbox stands by."""
    if not run_relay(settings):
        raise typer.Exit(INTERRUPTED)


@app.command()
@with_settings(*ALWAYS, *NATS, "stream")
def status(
    settings: Settings,
    *,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
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
    if watch and (json or check):
        raise typer.BadParameter("--watch and --json or --check exclude each other")

    async def _status() -> None:
        if watch:
            await run_watch(settings)
        else:
            await run_status(settings, as_json=json, check=check, echo=typer.echo)

    anyio.run(_status)


app.command()(demo)
app.command()(dashboards)
app.add_typer(dead)
