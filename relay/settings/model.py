"""Every setting, once: its name, kind, bounds, default and description.

Public names are the field names, but for ``schema``, whose attribute is ``schema_name`` because
pydantic owns the other. The environment variable is RELAY_ and the name in capitals, the flag two
dashes and the name with dashes. A combination that can't work is refused like a single value.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final, Self, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    SecretStr,
    ValidationError,
    model_validator,
)

from relay.core import durations
from relay.errors import SettingsError
from relay.settings import kinds, sources
from relay.settings.faults import Fault, FaultsError, at_odds, of_pydantic
from relay.settings.kinds import Address, Word, between, write

_Events = Annotated[kinds.Count, between(1, 10_000), Word("EVENTS")]


def _time(low: float, high: float) -> Any:
    return between(low, high, durations.format)


class Settings(BaseModel):
    """How a relay works. Immutable; the attributes' units: float seconds, int bytes.

    ``Settings(...)`` takes Python values or their text and looks at nothing else: no environment,
    no file. ``Settings.load`` is the one place that does.

    Raises:
        SettingsError: every fault at once.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    postgres_dsn: kinds.Conninfo | None = Field(
        default=None,
        description="Connection string or URI of the database; without it libpq's PG* variables.",
    )
    postgres_password: kinds.Secret | None = Field(
        default=None, description="Password for Postgres, in the place of postgres_dsn's own."
    )
    schema_name: kinds.SchemaName = Field(
        default="relay", alias="schema", description="Schema that holds the outbox."
    )
    inbox_schema: kinds.SchemaName = Field(
        default="relay", description="Schema that holds a consumer's inbox, in its own database."
    )
    lease_lifetime: Annotated[kinds.Seconds, _time(2.0, 60.0)] = Field(
        default=5.0,
        description="How long a leader that is silent leads; another relay takes over after it.",
    )
    retention: Annotated[kinds.Seconds, _time(1.0, 365 * 86_400.0)] = Field(
        default=900.0,
        description="How long delivered events stay in the outbox before they are deleted.",
    )

    nats_url: kinds.Servers = Field(
        default=("nats://127.0.0.1:4222",),
        description="NATS servers, with commas between; nats:// or tls://, no credentials.",
    )
    nats_creds: kinds.File | None = Field(
        default=None, description="Credentials file of a NATS account's user (JWT and seed)."
    )
    nats_nkey_seed: kinds.Secret | None = Field(
        default=None, description="NKey seed, or the path of a file that holds it."
    )
    nats_user: kinds.Text | None = Field(
        default=None, description="User name for NATS; needs nats_password."
    )
    nats_password: kinds.Secret | None = Field(default=None, description="Password for NATS.")
    nats_token: kinds.Secret | None = Field(default=None, description="Token for NATS.")
    nats_tls_ca: kinds.File | None = Field(
        default=None, description="CA certificates (PEM) that NATS servers must be signed by."
    )
    nats_tls_cert: kinds.File | None = Field(
        default=None, description="Client certificate (PEM) for NATS; needs nats_tls_key."
    )
    nats_tls_key: kinds.File | None = Field(
        default=None, description="Private key (PEM) of nats_tls_cert."
    )
    nats_inbox_prefix: kinds.InboxPrefix = Field(
        default="_INBOX", description="First tokens of the subjects on which NATS answers."
    )
    nats_js_domain: kinds.Domain | None = Field(
        default=None, description="JetStream domain of the streams, or the prefix of its API."
    )

    stream: kinds.StreamName | None = Field(
        default=None,
        description="Stream that takes the events; without it each subject's own stream.",
    )
    stream_subjects: kinds.Subjects = Field(
        default=(), description="Subjects of the stream, with commas between; wildcards allowed."
    )
    stream_create: kinds.Switch = Field(
        default=False, description="Make the stream if it is missing; needs stream_subjects."
    )
    message_id_prefix: kinds.MessageIdPrefix = Field(
        default="",
        description="Stands before every message id, for outboxes that share a stream.",
    )
    cloudevents_source: kinds.Source | None = Field(
        default=None,
        description="URI reference as source, which makes each message a CloudEvent.",
    )
    cloudevents_type: kinds.Template = Field(
        default="{subject}", description="Type of a CloudEvent, by template: {subject}."
    )
    cloudevents_subject: kinds.Template = Field(
        default="{key}", description="Subject of a CloudEvent, by template: {key}, {subject}."
    )

    poll_interval: Annotated[kinds.Seconds, _time(0.001, 600.0)] = Field(
        default=0.1, description="How often to look for events when nothing wakes the relay."
    )
    batch_size: _Events = Field(default=100, description="Events in the first page after a wake.")
    max_batch_size: _Events = Field(
        default=2000, description="Events in a page at most; full pages double up to this."
    )
    max_batch_bytes: Annotated[kinds.Size, between(2**10, 2**30, kinds.write_size)] = Field(
        default=8 * 2**20, description="Bytes in a page at most; bounds the memory in use."
    )
    shutdown_timeout: Annotated[kinds.Seconds, _time(0.1, 600.0)] = Field(
        default=8.0, description="How long a stop may wait for what is in flight."
    )

    max_retry_delay: Annotated[kinds.Seconds, _time(0.1, 3600.0)] = Field(
        default=30.0,
        description="Longest pause between tries of what was refused or not answered.",
    )
    max_attempts: Annotated[kinds.Count, between(1, 1_000_000), Word("TIMES")] = Field(
        default=10,
        description="How often an event may be refused before it is dead; outages don't count.",
    )
    on_dead: kinds.OnDead = Field(
        default="skip",
        description="What a dead event does to its key: skip lets later ones pass, block does not.",
    )
    repair: kinds.Repair = Field(
        default="auto",
        description="What a stream's loss of acknowledged messages leads to: auto publishes them"
        " again, report only says so, off does not look.",
    )
    circuit_breaker_lag: Annotated[kinds.Seconds, _time(0.1, 365 * 86_400.0)] = Field(
        default=5.0,
        description="Age of the oldest undelivered event above which the lag breaker opens.",
    )

    http: kinds.Listen = Field(
        default=Address("127.0.0.1", 8080),
        description="Where health, metrics and the status page are served, or off.",
    )
    http_token: kinds.HttpToken | None = Field(
        default=None,
        description="Token that lets the status page retry dead events;"
        " without it the page only shows.",
    )

    log_format: kinds.LogFormat = Field(
        default="auto", description="Form of log lines; auto is text on a terminal, else json."
    )
    log_level: kinds.LogLevel = Field(
        default="info", description="Least level of the log lines to write."
    )

    _warnings: tuple[str, ...] = PrivateAttr(default=())
    _secret_files: Mapping[str, Path] = PrivateAttr(default_factory=dict)

    @classmethod
    def load(
        cls,
        flags: Mapping[str, object] = MappingProxyType({}),
        environ: Mapping[str, str] | None = None,
        *,
        check_files: bool = True,
    ) -> Self:
        """Gather the settings from flags, environment and the TOML file that ``config`` names.

        Args:
            flags: by public name, ``config`` included; None means not given.
            environ: the process's own environment unless given.
            check_files: a file of NATS or HTTP that can't be read is a fault; Postgres' always is.

        Raises:
            SettingsError: every fault at once, each with the source it came from.
        """
        secrets = [setting.name for setting in SETTINGS if setting.secret]
        given = sources.gather(
            [setting.name for setting in SETTINGS],
            flags,
            os.environ if environ is None else environ,
            secrets=secrets,
            timed=[setting.name for setting in SETTINGS if setting.timed],
            required=secrets if check_files else ["postgres_dsn", "postgres_password"],
        )
        found = list[Fault]()
        try:
            settings = cls(**given.values)
        except FaultsError as error:
            found = list(error.found)
        if check_files:
            faulty = {fault.name for fault in found}
            found += [fault for fault in given.unreadable() if fault.name not in faulty]
        faults = given.faults + [fault.line(given.origin(fault.name)) for fault in found]
        if faults:
            raise SettingsError(faults)
        settings._warnings = tuple(given.warnings())
        settings._secret_files = given.lasting_files()
        return settings

    @property
    def warnings(self) -> tuple[str, ...]:
        """Lines about secrets' files that every user can read; the adapter names NATS' own."""
        return self._warnings

    @property
    def secret_files(self) -> Mapping[str, Path]:
        """The files that secrets came from, by name: whoever uses a secret reads its file anew."""
        return self._secret_files

    @property
    def conninfo(self) -> str:
        """The connection string in clear, for libpq alone; empty for libpq's PG* variables."""
        return sources.conninfo(self.postgres_dsn, self.postgres_password, self._secret_files)

    @property
    def http_is_asked_for(self) -> bool:
        """Whether somebody named ``http``, or it is the default that counts."""
        return "http" in self.model_fields_set

    @classmethod
    def table(cls) -> list[tuple[str, str, str, str]]:
        """List every setting as (variable, flag, default as text, description), in their order."""
        return [
            (setting.variable, setting.flag, setting.default, setting.description)
            for setting in (*SETTINGS, CONFIG_FILE)
        ]

    @model_validator(mode="wrap")
    @classmethod
    def _find_every_fault(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        found = list[Fault]()
        try:
            settings = handler(data)
        except ValidationError as error:
            secrets = [setting.name for setting in SETTINGS if setting.secret]
            found = list(of_pydantic(error, [setting.name for setting in SETTINGS], secrets))
            # Look at the combinations of what is left, with defaults for the rest.
            faulty = {fault.name for fault in found}
            data = {name: value for name, value in data.items() if name not in faulty}
            settings = handler(data)
        found += at_odds(settings, data, [fault.name for fault in found])
        if found:
            raise FaultsError(found)
        return settings


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting as people see it; its name is also its key in a TOML file.

    ``word`` stands for a value, such as DURATION; ``default`` is text, empty if there is none.
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
        return sources.variable(self.name)

    @property
    def flag(self) -> str:
        """Its flag, without the ``--no-`` form of a switch."""
        return sources.flag(self.name)


_FIRST_OF_TOPIC: Final = {
    "postgres_dsn": "Postgres",
    "nats_url": "NATS",
    "stream": "Stream",
    "poll_interval": "Pace",
    "max_retry_delay": "Failure",
    "http": "HTTP",
    "log_format": "Logs",
}


def _described() -> Iterator[Setting]:
    topic = ""
    for attribute, field in Settings.model_fields.items():
        name = field.alias or attribute
        topic = _FIRST_OF_TOPIC.get(name, topic)
        markers = [*_markers(field.annotation), *field.metadata]
        words = [marker.text for marker in markers if isinstance(marker, Word)]
        word = words[0] if words else "|".join(get_args(field.annotation))  # of a Literal
        yield Setting(
            name,
            topic,
            word,
            write(field.default, word),
            field.description or "",
            secret=SecretStr in markers,
            switch=bool in markers,
            timed=float in markers,
        )


def _markers(annotation: Any) -> Iterator[Any]:
    """Yield the parts of a kind: a setting that may be None has them one level down."""
    yield annotation
    for part in get_args(annotation):
        yield part
        yield from getattr(part, "__metadata__", ())
        yield from get_args(part)[:1]


SETTINGS: Final = tuple(_described())
"""All settings, in the order in which people meet them, without ``config``."""

CONFIG_FILE: Final = Setting(
    sources.CONFIG,
    "Settings",
    "FILE",
    "",
    "TOML file of settings: these names in lower case, no dashes.",
)
