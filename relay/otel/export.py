"""OpenTelemetry's SDK for this process, set up as the OTEL_* variables ask, and shut down in time.

    OTEL_SDK_DISABLED=true           nothing
    OTEL_CONFIG_FILE                 what the file says, and nothing else
    OTEL_{TRACES,METRICS}_EXPORTER   these, with commas between; none is nothing
    not set                          otlp, where an OTLP endpoint is set; else nothing
    and besides                      /metrics of RELAY_HTTP, where its library is installed, unless
                                     OTEL_METRICS_EXPORTER names others only

Where nothing is asked for nothing of OpenTelemetry is imported. Where the process has providers
already, an application's or those of opentelemetry-instrument, they stay as they are.

The exporters work in daemon threads: a collector that is slow, dead or was never there costs its
points and spans, not a delivery and not the exit. A variable that can't be obeyed is an error line,
never a relay that does not deliver.
"""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Final
from urllib.parse import urlsplit

log = logging.getLogger("relay.otel")

FLUSH_WITHIN: Final = 1.25
"""Seconds, for spans and metrics together. Left alone, the SDK would wait for 12 s and more."""

GRPC: Final = "otlp_proto_grpc"
HTTP: Final = "otlp_proto_http"
_BY_PROTOCOL: Final = {"grpc": GRPC, "http/protobuf": HTTP}
_GRPC_PORT: Final = 4317
_PROMETHEUS: Final = "opentelemetry.exporter.prometheus"
_API: Final = ("opentelemetry.trace", "opentelemetry.metrics")

Scrape = Callable[[], tuple[bytes, str]]
"""Returns all metrics in Prometheus' format, and their content type."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Which exporters to load, by the names under which their packages register them.

    Attributes:
        served: /metrics of RELAY_HTTP answers with the metrics.
        config_file: OpenTelemetry's own configuration, instead of all that; "" if there is none.
        faults: one line each for a person; what they concern is left out.
    """

    traces: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    served: bool = False
    config_file: str = ""
    faults: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Whether there is anything to load."""
        return bool(self.traces or self.metrics or self.served or self.config_file)


@contextmanager
def exported(*, serving: bool, environ: Mapping[str, str] = os.environ) -> Iterator[Scrape | None]:
    """Export what is measured in the block; ``serving`` says that RELAY_HTTP has an address.

    Yields what /metrics answers; None where it is not to be served.
    """
    wanted = plan(environ, serving=serving, can_serve=_is_installed(_PROMETHEUS))
    for fault in wanted.faults:
        log.error("telemetry: %s", fault)
    if not wanted or is_set_up():
        yield None
        return
    providers, scrape = list[Any](), None
    try:
        from relay.otel.providers import set_up

        providers, scrape = set_up(wanted, environ)
    except Exception as error:  # noqa: BLE001 - whatever an exporter's package raises
        log.error(  # noqa: TRY400 - it is the environment's fault, not a bug
            "telemetry can't be set up: delivery goes on without it",
            extra={"reason": f"{type(error).__name__}: {error}"},
        )
    try:
        yield scrape
    finally:
        _shut_down(providers)


def is_set_up() -> bool:
    """Whether this process has providers of traces or metrics. Imports nothing."""
    if not any(module in sys.modules for module in _API):
        return False
    from opentelemetry import metrics, trace

    return is_real(trace.get_tracer_provider()) or is_real(metrics.get_meter_provider())


def is_real(provider: object) -> bool:
    """Whether ``provider`` is more than the API's own, which does nothing."""
    return not type(provider).__module__.startswith(_API)


def plan(environ: Mapping[str, str], *, serving: bool, can_serve: bool) -> Plan:
    """Decide what to load; ``can_serve`` says that the extra ``prometheus`` is installed."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return Plan()
    if config_file := environ.get("OTEL_CONFIG_FILE", ""):
        return Plan(config_file=config_file)
    faults = list[str]()
    traces = _exporters(environ, "TRACES", faults)
    metrics = _exporters(environ, "METRICS", faults)
    served = serving and can_serve and not environ.get("OTEL_METRICS_EXPORTER")
    if "prometheus" in metrics:
        served = serving and can_serve
        if not can_serve:
            faults.append(
                "OTEL_METRICS_EXPORTER=prometheus needs a library that is not installed:"
                ' pip install "relay-outbox[prometheus]"'
            )
        if served or not can_serve:
            metrics = tuple(name for name in metrics if name != "prometheus")
    return Plan(traces, metrics, served, faults=tuple(faults))


def _exporters(environ: Mapping[str, str], signal: str, faults: list[str]) -> tuple[str, ...]:
    variables = (f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    endpoint = next((environ[name] for name in variables if environ.get(name)), "")
    given = environ.get(f"OTEL_{signal}_EXPORTER", "") or ("otlp" if endpoint else "none")
    names = dict.fromkeys(name.strip() for name in given.split(","))
    found = [_otlp(environ, signal, endpoint, faults) if name == "otlp" else name for name in names]
    return tuple(name for name in found if name not in {"", "none"})


def _otlp(environ: Mapping[str, str], signal: str, endpoint: str, faults: list[str]) -> str:
    """Choose the OTLP exporter: by the protocol that is asked for, else by the port."""
    for variable in (f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        if protocol := environ.get(variable, "").strip():
            if protocol not in _BY_PROTOCOL:
                faults.append(f"{variable}={protocol} is none of {', '.join(_BY_PROTOCOL)}")
            return _BY_PROTOCOL.get(protocol, "")
    try:
        port = urlsplit(endpoint if "//" in endpoint else f"//{endpoint}").port
    except ValueError:
        port = None
    return GRPC if port == _GRPC_PORT else HTTP


def _shut_down(providers: Sequence[Any]) -> None:
    """Flush and shut down all at once, and wait no longer than ``FLUSH_WITHIN``."""

    def shut_down(provider: Any) -> None:
        with suppress(Exception):  # it has logged what it could not send
            provider.shutdown()

    threads = [
        threading.Thread(target=shut_down, args=(each,), name="relay telemetry", daemon=True)
        for each in providers
        if hasattr(each, "shutdown")
    ]
    deadline = time.monotonic() + FLUSH_WITHIN
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))


def _is_installed(module: str) -> bool:
    """Whether ``module`` can be imported; imports its parents alone."""
    try:
        return find_spec(module) is not None
    except ImportError:
        return False
