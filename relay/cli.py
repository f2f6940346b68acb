"""The command line: flags, exit codes, and nothing that decides anything.

Every setting that a command uses is also a flag of it. The flags are made from the settings' own
descriptions, take text, and leave all judgement to ``Settings.load``: one place says what is wrong.

    0    done                       2    usage or settings
    1    failed, or a side is away  3    the schema or the stream is not as required
    130  interrupted

An error of ours is told in lines on standard error; a bug shows its traceback. A command's module
imports what it needs when it runs, so ``--help`` knows neither database nor broker.
"""

import inspect
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import update_wrapper
from typing import Annotated, Any, Final

import anyio
import typer

from relay import __version__
from relay.commands.demo import demo
from relay.commands.migrate import run_migrate
from relay.commands.run import run_relay
from relay.commands.status import run_status
from relay.errors import Misconfigured, RelayError, sole
from relay.settings import Settings
from relay.settings.described import CONFIG_FILE, Described, describe
from relay.telemetry import logs

log = logging.getLogger("relay.cli")

INTERRUPTED: Final = 130

_SETTINGS: Final = {setting.name: setting for setting in describe(Settings)}
_ALWAYS: Final = ("postgres_dsn", "schema", "log_format", "log_level")
_NATS: Final = tuple(name for name, setting in _SETTINGS.items() if setting.topic == "NATS")

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
    with _exit_codes():
        app()


@contextmanager
def _exit_codes() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except RelayError as error:
        sys.exit(_tell(error))
    except BaseExceptionGroup as group:
        cause = sole(group)
        if not isinstance(cause, RelayError):
            raise
        sys.exit(_tell(cause))


def _tell(error: RelayError) -> int:
    for line in str(error).splitlines() or [type(error).__name__]:
        typer.echo(f"relay: {line}", err=True)
    return error.exit_code if isinstance(error, Misconfigured) else 1


def with_settings(
    *names: str, check_files: bool = True
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command flags for the settings ``names``, and their ``Settings`` as first argument.

    Args:
        names: public names; those of all settings if none is given.
        check_files: whether credentials and certificates have to be there.
    """
    settings = [_SETTINGS[name] for name in names or _SETTINGS]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        def with_flags(**given: Any) -> None:
            flags = {setting.name: given.pop(setting.name) for setting in (*settings, CONFIG_FILE)}
            with _exit_codes():
                loaded = Settings.load(flags, check_files=check_files)
                logs.configure(loaded.log_format, loaded.log_level)
                for warning in loaded.warnings:
                    log.warning("%s", warning)
                command(loaded, **given)

        own = list(inspect.signature(command).parameters.values())[1:]
        flags = [_flag(setting) for setting in (CONFIG_FILE, *settings)]
        update_wrapper(with_flags, command)
        # typer reads both; together they say what the function's **given takes.
        vars(with_flags)["__signature__"] = inspect.Signature([*own, *flags])
        with_flags.__annotations__ = {each.name: each.annotation for each in (*own, *flags)}
        return with_flags

    return decorate


def _flag(setting: Described) -> inspect.Parameter:
    help_ = setting.description
    if setting.default:
        help_ += f" Default: {setting.default}."
    if setting.secret:
        help_ += f" Other users may see flags: prefer {setting.variable}."
    names = f"{setting.flag}/--no-{setting.flag[2:]}" if setting.switch else setting.flag
    option = typer.Option(
        names,
        metavar=None if setting.switch else setting.word,
        help=help_,
        show_default=False,
        rich_help_panel=setting.topic,
    )
    kind = bool if setting.switch else str
    return inspect.Parameter(
        setting.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, option],
    )


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
@with_settings(*_ALWAYS, "notify", check_files=False)
def migrate(
    settings: Settings,
    *,
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit 3 if something is missing.")
    ] = False,
    print_sql: Annotated[
        bool, typer.Option("--print", help="Print the SQL, which psql can run, and do nothing.")
    ] = False,
) -> None:
    """Bring the outbox's schema up to date. Any number of processes may do so at once."""
    if check and print_sql:
        raise typer.BadParameter("--check and --print exclude each other")

    async def _migrate() -> None:
        await run_migrate(
            settings.conninfo,
            settings.schema_name,
            notify=settings.notify,
            check=check,
            print_sql=print_sql,
            echo=typer.echo,
        )

    anyio.run(_migrate)


@app.command()
@with_settings()
def run(settings: Settings) -> None:
    """Deliver events until SIGTERM or Ctrl-C; a second relay on the same outbox stands by."""
    if not run_relay(settings):
        raise typer.Exit(INTERRUPTED)


@app.command()
@with_settings(*_ALWAYS, *_NATS, "stream")
def status(
    settings: Settings,
    *,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show leader, backlog, lag, cursor, parked events and the stream's path."""

    async def _status() -> None:
        await run_status(settings, as_json=json, echo=typer.echo)

    anyio.run(_status)


app.command()(demo)
