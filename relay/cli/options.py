"""What the commands share: flags made from the settings, exit codes, and how help is written.

Every setting that a command uses is also a flag of it. The flags are made from the settings' own
descriptions, take text, and leave all judgement to ``Settings.load``: one place says what is wrong.

    0    done                       2    usage or settings
    1    failed, or a side is away  3    the schema or the stream is not as required
    130  interrupted

An error of ours is written to standard error as lines, a bug with its traceback. Where standard
error is the service's log (``run``), or log_format says so, each of them is a JSON line.
"""

import inspect
import json
import logging
import os
import select
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import update_wrapper
from itertools import pairwise
from typing import Annotated, Any, Final, cast

import typer
from typer.core import TyperCommand, TyperGroup

from relay import logs
from relay.errors import RelayError, sole
from relay.logformat import without_rows
from relay.settings import Settings
from relay.settings.model import CONFIG_FILE, SETTINGS, Setting
from relay.settings.sources import gather

log = logging.getLogger("relay.cli")

INTERRUPTED: Final = 130

LARGEST_INT: Final = 2**31 - 1
LARGEST_BIGINT: Final = 2**63 - 1
"""The largest numbers that Postgres's types hold; a flag takes none beyond."""

_SETTINGS: Final = {setting.name: setting for setting in SETTINGS}

ALWAYS: Final = ("postgres_dsn", "postgres_password", "schema", "log_format", "log_level")
"""The settings of every command that looks at the database."""

NATS: Final = tuple(setting.name for setting in SETTINGS if setting.topic == "NATS")

Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else.")]


@contextmanager
def exit_codes(log_format: str = "text") -> Iterator[None]:
    """Write what went wrong, in the form of the setting ``log_format``, and exit with its code.

    What is no error is let through, and wrong usage, which Typer shows; but not where lines are
    JSON.
    """
    try:
        yield
    except (typer.Exit, typer.Abort):
        raise
    except typer.TyperException as error:
        if not logs.is_json(log_format, sys.stderr):
            raise
        sys.exit(_write(error, log_format))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BaseExceptionGroup as group:
        if group.subgroup(KeyboardInterrupt) is not None:
            sys.exit(INTERRUPTED)
        sys.exit(_write(sole(group), log_format))
    except Exception as error:  # noqa: BLE001 - written below, and the exit code is 1
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            sys.exit(1)
        sys.exit(_write(error, log_format))


def _nobody_reads() -> bool:
    """Whether the reader of standard output has gone, as in ``relay status | head``.

    If so, what is still to be written goes nowhere: the interpreter flushes once more at its end.
    """
    try:
        output = sys.stdout.fileno()
        pipe = select.poll()
        pipe.register(output, 0)
        gone = any(state & (select.POLLERR | select.POLLHUP) for _, state in pipe.poll(0))
        if gone:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, output)
            os.close(nowhere)
    except (OSError, ValueError):
        return False
    return gone


def _write(error: BaseException, log_format: str) -> int:
    """Write the error, whatever was set up to log before; return the exit code."""
    if not isinstance(error, RelayError | typer.TyperException):
        logs.configure(cast("Any", log_format), "info")
        log.critical("ended by a bug: please report it", exc_info=error)
        return 1
    code = error.exit_code
    if isinstance(error, typer.TyperException):
        lines = error.format_message().splitlines()  # none where the help was shown
    else:
        lines = without_rows(str(error)).splitlines() or [type(error).__name__]
    if logs.is_json(log_format, sys.stderr):
        logs.configure(cast("Any", log_format), "info")
        for line in lines:
            log.critical("%s", line, extra={"exit_code": code})
    else:
        for line in lines:
            typer.echo(f"relay: {line}", err=True)
    return code


def early_log_format(flags: Mapping[str, object], *, is_service: bool) -> str:
    """Return the form of log lines as far as it is known before the settings are judged."""
    asked = gather(_SETTINGS, flags, os.environ).values.get("log_format", "auto")
    form = str(asked).lower()
    return form if form in {"text", "json"} or is_service else "text"


