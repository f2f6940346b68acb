"""How settings are shown to people: by topic and in order, with defaults as text.

The flags of the command line, the table of ``Settings.table()`` and nothing else derive from this;
the model stays authoritative for every value that is shown.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, get_args

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from relay.settings.kinds import Written

PREFIX: Final = "RELAY_"
CONFIG: Final = "config"
"""The one setting that only says where others are."""

FILE: Final = "_file"
"""Behind a secret's name: the file that holds it, in the environment or the TOML file."""

TOPICS: Final = {
    "Postgres": ("postgres_dsn", "schema", "lease_lifetime", "retention"),
    "NATS": (
        "nats_url",
        "nats_creds",
        "nats_nkey_seed",
        "nats_user",
        "nats_password",
        "nats_token",
        "nats_tls_ca",
        "nats_tls_cert",
        "nats_tls_key",
        "nats_inbox_prefix",
        "nats_js_domain",
    ),
    "Stream": ("stream", "stream_subjects", "stream_create", "message_id_prefix"),
    "Pace": (
        "poll_interval",
        "batch_size",
        "max_batch_size",
        "max_batch_bytes",
        "shutdown_timeout",
    ),
    "Failure": ("max_retry_delay", "max_attempts", "on_dead", "circuit_breaker_lag"),
    "HTTP": ("http", "http_token"),
    "Logs": ("log_format", "log_level"),
}
"""The public names by topic, in the order in which people meet them."""


def variable(name: str) -> str:
    """Return a setting's environment variable."""
    return f"{PREFIX}{name.upper()}"


def flag(name: str) -> str:
    """Return a setting's flag."""
    return f"--{name.replace('_', '-')}"


@dataclass(frozen=True, slots=True)
class Described:
    """One setting as people see it.

    Attributes:
        name: its public name, which is also its key in a TOML file.
        topic: what it belongs to.
        word: what stands for a value, such as DURATION.
        default: the default as text; empty if there is none.
        description: one line.
        secret: its value must not be shown.
        switch: it is on or off.
        timed: it is a duration.
    """

    name: str
    topic: str
    word: str
    default: str
    description: str
    secret: bool = False
    switch: bool = False
    timed: bool = False

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return variable(self.name)

    @property
    def flag(self) -> str:
        """Its flag, without the ``--no-`` form of a switch."""
        return flag(self.name)


CONFIG_FILE: Final = Described(
    CONFIG, "Settings", "FILE", "", "TOML file of settings: these names in lower case, no dashes."
)


def describe(model: type[BaseModel]) -> list[Described]:
    """Describe every setting of ``model``, in the order of ``TOPICS``."""
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    return [
        _described(name, topic, fields[name]) for topic, names in TOPICS.items() for name in names
    ]


def _described(name: str, topic: str, field: FieldInfo) -> Described:
    markers = [field.annotation, *_markers(field.annotation), *field.metadata]
    written = next(marker for marker in markers if isinstance(marker, Written))
    return Described(
        name,
        topic,
        written.word,
        "" if field.default is None else written.text(field.default),
        field.description or "",
        secret=SecretStr in markers,
        switch=bool in markers,
        timed=float in markers,
    )


def _markers(annotation: object) -> Iterator[Any]:
    # An optional setting carries its kind one level down: Annotated[kind, ...] | None.
    for part in _parts(annotation):
        yield part
        yield from _parts(part)


def _parts(annotation: object) -> Sequence[Any]:
    metadata = getattr(annotation, "__metadata__", ())
    return (*get_args(annotation)[:1], *metadata) if metadata else get_args(annotation)
