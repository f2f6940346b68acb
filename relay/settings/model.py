"""Every setting, once: its name, kind, bounds, default and description.

Public names are the field names, but for ``schema``, whose attribute is ``schema_name`` because
pydantic owns the other. The environment variable is RELAY_ and the name in capitals, the flag two
dashes and the name with dashes. A combination that can't work is refused like a single value.
"""

import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from relay.core import durations
from relay.errors import SettingsError
from relay.settings import files, kinds, sources
from relay.settings.addresses import Address, Listen
from relay.settings.combinations import at_odds
from relay.settings.described import CONFIG_FILE, describe
from relay.settings.faults import Fault, FaultsError, of_pydantic
from relay.settings.kinds import Written, between


def _time(low: float, high: float) -> AfterValidator:
    return AfterValidator(between(low, high, durations.format))


class Settings(BaseSettings):
    """How a relay works. Immutable; the attributes' units: float seconds, int bytes.

    ``Settings(...)`` takes Python values or their text and looks at nothing else: no environment,
    no file. ``Settings.load`` is the one place that does.

    Raises:
        SettingsError: every fault at once.
    """

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", validate_default=False, hide_input_in_errors=True
    )

    postgres_dsn: kinds.Conninfo | None = Field(
        default=None,
        description="Connection string or URI of the database; without it libpq's PG* variables.",
    )
    schema_name: kinds.SchemaName = Field(
        default="relay", alias="schema", description="Schema that holds the outbox."
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

    poll_interval: Annotated[kinds.Seconds, _time(0.001, 600.0)] = Field(
        default=0.1, description="How often to look for events when nothing wakes the relay."
    )
    batch_size: Annotated[int, AfterValidator(between(1, 10_000)), Written(str, "EVENTS")] = Field(
        default=100, description="Events in the first page after a wake."
    )
    max_batch_size: Annotated[int, AfterValidator(between(1, 10_000)), Written(str, "EVENTS")] = (
        Field(default=2000, description="Events in a page at most; full pages double up to this.")
    )
    max_batch_bytes: Annotated[
        kinds.Size, AfterValidator(between(2**10, 2**30, kinds.write_size))
    ] = Field(default=8 * 2**20, description="Bytes in a page at most; bounds the memory in use.")
    shutdown_timeout: Annotated[kinds.Seconds, _time(0.1, 600.0)] = Field(
        default=8.0, description="How long a stop may wait for what is in flight."
    )

    max_retry_delay: Annotated[kinds.Seconds, _time(0.1, 3600.0)] = Field(
        default=30.0,
        description="Longest pause between tries of what was refused or not answered.",
    )
    max_attempts: Annotated[int, AfterValidator(between(1, 1_000_000)), Written(str, "TIMES")] = (
        Field(
            default=10,
            description="How often an event may be refused before it is dead; outages don't count.",
        )
    )
    on_dead: kinds.OnDead = Field(
        default="skip",
        description="What a dead event does to its key: skip lets later ones pass, block does not.",
    )
    circuit_breaker_lag: Annotated[kinds.Seconds, _time(0.1, 365 * 86_400.0)] = Field(
        default=5.0,
        description="Age of the oldest undelivered event above which the lag breaker opens.",
    )

    http: Listen = Field(
        default=Address("127.0.0.1", 8080),
        description="Where health, metrics and the status page are served, or off.",
    )
    http_token: kinds.HttpToken | None = Field(
        default=None,
        description="Token that lets the status page retry dead events; without it it only shows.",
    )

    log_format: kinds.LogFormat = Field(
        default="auto", description="Form of log lines; auto is text on a terminal, else json."
    )
    log_level: kinds.LogLevel = Field(
        default="info", description="Least level of the log lines to write."
    )

    _warnings: tuple[str, ...] = PrivateAttr(default=())

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the signature is pydantic's
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take the constructor's arguments alone: pydantic's own sources forget their origin."""
        return (init_settings,)

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
            environ: the environment; the process's own unless given.
            check_files: say at once which credentials, certificates or files of secrets can't be
                read. The database's is looked at in any case.

        Raises:
            SettingsError: every fault at once, each with the source it came from.
        """
        described = describe(cls)
        environ = os.environ if environ is None else environ
        given = sources.gather(described, flags, environ, all_files=check_files)
        found = list[Fault]()
        try:
            settings = cls(**given.values)
        except FaultsError as error:
            found = list(error.found)
        if check_files:
            faulty = {fault.name for fault in found}
            unreadable = files.unreadable(given.values)
            found += [fault for fault in unreadable if fault.name not in faulty]
        faults = given.faults + [fault.line(given.origin(fault.name)) for fault in found]
        if faults:
            raise SettingsError(faults)
        settings._warnings = tuple(files.open_to_all(given.secret_files, given.origin))
        return settings

    @property
    def warnings(self) -> tuple[str, ...]:
        """Lines about files that show secrets to every user of this machine.

        Of the files that NATS' log-in needs, the adapter warns when it reads them.
        """
        return self._warnings

    @property
    def conninfo(self) -> str:
        """The connection string in clear, for libpq alone; empty for libpq's PG* variables."""
        return self.postgres_dsn.get_secret_value() if self.postgres_dsn else ""

    @property
    def http_is_asked_for(self) -> bool:
        """Whether somebody named ``http``, or it is the default that counts."""
        return "http" in self.model_fields_set

    @classmethod
    def table(cls) -> list[tuple[str, str, str, str]]:
        """List every setting as (variable, flag, default as text, description), in their order."""
        return [
            (setting.variable, setting.flag, setting.default, setting.description)
            for setting in (*describe(cls), CONFIG_FILE)
        ]

    @model_validator(mode="wrap")
    @classmethod
    def _find_every_fault(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        found = list[Fault]()
        try:
            settings = handler(data)
        except ValidationError as error:
            found = list(of_pydantic(error, describe(cls)))
            # Look at the combinations of what is left, with defaults for the rest.
            faulty = {fault.name for fault in found}
            data = {name: value for name, value in data.items() if name not in faulty}
            settings = handler(data)
        found += at_odds(settings, data, [fault.name for fault in found])
        if found:
            raise FaultsError(found)
        return settings
