"""The providers of traces and metrics, made of OpenTelemetry's SDK and the exporters of a plan.

Imported only where there is something to export: the SDK costs 0.2 s and the gRPC exporter as much
again. The variables that an exporter, a sampler or a reader understands are read by themselves.
"""

import importlib
import logging
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any, Final

from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from relay import __version__
from relay.otel.export import Plan, Scrape

log = logging.getLogger("relay.otel")

SERVICE_NAME: Final = "outbox-relay"
_QUEUE: Final = 8_192
"""Spans that wait for their export, unless OTEL_BSP_MAX_QUEUE_SIZE says otherwise: the SDK's 2,048
are one page of the default size."""


def set_up(wanted: Plan, environ: Mapping[str, str]) -> tuple[list[Any], Scrape | None]:
    """Make the providers and set them for the process; return them, and what /metrics answers."""
    if wanted.config_file:
        _configure(wanted.config_file)
        return [trace.get_tracer_provider(), metrics.get_meter_provider()], None
    resource, providers, scrape = _resource(), list[Any](), None
    if wanted.traces:
        providers.append(_tracer_provider(wanted.traces, resource, environ))
    if wanted.metrics or wanted.served:
        meters, scrape = _meter_provider(wanted, resource)
        providers.append(meters)
    for provider in providers:  # all of them, or none if one can't be made
        if isinstance(provider, TracerProvider):
            trace.set_tracer_provider(provider)
        else:
            metrics.set_meter_provider(provider)
    log.info(
        "telemetry is on",
        extra={
            "traces": ",".join(wanted.traces) or "none",
            "metrics": ",".join((*wanted.metrics, *(["/metrics"] if scrape else []))) or "none",
        },
    )
    return providers, scrape


def _configure(config_file: str) -> None:
    try:
        configuration = importlib.import_module("opentelemetry.configuration")
    except ImportError:
        raise RuntimeError(
            "OTEL_CONFIG_FILE needs a library that is not installed:"
            " pip install opentelemetry-configuration"
        ) from None
    configuration.configure_sdk(configuration.load_config_file(config_file))


def _resource() -> Resource:
    """Describe this process; the variables have the last word."""
    given = Resource.create()  # with an id of this process in service.instance.id
    attributes = dict(given.attributes)
    if str(attributes["service.name"]).startswith("unknown_service"):
        attributes["service.name"] = SERVICE_NAME
    return Resource({"service.version": __version__} | attributes, given.schema_url)


def _tracer_provider(
    names: Sequence[str], resource: Resource, environ: Mapping[str, str]
) -> TracerProvider:
    exporters = [_load("opentelemetry_traces_exporter", name) for name in names]
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    queue = None if "OTEL_BSP_MAX_QUEUE_SIZE" in environ else _QUEUE
    for make in exporters:
        provider.add_span_processor(BatchSpanProcessor(make(), max_queue_size=queue))
    return provider


def _meter_provider(wanted: Plan, resource: Resource) -> tuple[MeterProvider, Scrape | None]:
    exporters = [_load("opentelemetry_metrics_exporter", name) for name in wanted.metrics]
    readers, scrape = list[MetricReader](), None
    for made in [make() for make in exporters]:  # Prometheus' is a reader by itself
        is_reader = isinstance(made, MetricReader)
        readers.append(made if is_reader else PeriodicExportingMetricReader(made))
    if wanted.served:
        reader, scrape = _prometheus()
        readers.append(reader)
    return MeterProvider(readers, resource=resource, shutdown_on_exit=False), scrape


def _prometheus() -> tuple[MetricReader, Scrape]:
    from opentelemetry.exporter.prometheus import PrometheusMetricReader
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

    registry = CollectorRegistry()
    reader = PrometheusMetricReader(registry=registry)
    return reader, lambda: (generate_latest(registry), CONTENT_TYPE_PLAIN_0_0_4)


def _load(group: str, name: str) -> Callable[[], Any]:
    """Load what a package registered under ``name``."""
    for found in entry_points(group=group, name=name):
        loaded: Callable[[], Any] = found.load()
        return loaded
    installed = ", ".join(sorted(entry_points(group=group).names))
    raise LookupError(f"no installed package offers the exporter {name}; there are: {installed}")
