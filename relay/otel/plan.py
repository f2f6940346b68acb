"""What the OTEL_* variables ask for. Pure, and without OpenTelemetry: it decides on loading it.

    OTEL_SDK_DISABLED=true        nothing
    OTEL_CONFIG_FILE              what the file says, and nothing else
    OTEL_{TRACES,METRICS}_EXPORTER   these, with commas between; none is nothing
    not set                       otlp, where an OTLP endpoint is set; else nothing
    and besides                   /metrics of RELAY_HTTP, where its library is installed, unless
                                  OTEL_METRICS_EXPORTER names others only

So a newcomer, who sets none of them, pays nothing and hears of no collector that is not there.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

GRPC: Final = "otlp_proto_grpc"
HTTP: Final = "otlp_proto_http"
PROMETHEUS: Final = "prometheus"

_BY_PROTOCOL: Final = {"grpc": GRPC, "http/protobuf": HTTP}
_GRPC_PORT: Final = 4317

Scrape = Callable[[], tuple[bytes, str]]
"""Returns all metrics in Prometheus' format, and their content type."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Which exporters to load; names as their packages register them.

    Attributes:
        traces: for spans.
        metrics: for metrics.
        served: metrics are written for whoever asks /metrics of RELAY_HTTP.
        config_file: OpenTelemetry's own configuration, instead of all that; "" if there is none.
        faults: one line each for a person; what they concern is left out.
    """

    traces: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    served: bool = False
    config_file: str = ""
    faults: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Say whether there is anything to load."""
        return bool(self.traces or self.metrics or self.served or self.config_file)


def plan(environ: Mapping[str, str], *, serving: bool, can_serve: bool) -> Plan:
    """Decide.

    Args:
        environ: the process's environment.
        serving: RELAY_HTTP has an address.
        can_serve: the extra ``prometheus`` is installed.
    """
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return Plan()
    if config_file := environ.get("OTEL_CONFIG_FILE", ""):
        return Plan(config_file=config_file)
    faults = list[str]()
    traces = _exporters(environ, "TRACES", faults)
    metrics = _exporters(environ, "METRICS", faults)
    served = serving and can_serve and not environ.get("OTEL_METRICS_EXPORTER")
    if PROMETHEUS in metrics:
        served = serving and can_serve
        if not can_serve:
            faults.append(
                "OTEL_METRICS_EXPORTER=prometheus needs a library that is not installed:"
                ' pip install "relay-outbox[prometheus]"'
            )
        if served or not can_serve:
            metrics = tuple(name for name in metrics if name != PROMETHEUS)
    return Plan(traces, metrics, served, faults=tuple(faults))


def _exporters(environ: Mapping[str, str], signal: str, faults: list[str]) -> tuple[str, ...]:
    """Name the exporters of one signal."""
    variables = (f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    endpoint = next((environ[name] for name in variables if environ.get(name)), "")
    given = environ.get(f"OTEL_{signal}_EXPORTER", "") or ("otlp" if endpoint else "none")
    names = dict.fromkeys(name.strip() for name in given.split(","))
    found = [_otlp(environ, signal, endpoint, faults) if name == "otlp" else name for name in names]
    return tuple(name for name in found if name not in {"", "none"})


def _otlp(environ: Mapping[str, str], signal: str, endpoint: str, faults: list[str]) -> str:
    """Choose the OTLP exporter: by the protocol that is asked for, else by the port."""
    variables = (f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    for variable in variables:
        if protocol := environ.get(variable, "").strip():
            if protocol not in _BY_PROTOCOL:
                faults.append(f"{variable}={protocol} is none of {', '.join(_BY_PROTOCOL)}")
            return _BY_PROTOCOL.get(protocol, "")
    try:
        port = urlsplit(endpoint if "//" in endpoint else f"//{endpoint}").port
    except ValueError:
        port = None
    return GRPC if port == _GRPC_PORT else HTTP
