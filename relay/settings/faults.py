"""What is wrong with settings: found by name, said in one line with the source and the remedy.

pydantic's own findings are translated here; a kind's ValueError is taken as it is. The value is
shown only where it can't be a secret: never of a secret, of a key that is no setting (it may be a
misspelt secret), or of anything with an ``@`` in it (a URL with a password)
or more than one line (a key where its path was asked for).
"""

import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from relay.errors import SettingsError
from relay.settings.described import Described

_MOST_SHOWN = 80

# By the beginning of pydantic's name of the finding.
_KINDS: Final = {
    "bool_": "is neither on nor off: write on or off",
    "int_": "is not a whole number: write digits only",
    "string_": "is not text: put it in quotes",
    "path_": "is not a path: put it in quotes",
    "tuple_": "is not a list: write a,b or an array of texts",
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        name: the setting's public name.
        says: the rest of the sentence, with the remedy.
        value: the value as text, or None if it is not to be shown.
    """

    name: str
    says: str
    value: str | None = None

    def line(self, origin: str) -> str:
        """Write the fault for a person; ``origin`` says where the value came from."""
        shown = "" if self.value is None else f" = {self.value}"
        return f"{self.name}{shown} ({origin}) {self.says}"


class FaultsError(SettingsError):
    """The faults by name, for ``Settings.load``, which knows where each value came from."""

    def __init__(self, found: Sequence[Fault]) -> None:
        """Keep the faults; their lines say that the values are an application's arguments."""
        self.found = found
        super().__init__([fault.line("argument") for fault in found])


def shown(value: object) -> str | None:
    """Return ``value`` as it may be shown, on one line, or None if it may hold a secret."""
    text = repr(value)
    if "@" in text or "\\n" in text:
        return None
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"


def of_pydantic(error: ValidationError, settings: Collection[Described]) -> Iterator[Fault]:
    """Translate pydantic's findings about the ``settings``, at most one each."""
    known = [setting.name for setting in settings]
    secret = [setting.name for setting in settings if setting.secret]
    seen = set[str]()
    for found in error.errors(include_url=False):
        name = str(found["loc"][0]) if found["loc"] else "settings"
        if name in seen:
            continue
        seen.add(name)
        if found["type"] == "extra_forbidden":
            yield Fault(name, _unknown(name, found["input"], known))
        else:
            value = None if name in secret else shown(found["input"])
            yield Fault(name, _says(found["type"], found["msg"], found.get("ctx", {})), value)


def alike(name: str, known: Collection[str]) -> str | None:
    """Return the known name that ``name`` was probably meant to be."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
    return near[0] if near else None


def _unknown(name: str, value: object, known: Collection[str]) -> str:
    if isinstance(value, Mapping):
        return "is a table, and settings are flat: write nats_url = … at the top level"
    near = alike(name.lower().replace("-", "_"), known)
    return f"is no setting: did you mean {near}?" if near else "is no setting: take it out"


def _says(kind: str, message: str, context: Mapping[str, Any]) -> str:
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        return f"is not one of {context['expected']}: write one of them"
    for start, says in _KINDS.items():
        if kind.startswith(start):
            return says
    return f"can't be used: {message[:1].lower()}{message[1:]}"
