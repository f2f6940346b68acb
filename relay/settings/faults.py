"""What is wrong with settings: found by name, said in one line with the source and the remedy.

pydantic's own findings are translated here; a kind's ValueError is taken as it is. The value is
shown only where it can't be a secret: never of a secret, of a key that is no setting (it may be a
misspelt secret), of anything with an ``@`` in it (a URL with a password), or of more than one line
(a key where its path was asked for).
"""

import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pydantic import SecretStr, ValidationError

from relay.errors import SettingsError

if TYPE_CHECKING:
    from relay.settings.model import Settings

_MOST_SHOWN = 80

# By the beginning of pydantic's name of the finding.
_KINDS: Final = {
    "bool_": "is neither on nor off: write on or off",
    "int_": "is not a whole number: write digits only",
    "string_": "is not text: put it in quotes",
    "path_": "is not a path: put it in quotes",
    "tuple_": "is not a list: write a,b or an array of texts",
}
_LOGINS: Final = ("nats_creds", "nats_nkey_seed", "nats_user", "nats_token")


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong: a sentence about a name, with the remedy.

    ``value`` is the value as text, or None if it is not to be shown.
    """

    name: str
    says: str
    value: str | None = None

    def line(self, origin: str) -> str:
        """Write the fault for a person; ``origin`` says where the value came from."""
        value = "" if self.value is None else f" = {self.value}"
        return f"{self.name}{value} ({origin}) {self.says}"


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


def alike(name: str, names: Collection[str]) -> str | None:
    """Return the one of ``names`` that ``name`` was probably meant to be."""
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.8)
    return near[0] if near else None


def of_pydantic(
    error: ValidationError, names: Collection[str], secrets: Collection[str]
) -> Iterator[Fault]:
    """Translate pydantic's findings, at most one for each setting; ``names`` are all settings."""
    done = set[str]()
    for found in error.errors(include_url=False):
        name = str(found["loc"][0]) if found["loc"] else "settings"
        if name in done:
            continue
        done.add(name)
        if found["type"] == "extra_forbidden":
            yield Fault(name, _unknown(name, found["input"], names))
        else:
            value = None if name in secrets else shown(found["input"])
            yield Fault(name, _says(found["type"], found["msg"], found.get("ctx", {})), value)


def _unknown(name: str, value: object, names: Collection[str]) -> str:
    if isinstance(value, Mapping):
        return "is a table, and settings are flat: write nats_url = … at the top level"
    near = alike(name.lower().replace("-", "_"), names)
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


def at_odds(
    settings: "Settings", given: Mapping[str, object], faulty: Collection[str]
) -> Iterator[Fault]:
    """Find the combinations that can't work, but for those with a name that is ``faulty`` already.

    ``given`` are the values as they were given, by public name; the fault has the first of its
    names that is among them.
    """
    for names, is_broken, says in _combinations(settings):
        if is_broken and not set(names) & set(faulty):
            name = next(name for name in names if name in given)
            secret = isinstance(getattr(settings, name), SecretStr)
            yield Fault(name, says, None if secret else shown(given[name]))
    logins = [name for name in _LOGINS if getattr(settings, name) is not None]
    if len(logins) > 1:
        yield Fault(logins[0], f"is one login of several: keep one of {', '.join(logins)}")


def _combinations(settings: "Settings") -> Iterator[tuple[tuple[str, ...], bool, str]]:
    """Yield the names that take part, whether they can't work together, and the fault."""
    yield (
        ("nats_user", "nats_password"),
        (settings.nats_user is None) != (settings.nats_password is None),
        "is only half of a login: set nats_user and nats_password, or neither",
    )
    yield (
        ("nats_tls_cert", "nats_tls_key"),
        (settings.nats_tls_cert is None) != (settings.nats_tls_key is None),
        "is only half of a certificate: set nats_tls_cert and nats_tls_key, or neither",
    )
    yield (
        ("batch_size", "max_batch_size"),
        settings.batch_size > settings.max_batch_size,
        "makes batch_size larger than max_batch_size: lower the first or raise the second",
    )
    yield (
        ("stream_subjects", "stream"),
        bool(settings.stream_subjects) and settings.stream is None,
        "is for no stream: set stream, too",
    )
    yield (
        ("stream_create", "stream"),
        settings.stream_create and settings.stream is None,
        "names no stream to make: set stream, too",
    )
    yield (
        ("stream_create", "stream_subjects"),
        settings.stream_create and not settings.stream_subjects,
        "can't make a stream without subjects: set stream_subjects, too",
    )
    for name in ("cloudevents_type", "cloudevents_subject"):
        yield (
            (name, "cloudevents_source"),
            settings.cloudevents_source is None
            and getattr(settings, name) != type(settings).model_fields[name].default,
            "is for no CloudEvents: set cloudevents_source, too",
        )
    yield (
        ("cloudevents_type",),
        "{key}" in settings.cloudevents_type,
        "names a key, which some events lack, and every CloudEvent has a type: leave {key} out",
    )
