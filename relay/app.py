"""The composition: the only place that picks adapters and hands settings to them.

``Relay`` is the library's face; ``python -m relay run`` is a thin shell around it.
"""

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import SecretStr

from relay import factlog
from relay.engine.bell import PollOnly
from relay.engine.lead import Engine, Policy
from relay.errors import AlreadyRunning
from relay.facts import FactSink
from relay.otel.export import is_set_up
from relay.ports import EventBus, Outbox, WakeSource
from relay.settings import Settings
from relay.state import Metrics, RelayState, Role

if TYPE_CHECKING:
    from relay.jetstream.options import BusOptions


class Relay:
    """Takes committed events from the outbox to JetStream, until stopped.

        relay = Relay(Settings.load())       # RELAY_* from the environment, else defaults
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(relay.run)
            ...
            relay.stop()

    ``outbox``, ``bus`` and ``wake_source`` stand in for Postgres and NATS: ``relay.memory`` has
    models of them for an application's own tests. Runs on asyncio (psycopg and nats-py do);
    with the models on any backend of anyio. It is measured where the process has providers of
    OpenTelemetry: an application's own, or those of ``relay.otel.export``. ``state`` holds what
    is so now.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        outbox: Outbox | None = None,
        bus: EventBus | None = None,
        wake_source: WakeSource | None = None,
        observer: FactSink | None = None,
    ) -> None:
        """Take the settings; connect to nothing yet.

        ``observer`` is called with every fact of ``relay.facts``, on the loop; it must not block.
        """
        self.state = RelayState()
        self._settings = settings
        self._outbox = outbox
        self._bus = bus
        self._wake_source = wake_source
        self._sinks = factlog.FactSinks([self.state.record, factlog.record])
        if observer is not None:
            self._sinks.add(observer)
        self._engine: Engine | None = None

    async def run(self) -> None:
        """Deliver until ``stop``; outages of either side are waited out.

        Cancelling it is safe: what was not settled is published again by the next run, under the
        same message ids.

        Raises:
            SchemaError, StreamError: a person has to change something first.
            AlreadyRunning: this object has been run before.
        """
        if self._engine is not None:
            raise AlreadyRunning("this Relay was started before; make another one to run again")
        outbox = self._outbox or _outbox(self._settings)
        bus = self._bus = self._bus or _jetstream(self._settings)
        wake_source = self._wake_source or _wake_source(outbox)
        telemetry = None
        if is_set_up():
            from relay.otel.telemetry import Telemetry

            telemetry = Telemetry(outbox, bus, self._sinks.record, self.state)
            self._sinks.add(telemetry.record)
            outbox, bus = telemetry.timed
        self._engine = engine = self._assemble(outbox, bus, wake_source)
        if self.state.role is Role.STOPPING:
            engine.stop()
        await (engine.run() if telemetry is None else telemetry.run(engine.run))

    def stop(self) -> None:
        """Read no more, settle what is in flight, let ``run`` return. Calling it again is fine."""
        self.state.stop()
        if self._engine is not None:
            self._engine.stop()

    def metrics(self) -> Metrics:
        """Return ``delivery_lag_seconds``, ``delivery_rate``, ``undelivered`` and more. Cheap."""
        return self.state.metrics()

    @property
    def is_open(self) -> bool:
        """Whether the lag breaker is open: the oldest undelivered event is too old."""
        return self.metrics()["circuit_breaker"] != "closed"

    @property
    def paths(self) -> Mapping[str, str]:
        """How each stream met so far is published to: ``fast ingest`` or ``windowed``."""
        return {} if self._bus is None else self._bus.paths

    def _assemble(self, outbox: Outbox, bus: EventBus, wake_source: WakeSource) -> Engine:
        settings = self._settings
        return Engine(
            outbox,
            bus,
            wake_source,
            holder=f"{socket.gethostname()}:{os.getpid()}",
            policy=Policy(
                batch_size=settings.batch_size,
                max_batch_size=settings.max_batch_size,
                poll_interval=settings.poll_interval,
                max_retry_delay=settings.max_retry_delay,
                max_attempts=settings.max_attempts,
                retention=settings.retention,
                circuit_breaker_lag=settings.circuit_breaker_lag,
                repair=settings.repair,
            ),
            record=self._sinks.record,
            shutdown_timeout=settings.shutdown_timeout,
        )


def bus_options(settings: Settings) -> "BusOptions":
    """Return what the JetStream adapter needs of the settings."""
    from relay.jetstream.options import BusOptions

    return BusOptions(
        urls=settings.nats_url,
        creds=_path(settings.nats_creds),
        nkey_seed=_secret(settings.nats_nkey_seed),
        user=settings.nats_user,
        password=_secret(settings.nats_password),
        token=_secret(settings.nats_token),
        secret_files=tuple(
            (name.removeprefix("nats_"), str(file))
            for name, file in settings.secret_files.items()
            if name.startswith("nats_")
        ),
        tls_ca=_path(settings.nats_tls_ca),
        tls_cert=_path(settings.nats_tls_cert),
        tls_key=_path(settings.nats_tls_key),
        inbox_prefix=settings.nats_inbox_prefix,
        stream=settings.stream,
        stream_subjects=settings.stream_subjects,
        stream_create=settings.stream_create,
        js_domain=settings.nats_js_domain,
        message_id_prefix=settings.message_id_prefix,
        cloudevents_source=settings.cloudevents_source,
        cloudevents_type=settings.cloudevents_type,
        cloudevents_subject=settings.cloudevents_subject,
        reconcile=settings.repair != "off",
    )


def _secret(value: SecretStr | None) -> str | None:
    return None if value is None else value.get_secret_value()


def _path(value: Path | None) -> str | None:
    return None if value is None else str(value)


# Each adapter is imported when it is picked: the models need neither psycopg nor nats-py.


def _outbox(settings: Settings) -> Outbox:
    from relay.postgres.outbox import PostgresOutbox

    return PostgresOutbox(
        settings.conninfo,
        settings.schema_name,
        page_bytes=settings.max_batch_bytes,
        dead_blocks=settings.on_dead == "block",
        longest_delay=settings.max_retry_delay,
        lease_lifetime=settings.lease_lifetime,
        message_id_prefix=settings.message_id_prefix,
        retention=settings.retention,
    )


def _wake_source(outbox: Outbox) -> WakeSource:
    from relay.postgres.bell import PostgresBell
    from relay.postgres.outbox import PostgresOutbox

    return PostgresBell(outbox) if isinstance(outbox, PostgresOutbox) else PollOnly()


def _jetstream(settings: Settings) -> EventBus:
    from relay.jetstream.bus import JetStreamBus

    return JetStreamBus(bus_options(settings))