def asked_log_format(arguments: Sequence[str]) -> str:
    """Return the form of log lines as far as it is known before the arguments are understood."""
    flags = dict[str, object]()
    for argument, following in pairwise([*arguments, ""]):
        name, _, value = argument.partition("=")
        if name in ("--log-format", "--config"):
            flags[name[2:].replace("-", "_")] = value or following
    return early_log_format(flags, is_service="run" in arguments[:1])


def with_settings(
    *names: str,
    check_files: bool = True,
    is_service: bool = False,
    filters: Sequence[inspect.Parameter] = (),
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command flags for the settings ``names``, and their ``Settings`` as first argument.

    Args:
        names: public names; those of all settings if none is given.
        check_files: whether credentials and certificates have to be there.
        is_service: only programs read its standard error.
        filters: further flags; the command gets those that were given as its ``filters``.
    """
    settings = [CONFIG_FILE, *(_SETTINGS[name] for name in names or _SETTINGS)]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        def with_flags(**given: Any) -> None:
            flags = {setting.name: given.pop(setting.name) for setting in settings}
            if filters:
                found = {each.name: given.pop(each.name) for each in filters}
                given["filters"] = {name: each for name, each in found.items() if each is not None}
            with exit_codes(early_log_format(flags, is_service=is_service)):
                loaded = Settings.load(flags, check_files=check_files)
                logs.configure(loaded.log_format, loaded.log_level)
                logs.take_all()
                for warning in loaded.warnings:
                    log.warning("%s", warning)
                command(loaded, **given)

        own = list(inspect.signature(command).parameters.values())[1:]
        own = [each for each in own if each.name != "filters"]
        parameters = [*own, *filters, *(_flag(setting) for setting in settings)]
        update_wrapper(with_flags, command)
        # Typer reads both.
        vars(with_flags)["__signature__"] = inspect.Signature(parameters)
        with_flags.__annotations__ = {each.name: each.annotation for each in parameters}
        return with_flags

    return decorate


def keyword(name: str, kind: type, option: Any) -> inspect.Parameter:
    """Return an optional keyword parameter of a command."""
    annotation = Annotated[kind | None, option]  # type: ignore[valid-type]
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
    )


def _flag(setting: Setting) -> inspect.Parameter:
    help_ = setting.description
    if setting.default:
        help_ += f" Default: {setting.default}."
    if setting.secret:
        help_ += f" Other users may see flags: prefer {setting.variable}."
    option = typer.Option(
        f"{setting.flag}/--no-{setting.flag[2:]}" if setting.switch else setting.flag,
        metavar=setting.word,
        help=help_,
        show_default=False,
        rich_help_panel=setting.topic,
    )
    return keyword(setting.name, bool if setting.switch else str, option)


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Give a function that takes how many are done, of how many in all.

    The bar is on standard error, if that is a terminal; what is reported goes past it.
    """
    if not sys.stderr.isatty():
        yield lambda done, total: None  # noqa: ARG005
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def report(content: object, lines: Iterable[str], *, as_json: bool) -> None:
    """Print ``content`` as JSON, or its ``lines`` for a person."""
    for line in [json.dumps(content)] if as_json else lines:
        typer.echo(line)


class Command(TyperCommand):
    """A command whose help reads as prose: without Python's types, and without line ends."""

    def __init__(self, name: str | None, *, help: str | None = None, **more: Any) -> None:  # noqa: A002
        """Join the lines of each paragraph of the help."""
        paragraphs = inspect.cleandoc(help or "").split("\n\n")
        unwrapped = "\n\n".join(" ".join(lines.splitlines()) for lines in paragraphs)
        super().__init__(name, help=unwrapped, **more)

    def get_params(self, ctx: Any) -> Any:
        """Return the parameters for parsing and for the help."""
        return _without_types(super().get_params(ctx))


class Group(TyperGroup):
    """A group of such commands."""

    def get_params(self, ctx: Any) -> Any:
        """Return the parameters for parsing and for the help."""
        return _without_types(super().get_params(ctx))


def _without_types(parameters: list[Any]) -> list[Any]:
    for parameter in parameters:
        if parameter.param_type_name == "argument" or parameter.is_flag:
            vars(parameter)["display_type_rich"] = lambda *, ctx: ""  # noqa: ARG005 - Typer's name
    return parameters
