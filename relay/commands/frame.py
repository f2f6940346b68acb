"""What the commands have in common: flags made from the settings, and exit codes.

Every setting that a command uses is also a flag of it. The flags are made from the settings' own
descriptions, take text, and leave all judgement to ``Settings.load``: one place says what is wrong.

    0    done                       2    usage or settings
    1    failed, or a side is away  3    the schema or the stream is not as required
    130  interrupted

An error of ours is told in lines on standard error, a bug with its traceback. Where that is the
service's log (``run``), or log_format says so, each of them is a JSON line like all others.
"""

import inspect
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import update_wrapper
from typing import Annotated, Any, Final, cast

import typer

from relay import logs
from relay.errors import Misconfigured, RelayError, sole
from relay.logformat import without_rows
from relay.settings import Settings
from relay.settings.described import CONFIG_FILE, Described, describe
from relay.settings.sources import gather

log = logging.getLogger("relay.cli")

INTERRUPTED: Final = 130

_SETTINGS: Final = {setting.name: setting for setting in describe(Settings)}

ALWAYS: Final = ("postgres_dsn", "schema", "log_format", "log_level")
"""The settings of every command that looks at the database."""

NATS: Final = tuple(name for name, setting in _SETTINGS.items() if setting.topic == "NATS")


@contextmanager
def exit_codes(log_format: str = "text") -> Iterator[None]:
    """FactSink what went wrong and exit with its code; what is no error is let through.

    Args:
        log_format: in which form it is told, as the setting of this name.
    """
    try:
        yield
    except (typer.Exit, typer.Abort, typer.BadParameter):
        raise
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BaseExceptionGroup as group:
        if group.subgroup(KeyboardInterrupt) is not None:
            sys.exit(INTERRUPTED)
        sys.exit(_record(sole(group), log_format))
    except Exception as error:  # noqa: BLE001 - told below, and the exit code is 1
        sys.exit(_record(error, log_format))


def _record(error: BaseException, log_format: str) -> int:
    if not isinstance(error, RelayError):
        _log_anew(log_format)
        log.critical("ended by a bug: please report it", exc_info=error)
        return 1
    code = error.exit_code if isinstance(error, Misconfigured) else 1
    lines = without_rows(str(error)).splitlines() or [type(error).__name__]
    if logs.is_json(log_format, sys.stderr):
        _log_anew(log_format)
        for line in lines:
            log.critical("%s", line, extra={"exit_code": code})
    else:
        for line in lines:
            typer.echo(f"relay: {line}", err=True)
    return code


def _log_anew(log_format: str) -> None:
    """Log to standard error in this form, whatever was set up before, or nothing was."""
    logs.configure(cast("Any", log_format), "info")


def _format_of(flags: Mapping[str, object], *, is_service: bool) -> str:
    """Return the form of log lines, as far as it is known before the settings are judged."""
    asked = gather(list(_SETTINGS.values()), flags, os.environ).values.get("log_format", "auto")
    form = str(asked).lower()
    return form if form in {"text", "json"} or is_service else "text"


def with_settings(
    *names: str, check_files: bool = True, is_service: bool = False
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command flags for the settings ``names``, and their ``Settings`` as first argument.

    Args:
        names: public names; those of all settings if none is given.
        check_files: whether credentials and certificates have to be there.
        is_service: nobody looks at its standard error but whoever collects log lines.
    """
    settings = [_SETTINGS[name] for name in names or _SETTINGS]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        def with_flags(**given: Any) -> None:
            flags = {setting.name: given.pop(setting.name) for setting in (*settings, CONFIG_FILE)}
            with exit_codes(_format_of(flags, is_service=is_service)):
                loaded = Settings.load(flags, check_files=check_files)
                logs.configure(loaded.log_format, loaded.log_level)
                logs.take_all()
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
