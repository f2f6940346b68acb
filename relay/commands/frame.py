"""What the commands have in common: flags made from the settings, and exit codes.

Every setting that a command uses is also a flag of it. The flags are made from the settings' own
descriptions, take text, and leave all judgement to ``Settings.load``: one place says what is wrong.

    0    done                       2    usage or settings
    1    failed, or a side is away  3    the schema or the stream is not as required
    130  interrupted

An error of ours is told in lines on standard error; a bug shows its traceback.
"""

import inspect
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import update_wrapper
from typing import Annotated, Any, Final

import typer

from relay.errors import Misconfigured, RelayError, sole
from relay.settings import Settings
from relay.settings.described import CONFIG_FILE, Described, describe
from relay.telemetry import logs

log = logging.getLogger("relay.cli")

INTERRUPTED: Final = 130

_SETTINGS: Final = {setting.name: setting for setting in describe(Settings)}

ALWAYS: Final = ("postgres_dsn", "schema", "log_format", "log_level")
"""The settings of every command that looks at the database."""

NATS: Final = tuple(name for name, setting in _SETTINGS.items() if setting.topic == "NATS")


@contextmanager
def exit_codes() -> Iterator[None]:
    """Tell an error of ours and exit with its code; let anything else through."""
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
            with exit_codes():
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
