"""The flags by which people say which events they mean, and what those flags can't be."""

import getpass
import inspect
import os
import re
import socket
from collections.abc import Callable, Mapping
from functools import update_wrapper
from typing import Annotated, Any, Final

import typer

from relay.core import durations
from relay.settings import Settings

_PANEL: Final = "Which events"
_ID: Final = re.compile(r"[0-9]{1,30}")
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_LARGEST_ID: Final = 2**63 - 1
_LONGEST_BY: Final = 200


def _seconds(text: str) -> float:
    try:
        return durations.parse(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} {error}") from None


def _pattern(text: str) -> str:
    tokens = text.split(".")
    if not all(tokens) or ">" in tokens[:-1]:
        raise typer.BadParameter(
            f"{text!r} is no subject: tokens joined by dots, * for one token, a last > for the rest"
        )
    return text


def _ref(text: str) -> str:
    if _ID.fullmatch(text) and int(text) <= _LARGEST_ID:
        return text.lstrip("0") or "0"
    if _UUID.fullmatch(text):
        return text.lower()
    raise typer.BadParameter(f"{text!r} is neither an event's id (a number) nor its UUID")


def _who(text: str) -> str:
    if not text.strip() or len(text) > _LONGEST_BY:
        raise typer.BadParameter(f"say who decides, in 1 to {_LONGEST_BY} characters")
    return text.strip()


def me() -> str:
    """Return who runs this process, as user@host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"[:_LONGEST_BY]


def _filter(name: str, kind: type, help_: str, **more: Any) -> inspect.Parameter:
    flag = f"--{name.replace('_', '-')}"
    option = typer.Option(flag, help=help_, show_default=False, rich_help_panel=_PANEL, **more)
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, option],
    )


_FILTERS: Final = (
    _filter(
        "subject",
        str,
        "Of this subject; * stands for one token, a last > for the rest.",
        parser=_pattern,
        metavar="PATTERN",
    ),
    _filter("key", str, "Of exactly this key."),
    _filter(
        "older_than",
        float,
        "Dead for longer than this, such as 15min.",
        parser=_seconds,
        metavar="DURATION",
    ),
    _filter(
        "newer_than", float, "Dead for at most this long.", parser=_seconds, metavar="DURATION"
    ),
    _filter("error", str, "Whose last error contains this, in upper or lower case."),
    _filter(
        "error_regex",
        str,
        "Whose last error matches this regular expression of Postgres.",
        metavar="REGEX",
    ),
    _filter("code", int, "Whose last error has this err_code of JetStream's."),
)


def with_filters(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command a flag for each filter, and those that were given as its ``filters``."""
    names = [parameter.name for parameter in _FILTERS]

    def filtering(settings: Settings, **given: Any) -> None:
        filters = {name: given.pop(name) for name in names}
        given["filters"] = {name: value for name, value in filters.items() if value is not None}
        command(settings, **given)

    own = [
        each for each in inspect.signature(command).parameters.values() if each.name != "filters"
    ]
    update_wrapper(filtering, command)
    vars(filtering)["__signature__"] = inspect.Signature([*own, *_FILTERS])
    return filtering


Filters = Mapping[str, Any]
"""Those that were given, by the names that ``Wanted`` has for them."""

Ref = Annotated[str, typer.Argument(help="An event's id, or its UUID.", parser=_ref, metavar="ID")]
Refs = Annotated[
    list[str] | None,
    typer.Argument(
        help="Ids or UUIDs of dead events.", parser=_ref, metavar="ID...", show_default=False
    ),
]
Everything = Annotated[
    bool,
    typer.Option("--all", help="All dead events.", show_default=False, rich_help_panel=_PANEL),
]
By = Annotated[
    str | None,
    typer.Option(
        "--by",
        help="Who decides, for the audit. Default: user@host.",
        show_default=False,
        parser=_who,
        metavar="NAME",
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else.")]


def check_one_way(refs: Refs, filters: Filters, *, everything: bool) -> None:
    """See that whom a decision is about is said in exactly one way."""
    if bool(refs) + bool(filters) + everything != 1:
        raise typer.BadParameter(
            "say whom you mean in one way: by ids, by filters such as --subject, or by --all"
        )
